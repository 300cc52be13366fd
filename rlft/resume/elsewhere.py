"""A run that goes on in another folder takes its best checkpoint along: in the old folder it may be deleted."""

import os
import shutil
from pathlib import Path

from transformers import TrainerState

from rlft.record.stages import AnotherRun
from rlft.resume.manifest import MANIFEST
from rlft.resume.marks import MARK, Mark


def take_best_along(checkpoint: Path, run: Path) -> None:
    """Copy the best checkpoint of a run, if it has one, into the folder where the run goes on.

    The copy has no manifest: it is kept for its weights, and no run goes on from it.

    Args:
        checkpoint: is gone on from; the best one lies beside it, or is this one.
        run: the other folder.

    Raises:
        AnotherRun: if a checkpoint of another run lies in its place.
    """
    best = best_of(TrainerState.load_from_json(str(checkpoint / "trainer_state.json")), checkpoint.parent)
    if best is None:
        return
    target = run / best.name
    if target.exists():
        if not (target / MARK).is_file() or Mark.read(target / MARK).run != Mark.read(checkpoint / MARK).run:
            raise AnotherRun(
                f"{target} is of another run and lies where {best} is to be kept; name another --output_dir."
            )
        return
    fresh = run / f".{best.name}.{os.getpid()}"
    try:
        shutil.copytree(best, fresh, ignore=shutil.ignore_patterns(MANIFEST))
        os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def best_of(state: TrainerState, run: Path) -> Path | None:
    """The best checkpoint by a trainer's state, if it lies in this folder."""
    best = run / f"checkpoint-{state.best_global_step}"
    return best if best.is_dir() else None
