"""Before and after: what was measured on held-out data, as the run's own files say it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlft.record.page import paragraph, section, table
from rlft.report.run import Run

_ACCURACY = re.compile(r"accuracy/(before|after)_(.+)")
_OF_ANSWERS = re.compile(r"(greedy|sampled)_(em|f1|cover|.*recall.*)")
Row = list[str]


def results_section(run: Run) -> str:
    """Held-out metrics before and after training; nothing where the run has none."""
    rows = [*_of_log(run), *_of_evaluation(run), *_of_rounds(run), *_of_arms(run)]
    if not rows:
        return section("Held-out results", paragraph("The run holds no held-out results (yet).", "missing"))
    note = "In brackets: 95 % intervals, where the run measured them." if any("[" in cell for cell in rows[0]) else ""
    return section(
        "Held-out results", table(rows, ["", "before", "after", "change"]), paragraph(note, "soft") if note else ""
    )


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty where there is no file.

    Raises:
        ValueError: if it holds anything else.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); was it edited by hand?") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a JSON object; was it edited by hand?")
    return found


def _of_log(run: Run) -> list[Row]:
    found: dict[str, dict[str, float]] = {}
    for row in run.metrics.get("", []):
        for name, value in row.items():
            if (match := _ACCURACY.fullmatch(name)) and isinstance(value, int | float):
                found.setdefault(match[2], {})[match[1]] = value
    return [_row(f"accuracy, {how.replace('_', ' ')}", of.get("before"), of.get("after")) for how, of in found.items()]


def _of_evaluation(run: Run) -> list[Row]:
    """PrLM's table: a list of settings, each with its metrics."""
    path = run.folder / "evaluation.json"
    settings = json.loads(path.read_bytes()) if path.is_file() else []
    return [
        [f"{name.replace('_', ' ')}, {one['retriever']}, k={one['k']}", *_intervals(metric)]
        for one in settings
        for name, metric in one["metrics"].items()
    ]


def _of_rounds(run: Run) -> list[Row]:
    """EM's held-out questions: round 0 beside the latest round that was asked them."""
    found: dict[str, dict[int, float]] = {}
    for number, folder in run.rounds.items():
        for path in sorted(folder.glob("test-*.json")):
            for name, value in read_json(path).items():
                if _OF_ANSWERS.fullmatch(name):
                    found.setdefault(name.replace("_", " "), {})[number] = value
    return [
        _row(f"{name} (round {max(of)})" if max(of) else name, of.get(0), of[max(of)] if max(of) else None)
        for name, of in found.items()
    ]


def _of_arms(run: Run) -> list[Row]:
    """STOC's recall of old and new facts."""
    rows = []
    for arm, folder in run.arms.items():
        for which, metrics in read_json(folder / "arm.json").get("recall", {}).items():
            for metric, values in metrics.items():
                if metric == run.settings.get("recall", metric):
                    rows.append([f"{f'{arm}: ' if arm else ''}{metric} of {which} facts", *_intervals(values)])
    return rows


def _row(label: str, before: float | None, after: float | None) -> Row:
    change = "" if before is None or after is None else f"{after - before:+.3f}"
    return [label, *("" if value is None else f"{value:.3f}" for value in (before, after)), change]


def _intervals(metric: Mapping[str, Mapping[str, float]]) -> Row:
    of = [metric[when] for when in ("before", "after", "change")]
    return [f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in of]
