"""Rewards of a run: how the values of each function are distributed, early against late, and which were slow."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rlft.record.page import details, escaped, paragraph, section, table
from rlft.record.rollouts import RolloutRow
from rlft.record.svg import bars

MOST_VALUES, BINS, SLOWEST = 8, 8, 10
SUM = "weighted sum"
CALLS = "One call scores all completions of a batch; how long a single one took is not recorded."
PER_COMPLETION = "seconds per completion"


class RewardTally:
    """What the rewards of the groups that pass by were.

    Attributes:
        rollouts: how many passed by.
        unscored: rollouts to which no function applied.
        cut: rollouts that were cut at the length limit.
        masked: rollouts that hold tokens of the model which the loss leaves out.
        alike: groups whose rewards are all the same, which teach nothing.
        groups: all groups.
    """

    def __init__(self) -> None:
        self.rollouts = self.unscored = self.cut = self.masked = self.alike = self.groups = 0
        self.not_applied: dict[str, int] = {}
        self._values: dict[str, list[tuple[int, float]]] = {}
        self._seconds: dict[tuple[str, int, float], int] = {}

    def watched(self, groups: Iterable[Sequence[RolloutRow]]) -> Iterator[Sequence[RolloutRow]]:
        """The same groups, counted in passing."""
        for rows in groups:
            self.groups += 1
            self.alike += len({row.reward for row in rows}) == 1
            for row in rows:
                self._add(row)
            yield rows

    def _add(self, row: RolloutRow) -> None:
        self.rollouts += 1
        self.unscored += row.reward is None
        self.cut += row.finish == "length"
        self.masked += "m" in row.roles
        values = row.rewards | ({SUM: row.reward} if len(row.rewards) > 1 else {})
        for name, value in values.items():
            if value is None:
                self.not_applied[name] = self.not_applied.get(name, 0) + 1
            elif np.isfinite(value):
                self._values.setdefault(name, []).append((row.step, value))
        for name, seconds in row.reward_seconds.items():
            call = (name, row.step, seconds)
            self._seconds[call] = self._seconds.get(call, 0) + 1

    def distributions(self) -> str:
        """A picture for each function; empty where nothing was scored."""
        if not self._values:
            return ""
        drawn = [_distribution(name, np.array(values)) for name, values in self._values.items()]
        told = "Percent of the rollouts with this reward. Dark: the last third of the steps. Light: the first third."
        return section("Rewards by function", paragraph(told, "soft"), f'<div class="charts">{"".join(drawn)}</div>')

    def slowest(self) -> str:
        """How long calls of the functions took, and the longest; empty where that was not recorded.

        The time of one completion is not recorded: a call scores all of a batch.
        """
        if not self._seconds:
            return ""
        by_name: dict[str, list[float]] = {}
        scored: dict[str, int] = {}
        for (name, _step, seconds), completions in self._seconds.items():
            by_name.setdefault(name, []).append(seconds)
            scored[name] = scored.get(name, 0) + completions
        rows = [
            [
                *(name, f"{len(of)}", f"{sum(of):.3g}"),
                *(f"{np.quantile(of, share):.3g}" for share in (0.5, 0.95, 1.0)),
                f"{sum(of) / scored[name]:.3g}",
            ]
            for name, of in sorted(by_name.items(), key=lambda pair: -sum(pair[1]))
        ]
        calls = sorted(self._seconds, key=lambda call: -call[2])[:SLOWEST]
        slow = [
            [name, f"{step}", f"{seconds:.3g}", f"{completions}", f"{seconds / completions:.3g}"]
            for (name, step, seconds), completions in ((call, self._seconds[call]) for call in calls)
        ]
        head = ["function", "calls", "seconds in all", "median call", "95 % of calls below", "slowest call"]
        listed = table(slow, ["function", "step", "seconds of the call", "completions", PER_COMPLETION])
        return section(
            "Slowest rewards",
            paragraph(f"{CALLS} {PER_COMPLETION.capitalize()}: of a call, divided by its completions.", "soft"),
            table(rows, [*head, PER_COMPLETION]),
            details(f"The {len(slow)} slowest calls", listed),
        )


def _distribution(name: str, values_N2: np.ndarray) -> str:
    """Values of the last third of the steps beside those of the first."""
    steps_N, values_N = values_N2.T
    early, late = np.quantile(steps_N, (1 / 3, 2 / 3), method="closest_observation")
    names, place_N = _binned(values_N)
    parts = [place_N[steps_N >= late], place_N[steps_N <= early]]
    shares = [np.bincount(part, minlength=len(names)) / len(part) for part in parts]
    drawn = bars(list(zip(names, *(of.tolist() for of in shares), strict=True)), label=f"rewards of {name}")
    told = f"{len(values_N)} rollouts, mean {values_N.mean():.3g}, {values_N.min():.3g} to {values_N.max():.3g}"
    return f'<figure>{drawn}<figcaption><b>{escaped(name)}</b> <span class="soft">{told}</span></figcaption></figure>'


def _binned(values_N: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of the bars, and which bar each value belongs to: its own, or a bin where there are many values."""
    different = np.unique(values_N)
    if len(different) <= MOST_VALUES:
        return [f"{value:.3g}" for value in different], np.searchsorted(different, values_N)
    edges = np.linspace(different[0], different[-1], BINS + 1)
    return [f"{edge:.2g}–" for edge in edges[:-1]], np.clip(np.searchsorted(edges, values_N, "right") - 1, 0, BINS - 1)
