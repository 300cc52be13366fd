"""Every rollout of a run on disk: what was asked, what was sampled, how it scored, which tokens got credit.

One file per process, `rollouts-<rank>.jsonl.gz`. A batch is one complete gzip member, appended whole and synced,
so a kill leaves at most one torn member, at the end. Readers pass over it and the next writer cuts it off.
A resumed run first cuts off what was written after its checkpoint (rlft.resume).
"""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from rlft.record.jsonl import to_json

ROLLOUTS = "rollouts-*.jsonl.gz"
"""Files of a record's processes."""
_CHUNK_BYTES = 1 << 16
_GZIP_WBITS = 31  # zlib's code for "a gzip header and trailer, the checksum verified"


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One completion and what training made of it."""

    step: int
    """Optimiser step in which it was sampled."""
    policy_step: int
    """Optimiser step of the weights that sampled it."""
    group: int
    """Index of its prompt's group, counted over all processes of that batch."""
    prompt: str
    completion: str
    token_ids: list[int]
    """Completion tokens, padding left out."""
    rewards: dict[str, float | None]
    """Value per reward function; None where the function did not apply."""
    reward: float | None
    """Weighted sum; None where no function applied."""
    advantage: float
    """Advantage of the whole completion, before credit."""
    credit: list[float]
    """Weight per completion token: 1.0 everywhere is plain GRPO, 0.0 on tokens that are not trained on."""
    finish: Literal["stop", "length"]
    """`stop`: the model ended it. `length`: cut at `max_completion_length`."""
    roles: str = ""
    """A letter per completion token: `t` trained on, `e` the environment's, `m` masked: the model's own, left out of
    the loss. Empty in records that do not say."""
    reward_seconds: dict[str, float] = field(default_factory=dict)
    """How long each reward function took over the batch with this completion; reward models are not timed."""

    def __post_init__(self) -> None:
        if self.roles and len(self.roles) != len(self.token_ids):
            raise ValueError(f"{len(self.roles)} roles for {len(self.token_ids)} completion tokens; give one a token.")
        if len(self.credit) != len(self.token_ids):
            raise ValueError(
                f"step {self.step}, group {self.group}: {len(self.credit)} credit weights for "
                f"{len(self.token_ids)} completion tokens; a credit function gives one weight per token."
            )


class RolloutLog:
    """Append-only writer for one process. Opening a file that ends in a torn batch cuts that batch off.

    Args:
        folder: the run's `record` folder, which exists.
        rank: index of this process.

    Raises:
        ValueError: if the existing file is damaged elsewhere than at its end.
    """

    def __init__(self, folder: str | os.PathLike[str], rank: int) -> None:
        self.path = Path(folder) / f"rollouts-{rank:05d}.jsonl.gz"
        if self.path.exists():
            os.truncate(self.path, _complete_bytes(self.path))

    def append(self, rows: Sequence[RolloutRow]) -> None:
        """Write one batch and wait until the disk has it. An empty batch writes nothing."""
        if not rows:
            return
        text = "".join(to_json(_as_record(row)) + "\n" for row in rows)
        with self.path.open("ab") as file:
            file.write(gzip.compress(text.encode("ascii"), compresslevel=1, mtime=0))
            file.flush()
            os.fsync(file.fileno())


def read_rollouts(folder: str | os.PathLike[str]) -> Iterator[RolloutRow]:
    """Rows of all processes, process by process, each in the order of writing. Safe while the run is writing.

    Args:
        folder: the run's `record` folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a file is damaged elsewhere than at its end.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}; name the folder `record` inside a run's output_dir.")
    for path in sorted(Path(folder).glob(ROLLOUTS)):
        with path.open("rb") as file:
            for text, _end in _members(file):
                yield from (_from_json(line) for line in text.splitlines())


def _members(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Content and end offset of every complete gzip member, up to a torn tail."""
    decoder, parts, rest, end = zlib.decompressobj(_GZIP_WBITS), [], b"", 0
    while chunk := rest or file.read(_CHUNK_BYTES):
        try:
            parts.append(decoder.decompress(chunk))
        except zlib.error as error:
            raise ValueError(
                f"{file.name}: the batch at byte {end} is damaged ({error}), which a kill does not do. Move "
                f"the file away, or keep what precedes the damage with `truncate -s {end}`."
            ) from error
        rest = decoder.unused_data
        if decoder.eof:
            end = file.tell() - len(rest)
            yield b"".join(parts), end
            decoder, parts = zlib.decompressobj(_GZIP_WBITS), []


def _complete_bytes(path: Path) -> int:
    """Offset at which the last complete gzip member ends."""
    with path.open("rb") as file:
        return max((end for _text, end in _members(file)), default=0)


def _as_record(row: RolloutRow) -> dict[str, object]:
    """Row as JSON fields; five significant digits of credit are plenty, and halve the file."""
    fields = {name: getattr(row, name) for name in row.__slots__}
    return fields | {"credit": [float(f"{weight:.5g}") for weight in row.credit]}


def _from_json(line: bytes) -> RolloutRow:
    """Inverse of `_as_record`. `float()` also reads the strings that stand for non-finite numbers."""
    record = json.loads(line)
    record["rewards"] = {name: _number(value) for name, value in record["rewards"].items()}
    record["reward"] = _number(record["reward"])
    record["advantage"] = float(record["advantage"])
    record["credit"] = [float(weight) for weight in record["credit"]]
    return RolloutRow(**record)


def _number(value: float | str | None) -> float | None:
    return None if value is None else float(value)
