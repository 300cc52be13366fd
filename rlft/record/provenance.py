"""What a run was made of, beyond its settings: `provenance.json` in its folder, for `rlft export` and for people.

    versions    of Python, rlft and the libraries that train
    commits     base on the Hub -> its commit
    data        split -> number of rows and their digest
    left_out    reason -> number of rows that were read and are in no split
    sources     reward, metric, ... -> the file that defines it, and its digest

Digests are SHA-256 in hexadecimal. No torch is imported by itself.
"""

import functools
import hashlib
import inspect
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rlft.record.folder import write_whole

PROVENANCE = "provenance.json"
PACKAGES = ("rlft", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def save_provenance(
    folder: str | Path,
    *,
    bases: Mapping[str, str | None],
    rows: Mapping[str, Iterable[Mapping[str, Any]]],
    functions: Iterable[Any] = (),
    left_out: Mapping[str, int] = MappingProxyType({}),
) -> Path:
    """Write `provenance.json`, all of it or nothing; the main process calls this.

    Args:
        folder: the run folder.
        bases: Hub id or folder of every base, and the revision it was loaded at.
        rows: by split, the rows that are read; each is hashed as JSON, in order.
        functions: rewards, metric and credit; one without a source file (a reward model) is named by its class alone.
        left_out: rows that were read and cannot be used, by reason.

    Returns:
        The path of the file.
    """
    commits = {name: commit_of(name, revision) for name, revision in bases.items() if not Path(name).is_dir()}
    said = {
        "versions": {"python": platform.python_version()} | dict(_versions()),
        "commits": {name: commit for name, commit in commits.items() if commit},
        "data": {split: rows_digest(found) for split, found in rows.items()},
        "left_out": dict(left_out),
        "sources": {_name(one): source_of(one) for one in functions},
    }
    path = Path(folder) / PROVENANCE
    write_whole(path, json.dumps(said, indent=1) + "\n")
    return path


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """What `provenance.json` says; nothing if there is none, as in the folder of a run by a trainer without a recipe.

    Raises:
        ValueError: if it is not JSON.
    """
    path = Path(folder) / PROVENANCE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is not what rlft writes ({error}); put the run's own file back.") from error


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit of a Hub model that lies in the cache under a revision; None if it does not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None  # .../snapshots/<commit>/config.json


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Number of rows, and the digest of all of them as JSON lines with sorted keys."""
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
        count += 1
    return {"rows": count, "sha256": digest.hexdigest()}


def source_of(function: Callable[..., Any]) -> dict[str, str | None]:
    """The file that defines a function, through wrappers and partials, and its digest; None where there is none."""
    try:
        file = inspect.getsourcefile(_innermost(function))
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        return {"file": None, "sha256": None}
    return {"file": str(Path(file).resolve()), "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest()}


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
        function = function.func if isinstance(function, functools.partial) else function.__wrapped__
    return function if inspect.isroutine(function) or inspect.isclass(function) else type(function)


def _name(function: Any) -> str:
    inner = _innermost(function)
    return str(getattr(function, "__name__", inner.__name__))


def _versions() -> Iterable[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
