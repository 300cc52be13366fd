"""The output folder of a run: refuse one that holds another run, and keep its resolved configuration."""

import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path

import yaml

CONFIG_NAME = "config.yaml"
RECORD_NAME = "record"
_TRACES = (CONFIG_NAME, RECORD_NAME, "checkpoint-*", "adapter_config.json", "adapter_model.*")


def claim_output_dir(path: str | os.PathLike[str], resume: bool) -> Path:
    """Make sure that `path` can take this run, and create it; for the main process, before a model loads.

    Args:
        path: the output folder; absent, empty, or without traces of a run.
        resume: True when a run goes on from a checkpoint: traces of a run are then welcome.

    Returns:
        The existing folder.

    Raises:
        NotADirectoryError: if `path` is a file.
        FileExistsError: if `path` holds another run and `resume` is False.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output_dir {str(folder)!r} is a file; name a folder with --output_dir.")
    found = sorted(trace.name for pattern in _TRACES for trace in folder.glob(pattern))
    if found and not resume:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise FileExistsError(
            f"output_dir {str(folder)!r} holds another run (found {', '.join(found[:5])}{more}), which this "
            "run would mix with its own. Choose another folder with --output_dir, or go on with that run "
            "by --resume_from_checkpoint true."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def record_dir(output_dir: str | os.PathLike[str]) -> Path:
    """The folder `record` inside `output_dir`, created where absent."""
    folder = Path(output_dir) / RECORD_NAME
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_config(output_dir: str | os.PathLike[str], config: Mapping[str, object]) -> Path:
    """Write the resolved configuration to `config.yaml`, all of it or nothing.

    Args:
        output_dir: an existing folder.
        config: nested mappings, sequences, dataclasses and scalars. Enums are written as their value, paths
            and anything that YAML has no type for (a `torch.dtype`, a function) as text.

    Returns:
        The path of the file.
    """
    target = Path(output_dir) / CONFIG_NAME
    write_whole(target, yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True))
    return target


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears complete or not at all, and that is on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: object) -> object:
    """`value` in the types that safe YAML knows."""
    if isinstance(value, Enum):  # before str: the enums of transformers are both
        return _plain(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return [_plain(item) for item in sorted(value, key=str)]
    for kind in (bool, int, float, str):  # bool before int, which it subclasses
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else str(value)
