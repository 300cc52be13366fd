"""The place to go on from: the last checkpoint that is whole, or the start of a run that has none yet."""

from dataclasses import dataclass
from pathlib import Path

from rlft.record.folder import CONFIG_NAME
from rlft.resume.manifest import checkpoints, damage, is_sealed, step_of
from rlft.resume.marks import MARK, RUN, Mark


class NothingToResume(ValueError):
    """There is no place that a run could go on from."""


@dataclass(frozen=True)
class Found:
    """A place to go on from.

    Attributes:
        checkpoint: None is the start of the run.
        mark: where the run stood there.
        passed_over: what is wrong with later checkpoints, a line each.
    """

    checkpoint: Path | None
    mark: Mark
    passed_over: list[str]


def find(wanted: str | bool, run: Path) -> Found:
    """The place to go on from.

    Args:
        wanted: True (or "true") for the best place in the run folder, the path of a run folder, or of a checkpoint.
        run: the run folder.

    Returns:
        The place, whose files are those that were written.

    Raises:
        NothingToResume: naming what was looked at and the way out.
    """
    place = _place(wanted, run)
    if not _is_checkpoint(place):
        return _last_good(place)
    broken = damage(place)
    if broken:
        raise NothingToResume(
            f"{place} cannot be gone on from: {broken}. Give --resume_from_checkpoint true for the last checkpoint of "
            "its run that is whole."
        )
    return Found(place, Mark.read(place / MARK), [])


def look_ahead(wanted: str | bool | None, output_dir: str | None) -> str | bool | None:
    """What `--resume_from_checkpoint` asks a trainer for, refused before a model is loaded if there is no such thing.

    Args:
        wanted: the flag's value.
        output_dir: the run folder.

    Returns:
        True or a path for the trainer; None to start, which is also where a run stands whose training had not begun.

    Raises:
        NothingToResume: naming what was looked at and the way out.
    """
    if not asks_to_resume(wanted):
        return None
    place = _place(str(wanted), Path(str(output_dir)))
    own = str(wanted).lower() == "true"
    if _is_checkpoint(place) or holds_run(place):
        return True if own else str(wanted)
    if own and (place / CONFIG_NAME).is_file() and not checkpoints(place):
        return None
    raise NothingToResume(_nothing_in(place))


def asks_to_resume(wanted: str | bool | None) -> bool:
    """Whether a value of `--resume_from_checkpoint` asks for anything."""
    return str(wanted).lower() not in ("none", "false", "")


def _place(wanted: str | bool, run: Path) -> Path:
    place = run if str(wanted).lower() == "true" else Path(str(wanted))
    if not place.is_dir():
        raise NothingToResume(f"--resume_from_checkpoint {wanted}: no folder {place}; set --output_dir to that run.")
    return place


def _is_checkpoint(place: Path) -> bool:
    return (place / "trainer_state.json").exists() or is_sealed(place)


def holds_run(run: Path) -> bool:
    """Whether training has begun in a run folder, so that there is something to go on with."""
    return (run / RUN).is_file()


def _last_good(run: Path) -> Found:
    """The last whole checkpoint; the start if none was ever written to its end."""
    if not holds_run(run):
        raise NothingToResume(_nothing_in(run))
    start = Mark.read(run / RUN)
    passed_over: list[str] = []
    sealed: list[Path] = []
    for checkpoint in checkpoints(run):
        if start.origin is not None and step_of(checkpoint) <= step_of(Path(start.origin)):
            break  # the best one before, which was copied for its weights
        broken = damage(checkpoint)
        mark = None if broken else Mark.read(checkpoint / MARK)
        if mark is not None and mark.run == start.run:
            return Found(checkpoint, mark, passed_over)
        passed_over.append(f"{checkpoint} is passed over: {broken or 'it belongs to an earlier run in this folder'}.")
        sealed += [checkpoint] if broken and is_sealed(checkpoint) else []
    if sealed:
        raise NothingToResume(
            f"{passed_over[0]} No other checkpoint in {run} is whole. Put back its files from a copy, or delete the "
            "checkpoint: the run then begins at its start again, with the same outcome."
        )
    if start.origin is not None:
        origin = find(start.origin, run)
        return Found(origin.checkpoint, start, passed_over)
    return Found(None, start, passed_over)


def _nothing_in(run: Path) -> str:
    if not checkpoints(run):
        return (
            f"{run} holds no checkpoint and no run that has begun (no {RUN}); leave --resume_from_checkpoint out, or "
            "start afresh in another --output_dir."
        )
    return (
        f"{run} holds checkpoints, but no {RUN}, which a run of rlft writes when training begins: its rollouts and its "
        "record cannot be restored. Start afresh in another --output_dir."
    )
