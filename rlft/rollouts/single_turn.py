"""The smallest rollout, and the pattern for others: a machine for each row, and `run` to drive them together."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlft.rollouts.conversation import Conversation
from rlft.rollouts.engine import Machine, run
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import Policy, Sampling, seed_of
from rlft.rollouts.trajectory import FinishReason, Trajectory


def single_turn(
    rows: Sequence[Mapping[str, Any]],
    policy: Policy,
    sampling: Sampling,
    *,
    frame: ChatFrame,
    max_new_tokens: int = 512,
    seed: int = 0,
) -> list[Trajectory]:
    """One answer to each row's question.

    Args:
        rows: `question`, and where present `id`, `system`, `seed`, `max_completion_tokens`, as `SearchRollout` reads
            them.
        policy: what is sampled.
        sampling: the distribution.
        frame: the chat template.
        max_new_tokens: cap on the answer.
        seed: of the run.

    Returns:
        A trajectory for each row with one segment, `answer`; its text is the field `answer`.
    """
    return run([_machine(row, frame, max_new_tokens, seed) for row in rows], policy, sampling)


def _machine(row: Mapping[str, Any], frame: ChatFrame, max_new_tokens: int, seed: int) -> Machine:
    name = row.get("id", row["question"])
    prompt_ids = frame.opening(frame.neutral(row["question"]), row.get("system"))
    cap = min(max_new_tokens, row.get("max_completion_tokens", max_new_tokens))
    talk = Conversation(frame, prompt_ids, len(prompt_ids) + cap)
    written = yield from talk.write("answer", row.get("seed", seed_of(seed, name)), cap)
    finish = FinishReason.STOP if written.stopped else FinishReason.LENGTH
    return Trajectory(prompt_ids, talk.segments, finish, {"id": name, "answer": written.text.strip()})
