"""Trajectories on disk: shards, each one gzip file of JSON lines that is there as a whole or not at all."""

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory

Key = Mapping[str, Any]
"""What a trajectory is found by, such as `{"id": "q1", "sample": 0}`."""


def to_dict(trajectory: Trajectory) -> dict[str, Any]:
    """The trajectory as JSON-able values."""
    return asdict(trajectory)


def from_dict(record: Mapping[str, Any]) -> Trajectory:
    """What `to_dict` gave, as a trajectory again, equal to the one it came from.

    Raises:
        ValueError: if the record is no trajectory.
    """
    try:
        return Trajectory(
            prompt_ids=record["prompt_ids"],
            segments=[Segment(**segment) for segment in record["segments"]],
            finish=FinishReason(record["finish"]),
            fields=record["fields"],
            branches=[from_dict(branch) for branch in record["branches"]],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a trajectory: {type(error).__name__} {error}.") from error


def write_shard(path: str | os.PathLike[str], items: Iterable[tuple[Key, Trajectory]]) -> None:
    """Write a shard. Equal items give equal bytes; whoever dies in between leaves no file of that name.

    Args:
        path: of the file, in an existing folder; one that is there is replaced.
        items: key and trajectory, in the order in which they will be read.

    Raises:
        ValueError: if a log-probability or another number is not finite: the policy that wrote it is broken.
        TypeError: if a key or field is not JSON-able.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                for key, trajectory in items:
                    packed.write(_line(key, trajectory))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_shard(path: str | os.PathLike[str]) -> list[tuple[dict[str, Any], Trajectory]]:
    """All of a shard, in order.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged; a shard can be deleted and written anew.
    """
    try:
        with gzip.open(path, "rb") as file:
            lines = file.read().splitlines()
        if not Path(path).stat().st_size:  # gzip reads nothing out of nothing
            raise EOFError("the file is empty")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, so that its trajectories are made again.") from error
    items = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            items.append((record["key"], from_dict(record["trajectory"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}; delete the file, so that it is made again.") from error
    return items


def _line(key: Key, trajectory: Trajectory) -> bytes:
    record = {"key": dict(key), "trajectory": to_dict(trajectory)}
    try:
        return json.dumps(record, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    except ValueError as error:
        raise ValueError(f"trajectory {dict(key)} holds a number that is not finite: {error}.") from error
