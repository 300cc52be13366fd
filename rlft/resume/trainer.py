"""`Resumable`: a transformers trainer that goes on after a kill as if nothing had happened, bit for bit on the CPU."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerState

from rlft.compat.resuming import CheckpointSeams, progress_of, restore_progress
from rlft.record.folder import record_dir
from rlft.record.stages import AnotherRun
from rlft.resume.elsewhere import best_of, take_best_along
from rlft.resume.find import Found, NothingToResume, asks_to_resume, find
from rlft.resume.identity import FREE_TO_CHANGE, identity_of, refuse_differences
from rlft.resume.manifest import checkpoints, seal, step_of, unseal
from rlft.resume.marks import MARK, RUN, Mark, cut, sizes
from rlft.resume.termination import EndsAfterStep, on_termination

logger = logging.getLogger(__name__)


class Resumable(CheckpointSeams):
    """Stands left of a transformers `Trainer` class among the bases of a trainer.

    Attributes:
        free_to_change: settings that a run may go on with changed.
        measured: how the task is measured, beside the settings in `args`: equal too for a run to go on, as the best
            value so far is compared with later ones.
        record: the folder whose files of lines belong to the run; None is `record` in `output_dir`.
    """

    free_to_change: frozenset[str] = FREE_TO_CHANGE
    measured: Mapping[str, Any] = MappingProxyType({})
    record: Path | None = None
    _mark: Mark | None = None
    _ending: EndsAfterStep | None = None
    _begun: tuple[float, float] = (0.0, 0.0)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on."""
        return identity_of(self, self.free_to_change) | dict(self.measured)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, from the place that `rlft.resume.find` finds.

        Args:
            resume_from_checkpoint: True goes on with the run in `output_dir`, from its start where it has no checkpoint
                yet; a path names another run, or one of its checkpoints.

        Raises:
            rlft.resume.find.NothingToResume: if there is nothing whole to go on from.
            rlft.record.stages.AnotherRun: if the settings, the data or the model are not those of the run.
            SystemExit: with code 143 after SIGTERM, when a checkpoint is written.
        """
        checkpoint = self._begin(resume_from_checkpoint)
        self._begun = (time.perf_counter(), time.process_time())
        ending = self._ending = EndsAfterStep(self)
        owner: Any = super()
        trainer: Any = self
        trainer.add_callback(ending)
        try:
            with on_termination(ending.ask):
                return owner.train(checkpoint, *args, **kwargs)
        finally:
            trainer.remove_callback(ending)

    @property
    def spent_before(self) -> dict[str, float]:
        """Seconds of the clock and of this processor before the checkpoint that this process went on from."""
        assert self._mark is not None, "training has not begun"
        return self._mark.spent

    def spent(self) -> dict[str, float]:
        """Those seconds, and the ones in training since."""
        now, before = (time.perf_counter(), time.process_time()), self.spent_before
        here = [end - start for end, start in zip(now, self._begun, strict=True)]
        return {"seconds": before["seconds"] + here[0], "cpu_seconds": before["cpu_seconds"] + here[1]}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The time that is logged at the end is that of the whole run."""
        if "train_runtime" in logs:
            seconds = self.spent()["seconds"]
            for name in ("train_samples_per_second", "train_steps_per_second"):
                if name in logs:
                    logs[name] = round(logs[name] * logs["train_runtime"] / seconds, 3)
            logs["train_runtime"] = round(seconds, 4)
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def checkpoint_is_due(self) -> bool:
        """After SIGTERM."""
        return self._ending is not None and self._ending.due

    def checkpoint_begins(self, folder: Path) -> None:
        """What is about to be overwritten is not whole."""
        if self.args.should_save:
            unseal(folder)

    def checkpoint_written(self, folder: Path) -> None:
        """Add what the Trainer leaves out, then the manifest, when every process has written its share."""
        assert self._mark is not None, "training has not begun"
        if self.args.save_only_model:  # nothing can go on from it
            return
        torch.save(progress_of(self), folder / f"progress_{self.args.process_index}.pt")
        accelerator: Any = self.accelerator  # type: ignore[attr-defined]
        accelerator.wait_for_everyone()
        if self.args.should_save:
            replace(self._mark, record=sizes(self._record()), spent=self.spent()).write(folder / MARK)
            seal(folder)
        accelerator.wait_for_everyone()

    def checkpoint_read(self, folder: Path) -> None:
        """Take up what the Trainer leaves out, and find the best checkpoint where the run now lies."""
        best = best_of(self.state, Path(self.args.output_dir))
        if best is not None:
            self.state.best_model_checkpoint = str(best)
        file = folder / f"progress_{self.args.process_index}.pt"
        device: torch.device = self.args.device
        place = "cpu" if device.type == "cpu" else device  # torch.load does not know the "cpu:0" of a process group
        restore_progress(self, torch.load(file, map_location=place, weights_only=True))

    def _begin(self, wanted: str | bool | None) -> str | None:
        """Mark the start of a run, or check and restore the place to go on from; the checkpoint, if there is one."""
        checkpoint, self._mark = self._agreed(
            lambda: self._resumed(str(wanted)) if asks_to_resume(wanted) else self._fresh()
        )
        self.finished_epochs = _epochs(checkpoint) if checkpoint else 0
        self.unread = Path(checkpoint) if checkpoint else None
        return checkpoint

    def _fresh(self) -> tuple[None, Mark]:
        mark = Mark(uuid.uuid4().hex, self.identity(), sizes(self._record()))
        mark.write(Path(self.args.output_dir) / RUN)
        return None, mark

    def _resumed(self, wanted: str) -> tuple[str | None, Mark]:
        run = Path(self.args.output_dir)
        found, now = find(wanted, run), self.identity()
        place = str(found.checkpoint or run)
        refuse_differences(place, found.mark.identity, now, self.free_to_change)
        self._refuse_moving_reference()
        self._say(found)
        checkpoint = found.checkpoint
        if checkpoint is None or run.resolve() == checkpoint.resolve().parent or _is(checkpoint, found.mark.origin):
            cut(self._record(), found.mark.record)
            for later in checkpoints(run):
                if checkpoint is None or step_of(later) > step_of(checkpoint):
                    unseal(later)
            return str(checkpoint) if checkpoint else None, found.mark
        take_best_along(checkpoint, run)
        mark = replace(found.mark, record=sizes(self._record()), origin=str(checkpoint.resolve()))
        mark.write(run / RUN)
        return str(checkpoint), mark

    def _say(self, found: Found) -> None:
        for line in found.passed_over:
            logger.warning(line)
        found.mark.warn_of_versions()
        place = found.checkpoint or f"the start of {self.args.output_dir}, which has no whole checkpoint"
        logger.warning("the run goes on from %s.", place)

    def _refuse_moving_reference(self) -> None:
        if getattr(self.args, "sync_ref_model", False):
            raise NothingToResume(
                "--sync_ref_model moves a reference model that no checkpoint holds, so the run cannot go on exactly. "
                "Start afresh without it in another --output_dir."
            )

    def _record(self) -> Path:
        return self.record or record_dir(self.args.output_dir)

    def _agreed(self, decide: Callable[[], tuple[str | None, Mark]]) -> tuple[str | None, Mark]:
        """What the main process decides, or the error that it raises, in every process."""
        decision: list[Any] = [None]
        if self.args.process_index == 0:
            try:
                decision = [decide()]
            except (AnotherRun, NothingToResume) as error:
                decision = [error]
        if self.args.world_size > 1:
            broadcast_object_list(decision)
        if isinstance(decision[0], Exception):
            raise decision[0]
        return decision[0]


def _is(checkpoint: Path, origin: str | None) -> bool:
    return origin is not None and checkpoint.resolve() == Path(origin)


def _epochs(checkpoint: str) -> int:
    """Passes over the data that are finished in a checkpoint."""
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    return int(state.epoch or 0)
