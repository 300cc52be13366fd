"""What token credit did in a recorded run: size and spread of the weights, their balance, where the gradient went.

Reads the weights, advantages and rewards of a run's record; hidden states are not recorded. Gradient mass of a token
is |A| * omega, summed over tokens as the token-level losses (`dapo`, `bnpo`) sum it. Tokens that are not trained on
are counted and left out; in a record that does not say which those are, a weight of exactly 0 is taken for the sign of
one, and so is a token all of whose spans have an exact twin opposite. Shapes: N groups; T tokens of a rollout; B bins.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlft.evaluate.personal import Interval, Measured, bootstrap
from rlft.record.groups import iter_groups, settings_of
from rlft.record.rollouts import RolloutRow

DEFAULT_WINDOW, DEFAULT_THRESHOLD = 100, 0.5


class NothingRecorded(ValueError):
    """A run without recorded rollouts."""


@dataclass(frozen=True)
class WeightFigures:
    """Figures of one run.

    Attributes:
        counts: `steps`, `groups`, `mixed_groups` (both outcomes), `rollouts`, `unscored`, `tokens`, `untrained_tokens`.
        weighted: whether any trained token has a weight other than 1.
        window: w of `last_window`.
        weight: `mean`, `std`, `least`, `most` over the trained tokens of mixed groups.
        rollout_means: `correct` and `wrong` -> mean and standard deviation of the rollouts' mean weights, mixed groups.
        sign_balance: mean over mixed groups of (omega_correct - omega_wrong) / (omega_correct + omega_wrong), as the
            metric `shear/sign_balance`; None without mixed groups.
        push: (mass that pulls up - mass that pushes down) / mass; 0 is balanced. None without any mass.
        plain_push: the same with all weights 1.
        by_position: share of the mass in each of B equal parts of a rollout, first to last.
        plain_by_position: the same with all weights 1.
        last_window: share of the mass in the last w tokens of the rollouts.
        plain_last_window: the same with all weights 1.
    """

    counts: dict[str, int]
    weighted: bool
    window: int
    weight: dict[str, float]
    rollout_means: dict[str, tuple[float, float]]
    sign_balance: Interval | None
    push: Interval | None
    plain_push: Interval | None
    by_position: list[Interval]
    plain_by_position: list[Interval]
    last_window: Interval | None
    plain_last_window: Interval | None


def diagnose_run(
    run: str | os.PathLike[str],
    *,
    window: int | None = None,
    bins: int = 10,
    correct_threshold: float | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> WeightFigures:
    """Figures of all recorded rollouts of a run.

    Args:
        run: the run's output folder, or its `record`.
        window: w of the last tokens; the run's own if None.
        bins: parts of a rollout.
        correct_threshold: a rollout with this reward or more is correct; the run's own if None.
        resamples: of the bootstrap over groups (95 % intervals).
        seed: of the bootstrap.

    Returns:
        The figures.

    Raises:
        FileNotFoundError: if there is no such run.
        NothingRecorded: if it recorded no rollouts.
        ValueError: if `bins` or `window` is below 1, or a file is damaged.
    """
    settings = settings_of(run)
    window = settings.get("window", DEFAULT_WINDOW) if window is None else window
    threshold = settings.get("correct_threshold", DEFAULT_THRESHOLD) if correct_threshold is None else correct_threshold
    if bins < 1 or window < 1:
        raise ValueError(f"bins={bins}, window={window}: both must be at least 1.")
    return weight_figures(
        iter_groups(run), window=window, bins=bins, threshold=threshold, resamples=resamples, seed=seed
    )


def weight_figures(
    groups: Iterable[Sequence[RolloutRow]], *, window: int, bins: int, threshold: float, resamples: int, seed: int
) -> WeightFigures:
    """`diagnose_run` of groups that are read already; arguments as there."""
    tally = _Tally(window, bins, threshold)
    for rows in groups:
        tally.add(rows)
    if not tally.masses:
        raise NothingRecorded(
            "no rollouts are recorded: the method records none, or the run was started with --record_rollouts false."
        )
    masses_N = np.array(tally.masses)  # (N, weighted or plain, up or down, B parts and the last w tokens)
    all_N2 = masses_N[..., :-1].sum((2, 3))

    def share(of_N: np.ndarray, plain: int) -> Interval | None:
        measured = Measured(np.stack([of_N, all_N2[:, plain]], 1), _ratio)
        return bootstrap(measured, resamples=resamples, seed=seed) if all_N2[:, plain].any() else None

    def parts(plain: int) -> list[Interval]:
        found = [share(masses_N[:, plain, :, part].sum(1), plain) for part in range(bins)]
        return [one for one in found if one is not None]

    def push(plain: int) -> Interval | None:
        up_N, down_N = masses_N[:, plain, :, :-1].sum(2).T
        return share(up_N - down_N, plain)

    balances = Measured(np.array(tally.balances), lambda values_N: float(values_N.mean()))
    return WeightFigures(
        counts=tally.counts | {"steps": len(tally.steps)},
        weighted=tally.weighted,
        window=window,
        weight=tally.weight(),
        rollout_means={side: (float(np.mean(of)), float(np.std(of))) for side, of in tally.means.items() if of},
        sign_balance=bootstrap(balances, resamples=resamples, seed=seed) if tally.balances else None,
        push=push(0),
        plain_push=push(1),
        by_position=parts(0),
        plain_by_position=parts(1),
        last_window=share(masses_N[:, 0, :, -1].sum(1), 0),
        plain_last_window=share(masses_N[:, 1, :, -1].sum(1), 1),
    )


def _ratio(rows_N2: np.ndarray) -> float:
    part, whole = rows_N2.sum(0)
    return float(part / whole) if whole > 0 else float("nan")


class _Tally:
    """Sums over the groups read so far."""

    def __init__(self, window: int, bins: int, threshold: float) -> None:
        self.window, self.bins, self.threshold = window, bins, threshold
        names = ("groups", "mixed_groups", "rollouts", "unscored", "tokens", "untrained_tokens")
        self.counts = dict.fromkeys(names, 0)
        self.steps: set[int] = set()
        self.weighted = False
        self.masses: list[np.ndarray] = []
        self.balances: list[float] = []
        self.means: dict[str, list[float]] = {"correct": [], "wrong": []}
        self._sums, self._range = np.zeros(3), [np.inf, -np.inf]

    def add(self, rows: Sequence[RolloutRow]) -> None:
        """Take a group in."""
        masses = np.zeros((2, 2, self.bins + 1))
        means: dict[str, list[float]] = {"correct": [], "wrong": []}
        trained: list[np.ndarray] = []
        for row in rows:
            credit_T = np.array(row.credit)
            kept_T = np.array([role == "t" for role in row.roles], dtype=bool) if row.roles else credit_T != 0
            trained.append(credit_T[kept_T])
            self.counts["rollouts"] += 1
            self.counts["unscored"] += row.reward is None
            self.counts["tokens"] += int(kept_T.sum())
            self.counts["untrained_tokens"] += int((~kept_T).sum())
            if row.reward is not None and kept_T.any():
                means["correct" if row.reward >= self.threshold else "wrong"].append(float(credit_T[kept_T].mean()))
            for plain, weight_T in enumerate((credit_T, kept_T.astype(float))):
                masses[plain, int(row.advantage < 0)] += abs(row.advantage) * self._by_part(weight_T)
        self.masses.append(masses)
        self.steps.add(rows[0].step)
        self.counts["groups"] += 1
        self.weighted = self.weighted or any((weight_T != 1).any() for weight_T in trained)
        if means["correct"] and means["wrong"]:
            self._add_mixed(means, np.concatenate(trained))

    def weight(self) -> dict[str, float]:
        """Mean, spread and range of the weights in mixed groups; empty without any."""
        total, squares, count = self._sums
        if not count:
            return {}
        mean = total / count
        spread = max(squares / count - mean**2, 0.0) ** 0.5
        found = {"mean": mean, "std": spread, "least": self._range[0], "most": self._range[1]}
        return {name: float(value) for name, value in found.items()}

    def _add_mixed(self, means: dict[str, list[float]], weight_N: np.ndarray) -> None:
        self.counts["mixed_groups"] += 1
        for side, of_side in means.items():
            self.means[side] += of_side
        right, wrong = (float(np.mean(means[side])) for side in ("correct", "wrong"))
        self.balances.append((right - wrong) / (right + wrong) if right + wrong > 0 else 0.0)
        self._sums += (weight_N.sum(), (weight_N**2).sum(), len(weight_N))
        self._range = [min(self._range[0], weight_N.min()), max(self._range[1], weight_N.max())]

    def _by_part(self, weight_T: np.ndarray) -> np.ndarray:
        """Sums over the parts of the rollout, and over its last w tokens."""
        before = np.append(0.0, np.cumsum(weight_T))
        edges = np.arange(self.bins + 1) * len(weight_T) / self.bins
        sums_B = np.diff(
            np.interp(edges, np.arange(len(before)), before)
        )  # a token across an edge counts on both sides
        return np.append(sums_B, weight_T[-self.window :].sum())
