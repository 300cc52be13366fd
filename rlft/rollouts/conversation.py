"""A conversation under way: who has said which tokens, how much room is left, and turns that are written beside it."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import Draw, Generation
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory


@dataclass(frozen=True, slots=True)
class Written:
    """A turn of the model, as text."""

    text: str
    """Without the token that stopped it."""
    stopped: bool
    """False if its token cap cut it."""


class Conversation:
    """Prompt and segments of a trajectory, and the room left for more.

    Args:
        frame: the chat template.
        prompt_ids: where it begins.
        max_tokens: cap on prompt and segments together.
    """

    def __init__(self, frame: ChatFrame, prompt_ids: list[int], max_tokens: int) -> None:
        self.frame, self.prompt_ids = frame, prompt_ids
        self.segments: list[Segment] = []
        self.ids = list(prompt_ids)
        self.room = max_tokens - len(prompt_ids)

    def reply_ids(self, user_text: str) -> list[int]:
        """Ids that would end the model's turn, say `user_text` and begin its next turn."""
        return self.frame.reply(user_text, self.ids)

    def tell(self, ids: list[int], label: str) -> None:
        """Append a turn of the environment."""
        self._append(Segment(ids, trainable=False, label=label))

    def write(self, label: str, seed: int, max_new_tokens: int) -> Generator[Draw, Generation, Written]:
        """Let the model write its turn."""
        generation = yield Draw(list(self.ids), seed, max_new_tokens)
        self._append(Segment(generation.ids, trainable=True, label=label, logprobs=generation.logprobs))
        said = generation.ids[:-1] if generation.stopped else generation.ids
        return Written(self.frame.decode(said), generation.stopped)

    def _append(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.ids += segment.ids
        self.room -= len(segment.ids)


def aside(
    frame: ChatFrame, prompt_ids: Sequence[int], label: str, seed: int, max_new_tokens: int, **fields: Any
) -> Generator[Draw, Generation, tuple[Written, Trajectory]]:
    """Ask the model something outside the main conversation.

    Args:
        frame: the chat template.
        prompt_ids: what it is asked, from `frame.opening`.
        label: of the turn it writes.
        seed: of the draw.
        max_new_tokens: cap on its turn.
        **fields: of the branch.

    Returns:
        What it wrote, and the same as a trajectory, to stand among the `branches` of the main one.
    """
    talk = Conversation(frame, list(prompt_ids), len(prompt_ids) + max_new_tokens)
    written = yield from talk.write(label, seed, max_new_tokens)
    finish = FinishReason.STOP if written.stopped else FinishReason.LENGTH
    return written, Trajectory(talk.prompt_ids, talk.segments, finish, dict(fields))
