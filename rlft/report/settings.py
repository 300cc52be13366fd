"""What a run was: its settings in short, its alarms, its whole configuration."""

from collections.abc import Mapping
from typing import Any

from rlft.record.folder import CONFIG_NAME
from rlft.record.page import details, escaped, paragraph, section, table
from rlft.report.run import ALARMS, Run

_IN_SHORT = {
    "model_name_or_path": "model",
    "dataset_name": "dataset",
    "reward_funcs": "reward functions",
    "reward_weights": "their weights",
    "credit": "token credit",
    "learning_rate": "learning rate",
    "loss_type": "loss",
    "beta": "weight of the KL (beta)",
    "seed": "seed",
}
_OF_SHEAR = ("window", "stride", "distance", "normalize", "mix", "correct_threshold", "exclude_answer")
_PLACE = ("round", "role", "step")


def summary_section(run: Run) -> str:
    """Settings in short, and how long the run has been."""
    settings = run.settings
    rows = [("folder", str(run.folder.resolve()))]
    rows += _named(run, _IN_SHORT)
    if settings.get("credit") == "shear":
        rows.append(
            ("SHEAR's settings", ", ".join(f"{name} {settings[name]}" for name in _OF_SHEAR if name in settings))
        )
    steps = [row["step"] for rows in run.metrics.values() for row in rows if isinstance(row.get("step"), int)]
    if steps:
        rows.append(("optimiser steps" if not run.rounds else "optimiser steps of a round", f"{max(steps)}"))
    if run.rounds:
        rows.append(("rounds", f"0 to {max(run.rounds)}"))
    times = [row["time"] for rows in run.metrics.values() for row in rows if isinstance(row.get("time"), int | float)]
    if times:
        rows.append(("from first to last log", f"{max(times) - min(times):.0f} s"))
    missing = "" if settings else paragraph("There is no config.yaml in the run's folder: settings unknown.", "missing")
    return section("Run", table(rows), missing)


def alarms_section(run: Run) -> str:
    """What the health monitor said, where it watched and said something."""
    alarms = run.lines(ALARMS)
    rows = [[_headed(alarm), str(alarm.get("message", ""))] for alarm in alarms]
    begun = sum(not alarm.get("over") for alarm in alarms)
    return section(f"Alarms ({begun})", table(rows)) if alarms else ""


def configuration_section(run: Run) -> str:
    """The whole resolved configuration, behind a click."""
    path = run.folder / CONFIG_NAME
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8")
    return section("Configuration", details(CONFIG_NAME, f'<pre class="config">{escaped(text)}</pre>'))


def _headed(alarm: Mapping[str, Any]) -> str:
    """Where an alarm was raised, by which rule and with which value; in one cell, so that a narrow page has room."""
    place = ", ".join(f"{name} {alarm[name]}" for name in _PLACE if alarm.get(name) is not None)
    value = alarm.get("value")
    seen = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{place}: {alarm.get('rule')} {'is over' if alarm.get('over') else 'begins'} ({seen})"


def _named(run: Run, labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Settings by their labels, those that are set."""
    values = ((label, run.settings.get(name)) for name, label in labels.items())
    return [
        (label, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for label, value in values
        if value is not None
    ]
