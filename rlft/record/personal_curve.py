"""A run of PrLM as one PNG: every reward, what it weighed in the advantages, and held-out results by past items."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlft.record.curve import _BLUE, _GREEN, _GREY, _VERMILION, _draw, _series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (_BLUE, _VERMILION, _GREEN, "#CC79A7", "#E69F00", _GREY)
_REWARD, _SHARE = "rewards/", "prlm/variance_share/"


def draw_personal(
    metrics_rows: Sequence[Mapping[str, Any]],
    evaluation: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    title: str = "PrLM",
) -> Path:
    """Draw the mean of every reward and its share of the advantage variance by step, and the first metric by k.

    Args:
        metrics_rows: rows as `read_jsonl` gives them.
        evaluation: rows of `rlft.evaluate.by_profiles.ByProfiles.table`; none leaves the last panel out.
        path: the PNG to write.
        title: heading of the picture.

    Returns:
        `path`.

    Raises:
        ValueError: if no row carries a reward.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in metrics_rows for name in row))
    means = [name for name in names if name.startswith(_REWARD) and name.endswith("/mean")]
    if not any(_series(metrics_rows, name)[0] for name in means):
        raise ValueError(
            f"none of the {len(metrics_rows)} metrics rows has the mean of a reward; did a step finish, and is "
            "--logging_steps at most the number of steps?"
        )
    shares = [name for name in names if name.startswith(_SHARE)]
    panels = 2 + bool(evaluation)
    figure = Figure(figsize=(8.0, 2.9 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, 1)
    for colour, name in zip(_COLOURS, means, strict=False):
        _draw(axes[0], *_series(metrics_rows, name), colour, name.removeprefix(_REWARD).removesuffix("/mean"))
    for colour, name in zip(_COLOURS, shares, strict=False):
        _draw(axes[1], *_series(metrics_rows, name), colour, name.removeprefix(_SHARE))
    for axis, label in zip(axes, ("mean reward", "share of the\nadvantage variance"), strict=False):
        axis.set_ylabel(label)
        axis.set_xlabel("optimiser step")
    if evaluation:
        _draw_by_profiles(axes[2], evaluation)
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(frameon=False, ncols=3, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=150)
    return Path(path)


def _draw_by_profiles(axis: "Axes", evaluation: Sequence[Mapping[str, Any]]) -> None:
    """Before and after against k, a colour for each chooser; the point without items belongs to all."""
    metric = next(iter(evaluation[0]["metrics"]))
    none = [row for row in evaluation if row["k"] == 0]
    choosers = list(dict.fromkeys(row["retriever"] for row in evaluation if row["k"])) or ["none"]
    for colour, chooser in zip(_COLOURS, choosers, strict=False):
        rows = none + sorted((row for row in evaluation if row["k"] and row["retriever"] == chooser), key=_k)
        for when, style, marker in (("before", ":", "o"), ("after", "-", "s")):
            found = [row["metrics"][metric][when] for row in rows]
            values = [one["value"] for one in found]
            errors = [
                [max(one["value"] - one["low"], 0.0) for one in found],
                [max(one["high"] - one["value"], 0.0) for one in found],
            ]
            places, label = [_k(row) for row in rows], f"{chooser}, {when}"
            axis.errorbar(places, values, errors, color=colour, linestyle=style, marker=marker, capsize=3, label=label)
    axis.set_xlabel("past items shown (k)")
    axis.set_ylabel(f"held-out {metric.replace('_', ' ')}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)


def _k(row: Mapping[str, Any]) -> int:
    return int(row["k"])
