"""The learning curve of a run as one PNG, drawn from the rows of `metrics.jsonl`."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart with every common kind of colour blindness, and in grey by lightness.
_BLUE, _VERMILION, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
_SIDE_PANELS = (
    ("entropy", "policy entropy (nats)"),
    ("completions/mean_length", "completion length (tokens)"),
)


def draw_curve(
    metrics_rows: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    before: float | None = None,
    after: float | None = None,
    title: str = "Learning curve",
) -> Path:
    """Draw training reward against optimiser step, with held-out accuracy before and after as level markers.

    Entropy, or else completion length, gets a small panel below where the rows carry it. Where a step was
    logged twice (a resumed run), the later row counts.

    Args:
        metrics_rows: rows as `read_jsonl` gives them; those without `reward` (evaluations, totals) are passed
            over.
        path: the PNG to write.
        before: held-out accuracy (0 to 1) before training.
        after: held-out accuracy (0 to 1) after training.
        title: heading of the picture.

    Returns:
        `path`.

    Raises:
        ValueError: if no row carries a finite `reward`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, rewards = _series(metrics_rows, "reward")
    if not steps:
        raise ValueError(
            f"none of the {len(metrics_rows)} metrics rows has a finite 'reward', so there is no curve to "
            "draw; did a step finish, and is --logging_steps at most the number of steps?"
        )
    side = next((panel for panel in _SIDE_PANELS if _series(metrics_rows, panel[0])[0]), None)
    figure = Figure(figsize=(8.0, 5.0 if side else 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        2 if side else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 1] if side else [1]
    ).ravel()
    _draw(axes[0], steps, rewards, _BLUE, "training reward")
    _mark_accuracy(axes[0], before, after)
    axes[0].set_ylabel("training reward")
    axes[0].legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    if side:
        _draw(axes[1], *_series(metrics_rows, side[0]), _GREEN, side[1])
        axes[1].set_ylabel(side[1].replace(" (", "\n("))
    axes[-1].set_xlabel("optimiser step")
    axes[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.savefig(path, dpi=150)
    return Path(path)


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps in order and the finite values of `name` in training rows."""
    points = {
        int(row["step"]): float(row[name])
        for row in rows
        if "reward" in row and row.get(name) is not None and math.isfinite(row[name])
    }
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def _moving_average(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place; of fewer at the start."""
    spans = [values[max(0, end - window) : end] for end in range(1, len(values) + 1)]
    return [sum(span) / len(span) for span in spans]


def _draw(axis: "Axes", steps: list[int], values: list[float], colour: str, label: str) -> None:
    """Thin raw line below a thick moving average over a twentieth of the run; a short run gets one line."""
    window = max(1, round(len(values) / 20))
    if window > 1:
        axis.plot(steps, values, color=colour, alpha=0.35, linewidth=0.8, label=f"{label}, as logged")
        label = f"{label}, mean of the last {window}"
    marker = "o" if len(values) == 1 else None  # a line through one point shows nothing
    means = _moving_average(values, window)
    axis.plot(steps, means, color=colour, linewidth=2.2, marker=marker, label=label)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def _mark_accuracy(axis: "Axes", before: float | None, after: float | None) -> None:
    """Level lines across the panel, named in the legend; told apart by dashes too."""
    for value, name, colour, dashes in ((before, "before", _GREY, ":"), (after, "after", _VERMILION, "--")):
        if value is not None:
            label = f"held-out accuracy {name}: {value:.2f}"
            axis.axhline(value, color=colour, linestyle=dashes, linewidth=1.8, label=label)
