"""Stages on disk, so that a killed run goes on at the stage and file where it stopped.

    folder/manifest.json  the stages that are finished, with the digest of every file they left
    folder/...            the files

A stage counts as finished once the manifest says so and its files are those it left; stages run in order, so one that
is damaged is done again, with whatever came of it. Files inside an unfinished stage appear at once and are kept. Every
process calls everything; the folder is one that all of them see.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from rlft.processes import from_main
from rlft.record.folder import write_whole

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
IDENTITY = "identity.json"
"""What `claim_identity` writes, where it lies beside the stages."""


class AnotherRun(ValueError):
    """The output folder holds a run that is not this one."""


def claim_identity(path: Path, identity: Mapping[str, Any]) -> None:
    """Write what this run is, or make sure that the run in the folder is the same; the main process decides for all.

    Args:
        path: of the file that says it, in the run folder.
        identity: flat, names to values; what JSON has no type for counts as its text.

    Raises:
        AnotherRun: naming every difference.
    """
    main, wanted, differences = PartialState().is_main_process, json.loads(canonical(identity)), ""
    if main and path.exists():
        found = json.loads(path.read_text())
        names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        differences = "; ".join(f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}" for name in names)
    elif main:
        write_whole(path, json.dumps(wanted, indent=1, sort_keys=True) + "\n")
    if differences := from_main(differences):
        raise AnotherRun(
            f"{path.parent} holds a run with other settings, which cannot be gone on with: {differences}. Restore "
            "them, or choose another --output_dir."
        )


def canonical(value: Any) -> str:
    """`value` as JSON that is the same in every process: keys and sets in order, other objects as their text."""
    return json.dumps(value, sort_keys=True, default=lambda item: sorted(item) if isinstance(item, set) else str(item))


class Stages:
    """A folder whose files are made stage by stage.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._state = PartialState()
        self.folder.mkdir(parents=True, exist_ok=True)

    def stage(self, name: str, work: Callable[[], None], *files: str) -> None:
        """Do a stage, unless it is finished.

        Args:
            name: of the stage.
            work: does it, on every process, and leaves its files in the folder.
            files: glob patterns of what it leaves.
        """
        if self._finished(name):
            return
        started = time.perf_counter()
        work()
        self._state.wait_for_everyone()
        if self._state.is_main_process:
            self._enter(name, files, time.perf_counter() - started)
        self._state.wait_for_everyone()

    def _finished(self, name: str) -> bool:
        """Whether the manifest has the stage and its files are intact; decided by the main process for all."""
        return from_main(self._state.is_main_process and self._intact(name))

    def _intact(self, name: str) -> bool:
        stages = self._manifest()
        if name not in stages:
            return False
        damaged = [file for file, known in stages[name]["files"].items() if digest(self.folder / file) != known]
        if not damaged:
            return True
        logger.warning("%s: %s of stage %r is missing or altered; doing it again.", self.folder, damaged[0], name)
        self.forget(name)
        return False

    def forget(self, name: str) -> None:
        """Strike out a stage and all that came of it: every file but those of earlier stages and the identity."""
        stages = self._manifest()
        earlier = {stage: stages[stage] for stage in list(stages)[: list(stages).index(name)]}
        self._write(earlier)
        kept = {MANIFEST, IDENTITY, *(file for known in earlier.values() for file in known["files"])}
        for path in self.folder.rglob("*"):
            if path.is_file() and str(path.relative_to(self.folder)) not in kept:
                path.unlink()

    def _enter(self, name: str, patterns: tuple[str, ...], seconds: float) -> None:
        found = sorted({path for pattern in patterns for path in self.folder.glob(pattern) if path.is_file()})
        files = {str(path.relative_to(self.folder)): digest(path) for path in found}
        self._write(self._manifest() | {name: {"seconds": round(seconds, 2), "files": files}})

    def _manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _write(self, stages: Mapping[str, Any]) -> None:
        write_whole(self.folder / MANIFEST, json.dumps(stages, indent=1) + "\n")


def digest(path: Path) -> str | None:
    """BLAKE2 of a file's content in hexadecimal; None if there is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
