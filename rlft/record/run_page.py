"""What any run shows: its settings in short, its reward curve, its accuracy before and after."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlft.record.jsonl import read_jsonl
from rlft.record.page import paragraph, section, table
from rlft.record.svg import curve

METRICS_NAME = "metrics.jsonl"
_SETTINGS = {
    "model_name_or_path": "model",
    "dataset_name": "dataset",
    "credit": "token credit",
    "num_generations": "rollouts a prompt",
    "learning_rate": "learning rate",
    "loss_type": "loss",
    "seed": "seed",
}
_OF_SHEAR = ("window", "stride", "distance", "normalize", "mix", "correct_threshold", "exclude_answer")
_ACCURACY = "accuracy/"


def read_metrics(record: Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`, none where the file is absent.

    Args:
        record: the run's `record` folder.

    Raises:
        ValueError: if a complete line is not a JSON object.
    """
    path = record / METRICS_NAME
    return read_jsonl(path) if path.is_file() else []


def summary_section(run: Path, settings: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """Settings, steps and rewards as a table.

    Args:
        run: the run's folder.
        settings: from `rlft.record.groups.settings_of`.
        metrics: from `read_metrics`.
    """
    rows = [("folder", str(run.resolve()))]
    rows += [(label, str(settings[name])) for name, label in _SETTINGS.items() if settings.get(name) is not None]
    if settings.get("credit") == "shear":
        rows.append(
            ("SHEAR's settings", ", ".join(f"{name} {settings[name]}" for name in _OF_SHEAR if name in settings))
        )
    points = reward_points(metrics)
    if points:
        rows.append(("optimiser steps", f"{points[-1][0]:g}"))
        rows.append(("mean reward", f"{points[0][1]:.3f} at the first log, {points[-1][1]:.3f} at the last"))
    rows += _accuracy(metrics)
    missing = "" if settings else paragraph("There is no config.yaml in the run's folder: settings unknown.", "missing")
    return section("Run", table(rows), missing)


def reward_section(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The mean training reward by step, or what is missing for it."""
    points = reward_points(metrics)
    if points:
        return section("Reward", curve(points, label="mean reward of the sampled rollouts, by optimiser step"))
    seen = f"none of the {len(metrics)} logged rows has a finite `reward`" if metrics else f"no {METRICS_NAME}"
    return section("Reward", paragraph(f"No curve: {seen}.", "missing"))


def reward_points(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(step, reward) in order; of a step that was logged twice (a resumed run) the later row counts."""
    found = {
        float(row["step"]): float(row["reward"])
        for row in metrics
        if _finite(row.get("reward")) and _finite(row.get("step"))
    }
    return sorted(found.items())


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _accuracy(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    latest = {
        name: value for row in metrics for name, value in row.items() if name.startswith(_ACCURACY) and _finite(value)
    }
    return [
        (f"held-out {name.removeprefix(_ACCURACY).replace('_', ', ')}", f"{value:.3f}")
        for name, value in latest.items()
    ]
