"""The outer loop of EM: rounds until the dev metric stops rising, and which questions a round takes."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

logger = logging.getLogger(__name__)

Metrics = dict[str, float]
T = TypeVar("T")


class NothingToLearn(RuntimeError):
    """A round in which no trajectory is left to train on."""


def run_rounds(
    do_round: Callable[[int], Metrics], *, rounds: int, patience: int, metric: str, greater_is_better: bool = True
) -> list[Metrics]:
    """Do round 0 (the start), then at most `rounds` more.

    Args:
        do_round: does round t, or finds it done, and gives its dev metrics.
        rounds: N.
        patience: rounds without a better `metric` after which the loop ends; 0 never ends it early.
        metric: the dev metric that decides.
        greater_is_better: its direction.

    Returns:
        Metrics of the rounds that were done.

    Raises:
        ValueError: if a round's metrics lack `metric`.
        NothingToLearn: from round 1; a later round with nothing to learn ends the loop.
    """
    history: list[Metrics] = []
    for number in range(rounds + 1):
        try:
            history.append(do_round(number))
        except NothingToLearn as reason:
            if number < 2:
                raise
            logger.warning("The rounds end here: %s", reason)
            break
        if metric not in history[-1]:
            raise ValueError(
                f"round {number} has no dev metric {metric!r}, only {', '.join(sorted(history[-1]))}; "
                "set --metric_for_best_model."
            )
        if patience and number - best_round(history, metric, greater_is_better) >= patience:
            break
    return history


def best_round(history: Sequence[Metrics], metric: str, greater_is_better: bool = True) -> int:
    """The first round whose metric no other beats."""
    sign = 1 if greater_is_better else -1
    return max(range(len(history)), key=lambda number: (sign * history[number][metric], -number))


def questions_of(number: int, count: int, per_round: int, seed: int) -> list[int]:
    """Indices of the questions that round `number` takes, in order.

    Rounds go through a shuffled list in turn and shuffle again when it is used up, so every question comes once
    before any comes twice.

    Args:
        number: t, from 1.
        count: training questions.
        per_round: questions in a round; 0 takes all.
        seed: of the shuffling.
    """
    wanted = min(per_round, count) or count
    first = (number - 1) * wanted
    chosen: list[int] = []
    for epoch in range(first // count, (first + wanted - 1) // count + 1):
        order = random.Random(f"{seed}/{epoch}").sample(range(count), count)
        start = epoch * count
        chosen += order[max(first - start, 0) : max(first + wanted - start, 0)]
    return list(dict.fromkeys(chosen))


def shards(items: Sequence[T], size: int, rank: int, world: int) -> Iterator[tuple[int, Sequence[T]]]:
    """The numbered shards that one of `world` processes is to do; their content depends on `size` only."""
    for number, start in enumerate(range(0, len(items), size)):
        if number % world == rank:
            yield number, items[start : start + size]
