"""A disk that is full, a folder that cannot be written to, a clock that jumps: nothing recorded is lost or mixed up."""

import errno
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from rlft import SHEARConfig, SHEARTrainer
from rlft.disk import is_full_disk, says_full_disk
from rlft.record.callback import RecordCallback
from rlft.record.folder import write_whole
from rlft.record.jsonl import JsonLines, read_jsonl
from rlft.record.rollouts import RolloutLog, RolloutRow, read_rollouts
from tests.trainers.conftest import parity


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: writes fail as on a full disk, in the middle of a record."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def row(step: int) -> RolloutRow:
    text = "".join(random.Random(step).choices("abcdefgh", k=400))
    return RolloutRow(step, step, 0, "1+1=", text, [1], {"f": 1.0}, 1.0, 0.5, [1.0], "stop")


def test_a_batch_that_found_no_room_is_cut_off_and_the_record_goes_on(tmp_path: Path) -> None:
    log = RolloutLog(tmp_path, 0)
    log.append([row(0)])
    whole = log.path.stat().st_size
    with room(whole + 50), pytest.raises(OSError, match="File too large"):
        log.append([row(1)])
    assert log.path.stat().st_size > whole, "half a batch is there"
    assert [each.step for each in read_rollouts(tmp_path)] == [0]
    RolloutLog(tmp_path, 0).append([row(1)])
    assert [*read_rollouts(tmp_path)] == [row(0), row(1)]


def test_a_line_that_found_no_room_is_cut_off_and_the_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    JsonLines(path).append({"step": 0})
    with room(path.stat().st_size + 5), pytest.raises(OSError, match="File too large"):
        JsonLines(path).append({"step": 1})
    assert read_jsonl(path) == [{"step": 0}]
    JsonLines(path).append({"step": 1})
    assert read_jsonl(path) == [{"step": 0}, {"step": 1}]


def test_a_file_that_found_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    write_whole(tmp_path / "config.yaml", "seed: 0\n")
    with room(100), pytest.raises(OSError, match="File too large"):
        write_whole(tmp_path / "config.yaml", "seed: 1\n" * 100)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "seed: 0\n"


class FullAt(TrainerCallback):
    """Fills the disk at the end of a step, before its checkpoint is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            size = (Path(args.output_dir) / "record/rollouts-00000.jsonl.gz").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))


def test_a_run_that_filled_the_disk_says_so_and_goes_on(
    random_model: Path, prompts: Dataset, grpo_arguments: Callable[..., dict[str, Any]]
) -> None:
    config = SHEARConfig(**grpo_arguments(max_steps=3, save_strategy="steps", save_steps=1, credit="constant"))

    @says_full_disk
    def train(callbacks: list[Any], **how: Any) -> None:
        SHEARTrainer(str(random_model), parity, config, train_dataset=prompts, callbacks=callbacks).train(**how)

    with pytest.raises(SystemExit) as ended, room(resource.RLIM_INFINITY):
        train([FullAt(2)])
    assert "nothing can be written any more" in str(ended.value)
    assert "File too large" in str(ended.value)
    assert len(str(ended.value).splitlines()) < 10
    record = Path(config.output_dir) / "record"
    assert {each.step for each in read_rollouts(record)} == {0, 1}
    train([], resume_from_checkpoint=str(Path(config.output_dir) / "checkpoint-1"))
    steps = [each.step for each in read_rollouts(record)]
    assert set(steps) == {0, 1, 2}
    assert steps[-16:] == [2] * 16


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EROFS, "Read-only file system"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_only_errors_of_the_disk_are_taken_for_such(error: Exception, full: bool) -> None:
    assert is_full_disk(error) is full
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = error
    assert is_full_disk(wrapped) is full


def test_a_clock_that_jumps_disturbs_nothing(
    random_model: Path,
    prompts: Dataset,
    grpo_arguments: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Years to and fro at every look at it: the same weights, and a record in the order of steps."""

    def weights(name: str) -> list[torch.Tensor]:
        config = SHEARConfig(**grpo_arguments(output_dir=str(tmp_path / name), credit="constant"))
        trainer = SHEARTrainer(str(random_model), parity, config, train_dataset=prompts, callbacks=[RecordCallback()])
        trainer.train()
        return [parameter.detach().clone() for parameter in trainer.model.parameters()]

    expected, clock = weights("steady"), random.Random(0)
    monkeypatch.setattr(time, "time", lambda: clock.uniform(0, 4e9))
    assert all(map(torch.equal, weights("jumping"), expected))
    lines = read_jsonl(tmp_path / "jumping/record/metrics.jsonl")
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert not all(one["time"] <= two["time"] for one, two in zip(lines, lines[1:], strict=False))
