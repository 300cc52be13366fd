"""What runs keep and what they learn, as one PNG: old recall against new recall, one labelled mark for each run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rlft.record.curve import _BLUE, _GREEN, _GREY, _VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

Figures = Mapping[str, Mapping[str, float]]

_COLOURS = (_BLUE, _VERMILION, _GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's palette
_MARKERS = "sD^vP<>X*ph"
_MARK = 9.0  # points that a mark takes
_PLACES = [
    (x * far, y * far)
    for far in (10, 18, 28, 40, 54, 70, 90)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
]
"""Where a label may stand, in points from its mark; the first ones are preferred."""


def draw_forgetting(
    runs: Mapping[str, Figures],
    path: str | os.PathLike[str],
    title: str = "Old and new facts",
    *,
    before: str = "before",
    recall: str = "recall",
) -> Path:
    """Draw every run as a mark with its intervals as bars. Up and to the right is better.

    The model before training knows nothing of the new, far below the runs: it stands in a panel of its own, with all.

    Args:
        runs: by name, `{"old": {value, low, high}, "new": {value, low, high}}`, 0 to 1.
        path: the PNG to write.
        title: heading of the picture.
        before: name of the run that stands for the model before training, drawn as a grey circle; may be absent.
        recall: what the two axes call recall.

    Returns:
        `path`.

    Raises:
        ValueError: for no runs.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not runs:
        raise ValueError("there is no run to draw.")
    figure = Figure(figsize=(9.5, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    after = {name: run for name, run in runs.items() if name != before} or runs
    panels = [after, runs] if len(after) < len(runs) else [after]
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=[3, 1][: len(panels)])[0]
    for axis, shown in zip(axes, panels, strict=True):
        for name, run in shown.items():
            number = list(after).index(name) if name in after else None
            colour = _GREY if number is None else _COLOURS[number % len(_COLOURS)]
            _draw(axis, run, colour, "o" if number is None else _MARKERS[number % len(_MARKERS)])
        axis.set_xlabel(f"{recall} of old facts")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.margins(0.15)
    axes[0].set_ylabel(f"{recall} of new facts")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.draw_without_rendering()  # only then it is known where on the paper a mark stands
    _label(axes[0], after)
    if len(panels) == 2:
        _label(axes[1], {before: runs[before]})
    figure.savefig(path, dpi=150)
    return Path(path)


def _draw(axis: "Axes", run: Figures, colour: str, marker: str) -> None:
    old, new = run["old"], run["new"]
    x_bars, y_bars = (
        [[max(one["value"] - one["low"], 0.0)], [max(one["high"] - one["value"], 0.0)]] for one in (old, new)
    )
    axis.errorbar([old["value"]], [new["value"]], y_bars, x_bars, color=colour, marker=marker, capsize=2, elinewidth=1)


def _label(axis: "Axes", runs: Mapping[str, Figures]) -> None:
    """Names beside the marks, each at the first place where it covers least of the marks and of other names."""
    from matplotlib.transforms import Bbox

    pixels = axis.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    points = {name: (run["old"]["value"], run["new"]["value"]) for name, run in runs.items()}
    taken = []
    for name, (x, y) in points.items():
        left, right, low, high = (runs[name][which][end] for which in ("old", "new") for end in ("low", "high"))
        bars = ([[left, y], [right, y]], [[x, low], [x, high]], [[x, y], [x, y]])
        ends = [axis.transData.transform(bar) for bar in bars]
        taken += [Bbox(pair).padded(_MARK / 2 * pixels if one == 2 else 2.0) for one, pair in enumerate(ends)]
    for name, point in points.items():
        text = axis.annotate(
            name,
            point,
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": _MARK / 2},
        )
        box = text.get_window_extent()
        width, height = box.width / pixels, box.height / pixels
        centres = [(x + _sign(x) * width / 2, y + _sign(y) * height / 2) for x, y in _PLACES]
        boxes = [box.translated(x * pixels, y * pixels) for x, y in centres]
        best = min(range(len(_PLACES)), key=lambda place: (_cost(boxes[place], taken, axis.bbox), place))
        text.set_position(centres[best])
        taken.append(boxes[best])


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _cost(box: "Bbox", taken: list["Bbox"], inside: "Bbox") -> float:
    """Square pixels of others that a box covers, and of its own that lie outside."""
    return sum(_common(box, other) for other in taken) + box.width * box.height - _common(box, inside)


def _common(first: "Bbox", second: "Bbox") -> float:
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return max(width, 0.0) * max(height, 0.0)
