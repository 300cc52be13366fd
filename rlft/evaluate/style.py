"""Metrics of the embedded task of style, row by row, so that they have bootstrap intervals. Shapes: N rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlft.evaluate.personal import Measured
from rlft.rewards.personal import extract_answer
from rlft.tiny.style import style_shares


def style_metrics(
    completions: Sequence[Any], rows: Sequence[Mapping[str, Any]], *, think_end: str | None
) -> dict[str, Measured]:
    """Whose style the answers are in.

    Args:
        completions: N texts or message lists.
        rows: the N rows of `rlft.tiny.style`.
        think_end: what closes the plan.

    Returns:
        `own`, `generic` and `other`, `content_f1` as `style_shares` defines them, and `parseable`, the share of
        completions with an answer.

    Raises:
        ValueError: if there are no rows, or another number of completions.
    """
    if not rows or len(completions) != len(rows):
        raise ValueError(f"{len(completions)} completions, {len(rows)} rows: there must be rows, and one each.")
    answers = [extract_answer(completion, None, think_end) for completion in completions]
    by_row = [style_shares([said], [row]) for said, row in zip(answers, rows, strict=True)]
    found = {name: [one[name] for one in by_row] for name in by_row[0]}
    found["parseable"] = [float(said is not None) for said in answers]
    return {name: Measured(np.array(values), _mean) for name, values in found.items()}


def _mean(values_N: np.ndarray) -> float:
    return float(values_N.mean())
