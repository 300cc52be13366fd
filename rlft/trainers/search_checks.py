"""Questions and demonstrations that a search cannot be taught with are refused before a model is loaded."""

from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from rlft.rollouts.demonstration import demonstration
from rlft.rollouts.search import question_of
from rlft.trainers.exsearch_steps import SearchSteps


def check_questions(rows: Dataset, steps: SearchSteps) -> None:
    """Refuse questions that no trajectory could be scored on.

    Raises:
        ValueError: naming the first bad row and the number of them.
    """
    bad = []
    seen: set[str] = set()
    for row in rows:
        try:
            question_of(row)
            steps.answers(row)
            if str(row["id"]) in seen:
                raise ValueError("its id stands twice.")
        except (ValueError, KeyError) as error:
            bad.append(f"{row.get('id')!r}: {error}")
        seen.add(str(row.get("id")))
    if bad:
        raise ValueError(f"{len(bad)} of {len(rows)} questions cannot be used; the first, {bad[0]}")


def check_demonstrations(rows: Iterable[Any], steps: SearchSteps) -> None:
    """Refuse conversations that cannot be learnt.

    Raises:
        ValueError: naming the first bad one, counted from 1.
    """
    for number, row in enumerate(rows, start=1):
        try:
            demonstration(row["messages"], steps.rolls.frame)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"demonstration {number} cannot be used: {error}") from error
