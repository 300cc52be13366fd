"""Folders that hold a built index: made once, whole or not at all, and never mistaken for another corpus's."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlft.retrieval.passage import RetrievalError

MANIFEST = "manifest.json"
logger = logging.getLogger(__name__)


def ensure_index(
    folder: Path, identity: Mapping[str, Any], build: Callable[[Path], None], replace: bool = False
) -> None:
    """Leave the index that `identity` describes in `folder`, building it if it is not there.

    Args:
        folder: where the index is to be.
        identity: what it is made of: the corpus's fingerprint and every parameter, as JSON values.
        build: writes the index's files into the folder that it is given.
        replace: rebuild where another index is found, with a warning that says so. Otherwise that is an error.

    Raises:
        RetrievalError: if `folder` holds another index and `replace` is false, holds something else, or cannot be
            written.
    """
    if _difference(folder, identity) is None:  # without the lock, so that a read-only folder serves too
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            difference = _difference(folder, identity)
            if difference is not None:
                _refuse_or_warn(folder, difference, replace)
                _build(folder, identity, build)
    except OSError as error:
        raise RetrievalError(
            f"no index can be written to {folder} ({error}); name another folder: index=..."
        ) from error


def read_index(folder: Path, read: Callable[[], Any]) -> Any:
    """What `read` makes of an index's files, which are arrays of numbers; numpy refuses pickled objects in them.

    Raises:
        RetrievalError: if they cannot be read.
    """
    try:
        return read()
    except (ValueError, OSError, EOFError) as error:
        raise RetrievalError(
            f"the index in {folder} cannot be read ({error}); delete the folder, so that it is built again"
        ) from error


def _difference(folder: Path, identity: Mapping[str, Any]) -> str | None:
    """What keeps the folder's index from being the wanted one; None if it is, empty if there is no folder."""
    if not folder.exists():
        return ""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        found, files = manifest["identity"], manifest["files"]
    except (FileNotFoundError, NotADirectoryError):
        return f"it has no {MANIFEST}"
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    for key in sorted({*identity, *found}):
        if found.get(key) != identity.get(key):
            return f"its {key} is {str(found.get(key))[:80]}, not {str(identity.get(key))[:80]}"
    broken = [n for n, size in files.items() if not (folder / n).is_file() or (folder / n).stat().st_size != size]
    return f"{broken[0]} is missing or cut short" if broken else None


def _refuse_or_warn(folder: Path, difference: str, replace: bool) -> None:
    if not difference:
        return
    if not (folder / MANIFEST).is_file():
        raise RetrievalError(f"{folder} is there and is no index ({difference}); name another folder: index=...")
    if not replace:
        raise RetrievalError(
            f"the index in {folder} is another one: {difference}. Name another folder (index=...), or delete this one."
        )
    logger.warning("the index in %s is built anew: %s", folder, difference)


def _build(folder: Path, identity: Mapping[str, Any], build: Callable[[Path], None]) -> None:
    # Fixed names: what a killed build left behind is cleared by the next one, which holds the lock.
    fresh, old = (folder.with_name(f"{folder.name}.{stage}") for stage in ("building", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        build(fresh)
        files = {file.name: file.stat().st_size for file in sorted(fresh.iterdir())}
        (fresh / MANIFEST).write_text(json.dumps({"identity": identity, "files": files}, indent=1) + "\n")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
