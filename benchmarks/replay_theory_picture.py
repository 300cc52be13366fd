"""The picture of replay_theory.py, drawn from its figures: `python benchmarks/replay_theory_picture.py`."""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
GREY = "#666666"
KEYS = ("penalty", "k", "alpha", "times", "others")
COURSES = {
    ("", 0.0, 1.0): "neither",
    ("old objects protected", 0.1, 1.0): "only old objects protected, k = 0.1",
    ("EWC", 0.1, 1.0): "EWC, k = 0.1",
    ("EWC", 20.0, 1.0): "EWC, k = 20",
    ("L2", 0.01, 1.0): "L2, k = 0.01",
    ("", 0.0, 0.8): "replay, 1 - alpha = 0.2",
}


def draw(result: dict[str, Any], file: Path) -> None:
    """Limits by share of replay and by strength of penalty, courses in time, contexts with tokens of their own."""
    figure = Figure(figsize=(11.0, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    (replay, penalty), (course, apart) = figure.subplots(2, 2)
    shares = [curve for curve in result["curves"] if curve["over"] == "alpha"]
    for colour, curve in zip(COLOURS, shares, strict=False):
        often = "as often" if curve["times"] == 1 else f"{curve['times']:g} times as often"
        points = [(1 - x, y) for x, y in zip(curve["x"], curve["old_at_limit"], strict=True)]
        seen = [(1 - row["alpha"], row["old_measured"]) for row in arms_of(result, curve)]
        draw_limits(replay, points, seen, colour, f"token {often} in old text")
    strengths = [curve for curve in result["curves"] if curve["over"] == "k"]
    for colour, curve in zip(COLOURS, strengths, strict=False):
        label = curve["penalty"] if curve["penalty"] != "EWC" else f"EWC, p*(new) = {curve['others'] / 10:g}"
        seen = [(row["k"], row["old_measured"]) for row in arms_of(result, curve)]
        points = list(zip(curve["x"], curve["old_at_limit"], strict=True))
        draw_limits(penalty, points, seen, colour, label)
    for colour, ((name, k, alpha), label) in zip((GREY, *COLOURS), COURSES.items(), strict=True):
        wanted = {"penalty": name, "k": k, "alpha": alpha, "times": 1.0, "others": 0.002}
        row = next(row for row in result["arms"] if {key: row[key] for key in KEYS} == wanted)
        course.plot(result["course_steps"], row["course_of_old"], color=colour, label=label)
        course.axhline(row["old_at_limit"], color=colour, linestyle=":", linewidth=1)
    own = result["own_tokens"]
    for colour, (label, kept) in zip((GREY, *COLOURS), own["courses"].items(), strict=False):
        apart.plot(own["steps"], kept, color=colour, label=label)
    apart.axhline(own["neither_closed_form"], color=GREY, linestyle=":", linewidth=1)
    apart.axhline(own["retained_before"], color=COLOURS[0], linestyle=":", linewidth=1)
    finish(replay, "(a) Replay: lines are closed forms, points SGD", "share of replay, 1 - alpha", "p on old objects")
    finish(penalty, "(b, c) Penalties: lines are closed forms, points SGD", "strength k", "p on old objects")
    finish(course, "Courses of SGD; dotted: limits", "step", "p on old objects")
    finish(apart, "(d) Old and new contexts told apart by a token", "step", "p of the old fact")
    penalty.set_ylim(top=1.42)
    penalty.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    penalty.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    apart.legend(frameon=False, fontsize=8, loc=(0.02, 0.12))
    for axis in (penalty, course, apart):
        axis.set_xscale("log")
    figure.savefig(file, dpi=110)


def arms_of(result: dict[str, Any], curve: dict[str, Any]) -> list[dict[str, Any]]:
    """Trained arms that differ from a curve in what it runs over only."""
    same = [key for key in KEYS if key != curve["over"]]
    return [row for row in result["arms"] if all(row[key] == curve[key] for key in same)]


def draw_limits(axis: Axes, points: Any, seen: Any, colour: str, label: str) -> None:
    """A closed form as a line and what was measured as points."""
    axis.plot(*zip(*points, strict=True), color=colour, label=label)
    axis.plot(*zip(*seen, strict=True), "o", color=colour, markersize=5)


def finish(axis: Axes, title: str, x: str, y: str) -> None:
    """Titles and a quiet frame."""
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)


if __name__ == "__main__":
    draw(json.loads((ROOT / "benchmarks/replay_theory.json").read_text()), ROOT / "docs/replay_theory.png")
