"""The generator of DRO: a model reads the chosen passages in their order and answers.

Paper: "Direct Retrieval-augmented Optimization", arXiv 2505.03075, section 3.1: p(y | x, d_z), where d_z are the K
passages of a list in the order of the list, numbered anew from 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlft.rollouts.conversation import Conversation
from rlft.rollouts.engine import Machine, run
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.list_text import PASSAGE, check_counts, check_templates, passages_of
from rlft.rollouts.policy import Policy, Sampling, seed_of
from rlft.rollouts.search import question_of
from rlft.rollouts.search_text import fill, listed
from rlft.rollouts.trajectory import FinishReason, Trajectory

INSTRUCTION = """\
Answer the question with the help of the passages, the most useful of which comes first.

{passages}

Question: {question}
Answer in as few words as possible, without explanation."""
CLOSED_BOOK = "Answer the question in as few words as possible, without explanation.\nQuestion: {question}"


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """Caps and templates. `{question}` and the like are replaced as they stand; other braces are text.

    Raises:
        ValueError: on a cap below 1, or a template without what it has to show.
    """

    instruction: str = INSTRUCTION
    """The user turn: `{passages}`, `{question}`."""
    passage: str = PASSAGE
    """One passage: `{n}` from 1, `{title}`, `{text}`."""
    closed_book: str = CLOSED_BOOK
    """The user turn where there are no passages: `{question}`."""
    max_answer_tokens: int = 64
    """Also kept free for a gold answer."""
    max_tokens: int = 8192
    """Cap on prompt and answer together."""

    def __post_init__(self) -> None:
        check_counts(self)
        needed = {"instruction": ("{passages}", "{question}"), "passage": ("{text}",), "closed_book": ("{question}",)}
        check_templates(self, needed)


def reading_prompt(
    frame: ChatFrame, question: str, passages: Sequence[Any], options: ReadingOptions, name: object
) -> list[int]:
    """Ids of the conversation up to where the answer begins.

    Args:
        frame: the chat template.
        question: as the row has it.
        passages: `Passage` objects or `{id, title, text}`, best first; numbered from 1 in this order. None of them
            asks the question without passages (`closed_book`).
        options: caps and templates.
        name: the row's id, for messages.

    Raises:
        ValueError: for an empty question, what is no passage, or a prompt that leaves less than `max_answer_tokens` of
            `max_tokens`, with the row's id.
    """
    asked = frame.neutral(question_of({"id": name, "question": question}))
    shown = frame.neutral(listed(passages_of(passages, name), options.passage))
    template = options.instruction if passages else options.closed_book
    prompt_ids = frame.opening(fill(template, {"question": asked, "passages": shown}))
    room = options.max_tokens - options.max_answer_tokens
    if len(prompt_ids) > room:
        raise ValueError(
            f"row {name!r}: its prompt with {len(passages)} passages has {len(prompt_ids)} tokens, and "
            f"max_tokens={options.max_tokens} less max_answer_tokens={options.max_answer_tokens} leaves {room}; raise "
            "max_tokens, or give fewer or shorter passages."
        )
    return prompt_ids


@dataclass(frozen=True)
class AnswerRollout:
    """Answers from given passages as a rollout plug-in: `rollout(rows, policy, sampling) -> list[Trajectory]`.

    Args:
        frame: the chat template.
        options: caps and templates.
        seed: of the run.
        round: names the draw within the run.

    A row holds `question`, `passages` (as `reading_prompt` takes them) and `id` (the question, where absent). Its
    trajectory has one segment, `answer`, and the fields `id`, `answer` (text) and `answer_cut` (whether the cap cut it;
    `finish` is LENGTH then).

    Raises:
        ValueError: as `reading_prompt`, before anything is generated.
    """

    frame: ChatFrame
    options: ReadingOptions = ReadingOptions()
    seed: int = 0
    round: object = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]], policy: Policy, sampling: Sampling) -> list[Trajectory]:
        """A trajectory for each row, in order."""
        return run([self._machine(row, self._prompt(row)) for row in rows], policy, sampling)

    def _prompt(self, row: Mapping[str, Any]) -> list[int]:
        name = row.get("id", question_of(row))
        if "passages" not in row:
            raise ValueError(f"row {name!r} has no passages; give an empty list to ask without any.")
        return reading_prompt(self.frame, row["question"], row["passages"], self.options, name)

    def _machine(self, row: Mapping[str, Any], prompt_ids: list[int]) -> Machine:
        name, cap = row.get("id", row["question"]), self.options.max_answer_tokens
        talk = Conversation(self.frame, prompt_ids, len(prompt_ids) + cap)
        written = yield from talk.write("answer", seed_of(self.seed, self.round, name), cap)
        finish = FinishReason.STOP if written.stopped else FinishReason.LENGTH
        fields = {"id": name, "answer": written.text.strip(), "answer_cut": not written.stopped}
        return Trajectory(prompt_ids, talk.segments, finish, fields)
