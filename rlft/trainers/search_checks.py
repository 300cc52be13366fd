"""Questions and demonstrations that a search cannot be taught with are refused before a model is loaded."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from datasets import Dataset

from rlft.rollouts.demonstration import demonstration
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.search import question_of
from rlft.trainers.exsearch_steps import SearchSteps


def check_room(config: Any, args: Any) -> None:
    """Refuse trajectories that could be longer than the model's positions.

    Raises:
        ValueError: naming both lengths.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and args.max_tokens > positions:
        raise ValueError(
            f"max_tokens={args.max_tokens} is above the model's {positions} positions; lower --max_tokens to them."
        )


def check_questions(rows: Dataset, steps: SearchSteps, name: str) -> None:
    """Refuse questions that no trajectory could be scored on.

    Raises:
        ValueError: naming the first bad row and the number of them.
    """
    rolls, most = steps.rolls, steps.args.max_answer_tokens
    check_each(rows, lambda row: check_answerable(row, rolls.gold_answers(row), most), name)


def check_each(rows: Dataset, check: Callable[[Any], None], name: str) -> None:
    """Refuse rows that `check` refuses with ValueError or KeyError, ids that are missing or stand twice, and no rows.

    Raises:
        ValueError: naming the first bad row and the number of them.
    """
    if not len(rows):
        raise ValueError(f"{name} has no questions.")
    bad, seen = [], set()
    for row in rows:
        try:
            if row.get("id") is None:
                raise ValueError("it has no id.")
            check(row)
            if str(row["id"]) in seen:
                raise ValueError("its id stands twice.")
        except (ValueError, KeyError) as error:
            bad.append(f"{row.get('id')!r}: {error}")
        seen.add(str(row.get("id")))
    if bad:
        raise ValueError(f"{len(bad)} of {len(rows)} questions of {name} cannot be used; the first, {bad[0]}")


def check_answerable(row: Any, answers: Sequence[Sequence[int]], most: int) -> None:
    """Refuse a row without a question, or with a gold answer of more than `most` tokens, with a ValueError."""
    question_of(row)
    longest = max(map(len, answers))
    if longest > most:
        raise ValueError(
            f"an answer has {longest} tokens, above max_answer_tokens={most}: raise that, or leave the question out."
        )


def check_demonstrations(rows: Iterable[Any], frame: ChatFrame) -> None:
    """Refuse conversations that cannot be learnt.

    Raises:
        ValueError: naming the first bad one, counted from 1.
    """
    for number, row in enumerate(rows, start=1):
        try:
            demonstration(row["messages"], frame)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"demonstration {number} cannot be used: {error}") from error
