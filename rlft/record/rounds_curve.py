"""An EM run as one PNG: exact match round by round, how even the weights were, and what went wrong in the samples."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlft.record.curve import _BLUE, _GREEN, _GREY, _VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EXACT_MATCH = ("greedy_em", "sampled_em")
_GREEDY = (
    ("greedy_em", "greedy exact match", _BLUE, "-", "o"),
    ("greedy_recall@1", "greedy recall@1", _GREEN, "-", "^"),
)
_SAMPLED = (
    ("sampled_em", "sampled exact match", _VERMILION, "--", "s"),
    ("sampled_recall@1", "sampled recall@1", _GREEN, "--", "v"),
)
_ESS = "ess_ratio"
_SHARES = (
    ("sampled_mistake/", "known mistakes\n(share)"),
    ("sampled_finish/", "ends of searches\n(share)"),
    ("sampled_fault/", "unreadable lists\n(share)"),
)
"""Prefixes of the lower panel's metrics, the first that the rows carry, and the panel's name."""
_LOWEST_TOP = 0.05
"""Of the lower panel's axis, so that next to nothing looks like it."""
_STACK = ("#E69F00", "#CC79A7", "#56B4E9", _GREEN, _GREY, "#F0E442", _BLUE, _VERMILION)  # Okabe and Ito's palette
_ABREAST = 5  # names of shares in a row


def draw_rounds(
    metrics_by_round: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str = "EM rounds"
) -> Path:
    """Draw held-out exact match, and a selector's recall, by round, with effective sample size as a light line behind.

    A small panel below shows the shares `sampled_mistake/<name>` as stacked bars, or else `sampled_finish/<reason>` or
    `sampled_fault/<fault>`, where the rows carry them.

    Args:
        metrics_by_round: a row per round; read are `round` (else the row's place, from 0), `greedy_em`, `sampled_em`,
            `greedy_recall@1` and `sampled_recall@1` (0 to 1), `ess_ratio` (effective sample size over the samples of
            a question, of the round that led here) and the shares. Any of them may be absent from any row.
        path: the PNG to write.
        title: heading of the picture.

    Returns:
        `path`.

    Raises:
        ValueError: if no row carries a finite exact match.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [{"round": place} | dict(row) for place, row in enumerate(metrics_by_round)]
    if not any(_series(rows, name)[0] for name in _EXACT_MATCH):
        names = " or ".join(map(repr, _EXACT_MATCH))
        raise ValueError(f"none of the {len(rows)} rounds has a finite {names}, so there is nothing to draw.")
    shares, label = _shares(rows)
    figure = Figure(figsize=(8.0, 5.4 if shares else 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        2 if shares else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 1] if shares else [1]
    ).ravel()
    _draw_panel(axes[0], rows)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    if shares:
        _draw_stack(axes[1], shares, label)
    axes[-1].set_xlabel("EM round (0: after the warm-up)")
    axes[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.savefig(path, dpi=150)
    return Path(path)


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Rounds and the finite values of `name`, in order of rounds; of a round that stands twice the later row counts."""
    points = {row["round"]: row[name] for row in rows if row.get(name) is not None and math.isfinite(row[name])}
    rounds = sorted(points)
    return rounds, [points[number] for number in rounds]


def _shares(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[int, float]], str]:
    """Of the first family of shares that there is: per name, the share in each round."""
    for prefix, label in _SHARES:
        names = list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))
        if names:
            return {key.removeprefix(prefix): dict(zip(*_series(rows, key), strict=True)) for key in names}, label
    return {}, ""


def _draw_panel(axis: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    _draw_lines(axis, rows, _GREEDY)
    _draw_ess(axis, rows)  # here it comes last in the legend's left column, that of the greedy lines
    _draw_lines(axis, rows, _SAMPLED)
    axis.set_ylim(0, 1.03)
    axis.set_ylabel("share of dev questions")
    axis.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    _tidy(axis)


def _draw_lines(axis: "Axes", rows: Sequence[Mapping[str, Any]], lines: Sequence[tuple[str, ...]]) -> None:
    for name, label, colour, dashes, marker in lines:
        rounds, values = _series(rows, name)
        if rounds:
            label = f"{label}: {values[0]:.2f} to {values[-1]:.2f}"
            axis.plot(rounds, values, color=colour, linestyle=dashes, marker=marker, linewidth=2.2, label=label)


def _draw_ess(axis: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    rounds, ess = _series(rows, _ESS)
    if rounds:
        axis.plot(
            rounds,
            ess,
            color=_GREY,
            alpha=0.5,
            linewidth=1.2,
            linestyle=":",
            marker=".",
            zorder=1,
            label="weights' ESS / samples",
        )


def _draw_stack(axis: "Axes", shares: Mapping[str, Mapping[int, float]], label: str) -> None:
    rounds = sorted({number for values in shares.values() for number in values})
    bottom = dict.fromkeys(rounds, 0.0)
    for place, (name, values) in enumerate(shares.items()):
        heights = [values.get(number, 0.0) for number in rounds]
        colour = _STACK[place % len(_STACK)]
        axis.bar(
            rounds,
            heights,
            0.5,
            bottom=[bottom[number] for number in rounds],
            color=colour,
            label=name.replace("_", " "),
        )
        bottom = {number: bottom[number] + height for number, height in zip(rounds, heights, strict=True)}
    axis.set_ylim(0, max(_LOWEST_TOP, axis.get_ylim()[1]))
    axis.set_ylabel(label)
    axis.legend(
        frameon=False, ncols=min(len(shares), _ABREAST), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2
    )
    _tidy(axis)


def _tidy(axis: "Axes") -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
