"""The metrics of a run as rules read them: how it began, how it is now."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

START = 10
"""Logs that say how a run began."""
RECENT = 10
"""Logs that say how it is now, where a rule does not ask for fewer."""
EARNED = 0.25
"""Standard deviations of a completion's reward by which the mean must have risen for training to have earned it."""


class Seen(NamedTuple):
    """What a rule judges."""

    value: float
    """What is compared with the rule's limit."""
    words: str
    """For a message."""


class History:
    """Every metric of the log as (step, value) pairs, finite values only; `last` is the latest row as it came."""

    def __init__(self) -> None:
        self.last: Mapping[str, object] = {}
        self._series: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)

    def add(self, step: int, row: Mapping[str, object]) -> None:
        """Append one log."""
        self.last = row
        for name, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._series[name].append((step, float(value)))

    def series(self, name: str) -> list[tuple[int, float]]:
        """All (step, value) of a metric; empty if it was never logged."""
        return self._series.get(name, [])

    def start(self, name: str) -> float | None:
        """Mean of the first `START` values; None while there are fewer."""
        return _mean(self.series(name)[:START], START)

    def recent(self, name: str, logs: int = RECENT) -> float | None:
        """Mean of the last `logs` values; None while there are fewer."""
        return _mean(self.series(name)[-logs:], logs)

    def change(self, name: str) -> tuple[float, float] | None:
        """(`start`, `recent`); None while they overlap."""
        start, recent = self.start(name), self.recent(name)
        return None if start is None or recent is None or len(self.series(name)) < START + RECENT else (start, recent)

    def mean_between(self, name: str, after: int, until: int) -> float | None:
        """Mean over steps in (after, until]; None if there is none."""
        found = [pair for pair in self.series(name) if after < pair[0] <= until]
        return _mean(found, 1)

    def earned(self) -> bool:
        """Whether the reward has risen since the start by more than noise: what else changed may be its price."""
        reward = self.change("reward")
        return reward is not None and reward[1] - reward[0] > EARNED * (self.start("reward_std") or 0.0)


Measure = Callable[[History], Seen | None]
"""What a rule judges; None while that is unknown, or where the rule does not apply."""


def _mean(pairs: list[tuple[int, float]], least: int) -> float | None:
    return sum(value for _, value in pairs) / len(pairs) if len(pairs) >= least else None
