"""Training rows set aside to choose the best checkpoint by, and the metric that chooses."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset

SMOKE_ROWS = 16
SMALLER_IS_BETTER = ("mae", "rmse")


def set_aside(
    rows: Dataset, recipe: Any, training: Any, metrics: Callable[[], Sequence[str]]
) -> tuple[Dataset, Dataset | None, list[int]]:
    """Take dev rows out of the training rows, if the run is to evaluate while it trains (`--eval_strategy`).

    Held-out rows are left for the end: a figure on the rows that chose the checkpoint would be too good.

    Args:
        rows: to train on.
        recipe: arguments with `dev_rows` and `smoke`.
        training: TRL's configuration; gets the metric, if it names none.
        metrics: gives what an evaluation measures, the default first; called only if one is to be.

    Returns:
        The rows that are left, the dev rows, and where those stood; all of them, None and [] without `--eval_strategy`.

    Raises:
        ValueError: if there are too few rows, or the metric is not measured.
    """
    if training.eval_strategy == "no":
        return rows, None, []
    count = min(recipe.dev_rows, SMOKE_ROWS) if recipe.smoke else recipe.dev_rows
    if not 0 < count < len(rows):
        raise ValueError(
            f"--dev_rows {count} of {len(rows)} training rows: with --eval_strategy at least one is needed to evaluate "
            "on, and one must be left to train on. Change --dev_rows, or leave --eval_strategy out."
        )
    _choose_metric(training, metrics())
    places = sorted(random.Random(training.seed).sample(range(len(rows)), count))
    taken = set(places)
    return rows.select([place for place in range(len(rows)) if place not in taken]), rows.select(places), places


def _choose_metric(training: Any, metrics: Sequence[str]) -> None:
    wanted = (training.metric_for_best_model or "loss").removeprefix("eval_")
    if wanted == "loss":  # which transformers fills in where nobody names one
        wanted, training.greater_is_better = metrics[0], True
    if wanted not in metrics:
        raise ValueError(f"--metric_for_best_model {wanted} is not measured; choose of {', '.join(metrics)}.")
    training.metric_for_best_model = wanted
    training.greater_is_better = training.greater_is_better and wanted not in SMALLER_IS_BETTER
