"""Reads a run's rollouts once, for the figures and for the viewer, one step or file in memory at a time."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rlft.credit.diagnose.run import DEFAULT_THRESHOLD, DEFAULT_WINDOW, NothingRecorded, WeightFigures, weight_figures
from rlft.record.folder import RECORD_NAME
from rlft.record.groups import StepSize, iter_groups, step_sizes
from rlft.record.rollouts import RolloutRow
from rlft.record.token_texts import find_tokenizer, ids_as_texts, token_reader
from rlft.report.choose import Limits, evenly
from rlft.report.from_record import held_out_groups, item_group
from rlft.report.from_replay import ReplayFile, replay_groups, replay_sizes
from rlft.report.from_rounds import Shard, shard_groups, shard_sizes
from rlft.report.pack import Packed
from rlft.report.rewards import RewardTally
from rlft.report.run import Run

_NO_TOKENIZER = "No tokenizer.json in the run's folder: tokens have no texts of their own; name one with --tokenizer."


class Gathered(NamedTuple):
    """What was read.

    Attributes:
        packed: rollouts for the viewer.
        tally: rewards of GRPO's rollouts.
        credit: figures of GRPO's token credit; None where no rollouts are recorded.
        notes: which rollouts these are.
    """

    packed: Packed
    tally: RewardTally
    credit: WeightFigures | None
    notes: list[str]


def gather(run: Run, limits: Limits, tokenizer: Path | None, resamples: int) -> Gathered:
    """Read a run's rollouts.

    Args:
        run: the run.
        limits: how much is read and shown.
        tokenizer: a `tokenizer.json` or its folder; the run's own if None.
        resamples: of the bootstrap over groups.

    Raises:
        ValueError: if a file is damaged, or the tokenizer is none.
    """
    packed, tally, credit, notes = Packed(limits.rollouts), RewardTally(), None, list[str]()
    if run.records_rollouts:
        credit, notes = _read_record(run, packed, tally, limits, tokenizer, resamples)
    notes += _read_files(run, packed, limits, tokenizer)
    return Gathered(packed, tally, credit, notes)


def _read_record(
    run: Run, packed: Packed, tally: RewardTally, limits: Limits, tokenizer: Path | None, resamples: int
) -> tuple[WeightFigures | None, list[str]]:
    sizes = step_sizes(run.folder)
    read = evenly(sizes, size=limits.read)
    shown = set(evenly({step: sizes[step] for step in read}, size=limits.shown, rollouts=limits.rollouts))
    found = tokenizer or find_tokenizer(run.folder)
    reader = token_reader(found) if found else None
    threshold = run.settings.get("correct_threshold", DEFAULT_THRESHOLD)

    def passing() -> Iterator[Sequence[RolloutRow]]:
        for rows in tally.watched(iter_groups(run.folder, set(read))):
            if rows[0].step in shown:
                packed.add([item_group(rows, reader, threshold)])
            yield rows

    window = run.settings.get("window", DEFAULT_WINDOW)
    try:
        credit = weight_figures(passing(), window=window, bins=10, threshold=threshold, resamples=resamples, seed=0)
    except NothingRecorded:  # the run has just begun
        return None, []
    notes = [f"Correct: a reward of {threshold:g} or more.", *_which(sizes, len(read), shown)]
    return credit, notes if reader else [*notes, _NO_TOKENIZER]


def _which(sizes: Mapping[int, StepSize], read: int, shown: set[int]) -> Iterator[str]:
    """Says what was not looked at."""
    if read < len(sizes):
        yield f"The record is large: all figures are of {read} of its {len(sizes)} steps, evenly spread."
    if len(shown) < len(sizes):
        of, some = (sum(sizes[step].rollouts for step in steps) for steps in (sizes, shown))
        yield (
            f"{some} of {of} recorded rollouts are on this page: those of {len(shown)} of {len(sizes)} steps, evenly "
            "spread, the newest among them."
        )


def _read_files(run: Run, packed: Packed, limits: Limits, tokenizer: Path | None) -> list[str]:
    """Rollouts of EM, rows of replay, and held-out answers."""
    shards, files = shard_sizes(run.rounds), replay_sizes(run.arms)
    chosen = evenly(shards | files, size=limits.shown, rollouts=limits.rollouts)
    notes = set()
    for source in chosen:
        found = tokenizer or next(filter(None, map(find_tokenizer, _places(source))), None)
        notes |= set() if found else {_NO_TOKENIZER}
        reader = _reader(found) if found else ids_as_texts
        packed.add(shard_groups(source, reader) if isinstance(source, Shard) else replay_groups(source, reader))
    packed.add(held_out_groups(run.folder / RECORD_NAME))
    if len(chosen) < (every := len(shards) + len(files)):
        notes.add(f"Rollouts of {len(chosen)} of {every} files are on this page, evenly spread, the newest among them.")
    return sorted(notes)


def _places(source: Shard | ReplayFile) -> list[Path]:
    """Where the tokenizer of a file's rollouts may lie: with the round's model, or with the run's or the arm's."""
    folder = source.path.parent
    role = "selector" if "lists" in source.path.name else "generator"
    return [folder / role, folder, folder.parent / role, folder.parent]


_reader = lru_cache(maxsize=4)(token_reader)
