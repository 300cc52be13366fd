"""What a run folder holds, whichever method wrote it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft.record.folder import CONFIG_NAME, RECORD_NAME
from rlft.record.groups import read_settings
from rlft.record.jsonl import read_jsonl
from rlft.record.rollouts import ROLLOUTS

METRICS, ALARMS = "metrics.jsonl", "alarms.jsonl"
_ROUND = re.compile(r"round-(\d+)")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        folder: its output folder.
        settings: its configuration, flat; empty where none was saved.
        arms: folders with a record or replay of their own, by name; one that is the run's folder is named "".
        rounds: EM's folders by number.
        metrics: rows of `metrics.jsonl` by arm.
    """

    folder: Path
    settings: dict[str, Any]
    arms: dict[str, Path]
    rounds: dict[int, Path]
    metrics: dict[str, Rows]

    @property
    def records_rollouts(self) -> bool:
        """Whether it has a record of GRPO's rollouts."""
        return any((self.folder / RECORD_NAME).glob(ROLLOUTS))

    def lines(self, name: str) -> Rows:
        """Rows of a file of JSON lines in the record, of all arms; none where it is absent."""
        paths = [arm / RECORD_NAME / name for arm in self.arms.values()]
        return [row for path in paths if path.is_file() for row in read_jsonl(path)]


def find_run(path: str | os.PathLike[str]) -> Run:
    """Look at a run folder.

    Args:
        path: the run's output folder, or the `record` in it; the run may still be going on.

    Raises:
        FileNotFoundError: if there is no such folder, or it holds no run.
        ValueError: if its configuration or its metrics are damaged.
    """
    named = Path(path)
    folder = named.parent if named.name == RECORD_NAME else named
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}; name a run's output_dir.")
    found = ((_ROUND.fullmatch(child.name), child) for child in folder.iterdir() if child.is_dir())
    rounds = {int(match[1]): child for match, child in found if match}
    arms = {"": folder} if rounds or _is_arm(folder) else _arms(folder)
    if not arms:
        raise FileNotFoundError(f"{str(folder)!r} holds no folder `{RECORD_NAME}`; name a run's output_dir.")
    metrics = {name: _rows(arm / RECORD_NAME / METRICS) for name, arm in arms.items()}
    return Run(folder, read_settings(folder), arms, dict(sorted(rounds.items())), metrics)


def _is_arm(folder: Path) -> bool:
    return (folder / RECORD_NAME).is_dir() or (folder / "replay").is_dir()


def _arms(folder: Path) -> dict[str, Path]:
    """Of a run that compares arms; a folder without a configuration of its own just holds several runs."""
    if not (folder / CONFIG_NAME).is_file():
        return {}
    return {child.name: child for child in sorted(folder.iterdir()) if child.is_dir() and _is_arm(child)}


def _rows(path: Path) -> Rows:
    return read_jsonl(path) if path.is_file() else []
