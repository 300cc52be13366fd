"""Which part of a long run is looked at: whole steps or files, evenly spread from the first to the newest."""

import gzip
import zlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from rlft.record.groups import StepSize

Key = TypeVar("Key", bound=Hashable)


class Limits(NamedTuple):
    """How much is read and how much is shown."""

    rollouts: int = 10_000
    """Most rollouts on the page."""
    shown: int = 64 << 20
    """Most bytes of recorded JSON whose rollouts are on the page: some four million tokens."""
    read: int = 128 << 20
    """Most bytes of recorded JSON that figures are computed from."""


def evenly(sizes: Mapping[Key, StepSize], *, size: int, rollouts: int | None = None) -> list[Key]:
    """Keys that stay within the limits together: all of them, or an even spread with the newest; at least one.

    Args:
        sizes: what each key holds, in order.
        size: most bytes.
        rollouts: most rollouts; None: any number.
    """
    keys = list(sizes)
    count = len(keys)
    while count:
        chosen = [keys[round(place * (len(keys) - 1) / max(count - 1, 1))] for place in range(count)]
        chosen = chosen if count > 1 else keys[-1:]
        of_bytes = sum(sizes[key].bytes for key in chosen) / size
        of_rollouts = sum(sizes[key].rollouts for key in chosen) / rollouts if rollouts else 0.0
        if count == 1 or max(of_bytes, of_rollouts) <= 1:
            return chosen
        count = max(min(int(count / max(of_bytes, of_rollouts)), count - 1), 1)
    return []


def gzip_size(path: Path) -> StepSize:
    """What a gzip file of JSON lines, one a rollout, holds.

    Raises:
        ValueError: if it is damaged.
    """
    lines = size = 0
    try:
        with gzip.open(path, "rb") as file:
            while part := file.read(1 << 20):
                lines, size = lines + part.count(b"\n"), size + len(part)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it: a run that goes on makes it again.") from error
    return StepSize(lines, size)
