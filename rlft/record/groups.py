"""The recorded groups of a run, step by step: every group once, whole, as it trained the model."""

import heapq
import os
import re
from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rlft.record.folder import CONFIG_NAME, RECORD_NAME
from rlft.record.rollouts import ROLLOUTS, RolloutRow, _from_json, _members

_STEP = re.compile(rb'\{"step":(\d+)')


def record_of(run: str | os.PathLike[str]) -> Path:
    """The folder `record` of a run, which may be named itself.

    Args:
        run: the run's output folder, or the `record` inside it.

    Raises:
        FileNotFoundError: if there is no such folder, or no record in it.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}; name a run's output_dir.")
    record = folder if folder.name == RECORD_NAME else folder / RECORD_NAME
    if not record.is_dir():
        raise FileNotFoundError(f"{str(folder)!r} holds no folder `{RECORD_NAME}`; name a run's output_dir.")
    return record


def settings_of(run: str | os.PathLike[str]) -> dict[str, Any]:
    """`read_settings` of a run that may be named by its `record`; raises as that and `record_of` do."""
    return read_settings(record_of(run).parent)


def read_settings(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a run, its sections laid into one mapping; empty where none was saved.

    Args:
        folder: the run's output folder.

    Raises:
        ValueError: if the file is no YAML mapping, or a number in it is none.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({error}); was it edited by hand?") from error
    if not isinstance(sections, dict):
        raise ValueError(f"{path} holds a {type(sections).__name__}, not a mapping; was it edited by hand?")
    flat: dict[str, Any] = {}
    for name, value in sections.items():
        flat |= value if isinstance(value, dict) else {name: value}
    for name, kind in (("window", int), ("correct_threshold", int | float)):
        if name in flat and not isinstance(flat[name], kind):
            raise ValueError(f"{path}: {name} is {flat[name]!r}, not a number; was it edited by hand?")
    return flat


class StepSize(NamedTuple):
    """What one optimiser step left in the record."""

    rollouts: int
    bytes: int
    """Of JSON, decompressed."""


def step_sizes(run: str | os.PathLike[str]) -> dict[int, StepSize]:
    """What each step left in the record, in order, without parsing the rollouts.

    Args:
        run: as for `record_of`.

    Raises:
        FileNotFoundError, ValueError: as `iter_groups`.
    """
    found: dict[int, StepSize] = {}
    for path in sorted(record_of(run).glob(ROLLOUTS)):
        with path.open("rb") as file:
            for text, _end in _members(file):
                step = _step_of(path, text)
                rollouts, size = found.get(step, StepSize(0, 0))
                found[step] = StepSize(rollouts + text.count(b"\n"), size + len(text))
    return dict(sorted(found.items()))


def iter_groups(run: str | os.PathLike[str], steps: Collection[int] | None = None) -> Iterator[list[RolloutRow]]:
    """Groups in order of their steps, one step in memory at a time.

    Rows of a group that straddles processes are joined. Where a folder was trained in again, from the start and by a
    trainer without a recipe, the later rows of a step count (a run that goes on has cut its record back).

    Args:
        run: as for `record_of`.
        steps: only these are parsed; all of them if None.

    Yields:
        The G rows of one group.

    Raises:
        FileNotFoundError: as `record_of`.
        ValueError: if a file is damaged elsewhere than at its end.
    """
    files = [_kept_batches(path, steps) for path in sorted(record_of(run).glob(ROLLOUTS))]
    batches = heapq.merge(*files, key=lambda batch: batch[0].step)
    for _step, of_step in groupby(batches, key=lambda batch: batch[0].step):
        groups: dict[tuple[int, str], list[RolloutRow]] = {}
        for batch in of_step:
            for row in batch:
                groups.setdefault((row.group, row.prompt), []).append(row)
        yield from (groups[key] for key in sorted(groups))


def _kept_batches(path: Path, wanted: Collection[int] | None) -> Iterator[list[RolloutRow]]:
    """The rows of one process by step, without those that a later training replaced."""
    with path.open("rb") as file:
        steps = [_step_of(path, text) for text, _end in _members(file)]
    first_later = list(reversed(list(_minima(reversed(steps)))))
    with path.open("rb") as file:
        kept = (
            [_row(path, line) for line in text.splitlines()]
            for (text, _end), step, later in zip(_members(file), steps, first_later, strict=False)
            if step <= later and (wanted is None or step in wanted)
        )
        for _step, batches in groupby(kept, key=lambda batch: batch[0].step):
            latest: dict[tuple[int, str], list[RolloutRow]] = {}
            for batch in batches:
                fresh: dict[tuple[int, str], list[RolloutRow]] = {}
                for row in batch:
                    fresh.setdefault((row.group, row.prompt), []).append(row)
                latest |= fresh
            yield [row for rows in latest.values() for row in rows]


def _step_of(path: Path, text: bytes) -> int:
    match = _STEP.match(text)
    if match is None:
        raise ValueError(f"{path}: a part of it holds no rollouts but {text[:40]!r}; is the file damaged?")
    return int(match[1])


def _row(path: Path, line: bytes) -> RolloutRow:
    try:
        return _from_json(line)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: a row is no rollout ({error!r}); is the file damaged?") from error


def _minima(steps: Iterator[int]) -> Iterator[int]:
    """The least of the values so far, at every value."""
    least: int | None = None
    for step in steps:
        least = step if least is None else min(least, step)
        yield least
