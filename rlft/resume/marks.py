"""Where a run stood: who it is, how long it has taken, and how far its record had come.

`run.json` in the run folder marks its start, `mark.json` in each checkpoint marks that step. Record files only grow, so
their sizes at the mark are all it takes to cut off what a killed run wrote after it; the resumed run writes it again.
"""

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlft.record.folder import write_whole

logger = logging.getLogger(__name__)

RUN, MARK = "run.json", "mark.json"
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


@dataclass
class Mark:
    """Where a run stood.

    Attributes:
        run: the run's own random name, so that an older run's checkpoints in the same folder are told apart.
        identity: what must be equal for it to go on (`identity.py`).
        record: bytes of each file of the record.
        spent: seconds of the clock and of the main process's processor in training, from the run's start on.
        versions: of the libraries that decide about the last digit.
        origin: the checkpoint in another folder that the run went on from.
    """

    run: str
    identity: dict[str, Any]
    record: dict[str, int]
    spent: dict[str, float] = field(default_factory=lambda: {"seconds": 0.0, "cpu_seconds": 0.0})
    versions: dict[str, str] = field(default_factory=_versions)
    origin: str | None = None

    def write(self, path: Path) -> None:
        """To a file, all of it or nothing."""
        write_whole(path, json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Mark":
        """From a file that `write` wrote."""
        return cls(**json.loads(path.read_text()))

    def warn_of_versions(self) -> None:
        """Say which libraries are not those that the run began with."""
        changed = [
            f"{name} was {self.versions.get(name)}, is {now}"
            for name, now in _versions().items()
            if self.versions.get(name) != now
        ]
        if changed:
            logger.warning("the last digits may differ from an undisturbed run: %s.", "; ".join(changed))


def sizes(record: Path) -> dict[str, int]:
    """Bytes of every file of lines in a record, each made safe on the disk first."""
    found = {}
    for path in _files(record):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            found[path.name] = os.fstat(file.fileno()).st_size
    return found


def cut(record: Path, known: dict[str, int]) -> None:
    """Cut the record back to a mark: what was written after it goes, files that were begun after it go whole."""
    for path in _files(record):
        if path.name not in known:
            path.unlink()
        elif path.stat().st_size >= known[path.name]:
            os.truncate(path, known[path.name])
    short = [name for name, size in known.items() if not (record / name).is_file() or _size(record / name) < size]
    if short:
        logger.warning(
            "%s had more rows at the checkpoint than it holds now: %s was shortened or deleted since.",
            record,
            ", ".join(sorted(short)),
        )


def _size(path: Path) -> int:
    return path.stat().st_size


def _files(record: Path) -> list[Path]:
    return sorted([*record.glob("*.jsonl"), *record.glob("*.jsonl.gz")])
