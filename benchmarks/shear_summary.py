"""Tables and the picture of benchmarks/shear_study.py, from the lines of its runs."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

Rows = Sequence[dict[str, Any]]
COLLAPSED = 0.2
STEADY = 1e-3
MEASURES = ("area", "sampled", "greedy")
COLOURS = {
    "grpo": "#666666",
    "1/rollout": "#0072B2",
    "1/mix": "#56B4E9",
    "1/group": "#D55E00",
    "oracle": "#009E73",
    "random": "#CC79A7",
    "8/rollout": "#E69F00",
}
"""Arms of the picture, in Okabe and Ito's palette."""


def interval(values: Sequence[float]) -> list[float]:
    """Mean, and the ends of its 95 % t-interval; the mean alone of a single value."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return [round(mean, 4)]
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return [round(value, 4) for value in (mean, mean - half, mean + half)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction."""
    order, corrected, floor = sorted(range(len(p_values)), key=lambda i: p_values[i]), [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = floor
    return corrected


def by_seed(rows: Rows, **fixed: Any) -> dict[int, dict[str, Any]]:
    """Runs of one arm by seed, with these fields."""
    return {row["seed"]: row for row in rows if all(row[name] == value for name, value in fixed.items())}


def figures(runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Means of an arm's runs, its collapses counted and kept in them."""
    rows = list(runs.values())
    return {
        "pairs": len(rows),
        **{measure: interval([row[measure] for row in rows]) for measure in MEASURES},
        "collapsed": sum(row["area"] < COLLAPSED for row in rows),
        **{name: interval([row[name] for row in rows])[0] for name in ("balance", "weight_std", "cpu_seconds")},
    }


def differences(arm: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Paired differences of an arm over the seeds that both have: means with intervals, wins by area, p of area."""
    seeds = sorted(arm.keys() & baseline.keys())
    pairs = [(arm[seed], baseline[seed]) for seed in seeds]
    found = {measure: interval([ours[measure] - theirs[measure] for ours, theirs in pairs]) for measure in MEASURES}
    test = stats.ttest_rel([ours["area"] for ours, _ in pairs], [theirs["area"] for _, theirs in pairs])
    wins = sum(ours["area"] > theirs["area"] for ours, theirs in pairs)
    return {"pairs": len(pairs), **found, "wins": wins, "p": float(test.pvalue)}


def compared(arms: dict[str, dict[int, dict[str, Any]]], baseline: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """`differences` of several arms from one, with Holm-corrected p."""
    found = {name: differences(runs, baseline) for name, runs in arms.items() if len(runs.keys() & baseline.keys()) > 1}
    for name, p in zip(found, holm([entry["p"] for entry in found.values()]), strict=True):
        found[name] |= {"p": round(found[name]["p"], 5), "p_holm": round(p, 5)}
    return found


def table(
    rows: Rows, task: str, rate: float, group: int, seeds: range, names: Sequence[str], baselines: Sequence[str]
) -> dict[str, Any]:
    """Some arms on one task, rate, group size and set of seeds: their figures, and their differences."""
    here = [row for row in rows if row["seed"] in seeds]
    found = {name: by_seed(here, task=task, group=group, rate=rate, arm=name) for name in names}
    arms = {name: runs for name, runs in found.items() if runs}
    return {
        "arms": {name: figures(runs) for name, runs in arms.items()},
        "minus": {
            baseline: compared({name: runs for name, runs in arms.items() if name != baseline}, arms[baseline])
            for baseline in baselines
            if baseline in arms
        },
    }


def best_rates(rows: Rows, chosen_on: range) -> dict[str, float]:
    """The rate of the best mean area on some seeds, for every arm that ran all of them at every rate."""
    needle = [row for row in rows if row["task"] == "needle" and row["group"] == 16]
    rates = sorted({row["rate"] for row in needle})
    best = {}
    for arm in dict.fromkeys(row["arm"] for row in needle):
        areas = {}
        for rate in rates:
            runs = by_seed(needle, arm=arm, rate=rate)
            if all(seed in runs for seed in chosen_on):
                areas[rate] = sum(runs[seed]["area"] for seed in chosen_on)
        if len(areas) == len(rates) > 1:
            best[arm] = max(areas, key=lambda rate: areas[rate])
    return best


def rates_table(rows: Rows, chosen_on: range) -> dict[str, Any]:
    """Every arm at every rate, the rate that is best on some seeds, and differences from GRPO each at its own best."""
    best = best_rates(rows, chosen_on)
    fixed = {"task": "needle", "group": 16}
    arms = {arm: by_seed(rows, arm=arm, rate=rate, **fixed) for arm, rate in best.items()}
    return {
        "by_rate": {
            arm: {
                f"{rate:g}": figures({seed: run for seed, run in runs.items() if seed in chosen_on})
                for rate in sorted({row["rate"] for row in rows})
                if (runs := by_seed(rows, arm=arm, rate=rate, **fixed))
            }
            for arm in best
        },
        "best_rate": best,
        "at_best": {arm: figures(runs) for arm, runs in arms.items()},
        "minus_grpo_each_at_its_best": compared(
            {arm: runs for arm, runs in arms.items() if arm != "grpo"}, arms.get("grpo", {})
        ),
    }


def summarize(rows: Rows, tables: dict[str, Any], chosen_on: range) -> dict[str, Any]:
    """Everything that the study says, without the single runs.

    Args:
        rows: lines of the runs.
        tables: by name, the arguments of `table` after the first.
        chosen_on: seeds on which each arm's best rate is chosen.
    """
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "processor": platform.machine()},
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, trl)},
        "runs": len(rows),
        "cpu_minutes": round(sum(row["cpu_seconds"] for row in rows) / 60, 1),
        "intervals": "mean, low, high (95 % t)",
        "tables": {name: found for name, wanted in tables.items() if (found := table(rows, *wanted))["arms"]},
        "rates": rates_table(rows, chosen_on),
    }


def draw(rows: Rows, path: Path) -> None:
    """Training accuracy by step of some arms, and differences from GRPO of those that have as many runs; on the
    needle at the steady rate."""
    arms = {name: by_seed(rows, task="needle", group=16, rate=STEADY, arm=name) for name in _names(rows)}
    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
    for name, colour in COLOURS.items():
        if arms.get(name):
            curves = [run["rewards"] for run in arms[name].values()]
            mean = [sum(column) / len(column) for column in zip(*curves, strict=True)]
            smooth = [sum(mean[max(0, i - 4) : i + 1]) / len(mean[max(0, i - 4) : i + 1]) for i in range(len(mean))]
            left.plot(range(1, len(mean) + 1), smooth, color=colour, linewidth=2, label=name)
    left.set(xlabel="optimiser step", ylabel="sampled training accuracy, mean of the last 5")
    left.legend(frameon=False, ncols=2)
    plain = arms.get("grpo", {})
    others = {name: runs for name, runs in arms.items() if name != "grpo" and len(runs) == len(plain)}
    found = compared(others, plain)
    for place, (name, entry) in enumerate(reversed(found.items())):
        mean, low, high = entry["area"]
        right.plot([low, high], [place, place], color="#444444", linewidth=1.6)
        right.plot([mean], [place], "o", color=COLOURS.get(name, "#444444"))
    right.set_yticks(range(len(found)), list(reversed(found)))
    right.axvline(0, color="#999999", linestyle=":")
    right.set_xlabel("area minus GRPO's, with 95 % interval")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    title = "The needle, a constructed case, at learning rate 1e-3, eight pairs of seeds"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=150)


def _names(rows: Rows) -> list[str]:
    found = (row["arm"] for row in rows if (row["task"], row["group"], row["rate"]) == ("needle", 16, STEADY))
    return list(dict.fromkeys(found))
