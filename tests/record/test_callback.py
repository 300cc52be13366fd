"""RecordCallback: one strict line per log, on the main process only."""

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from rlft.record import read_jsonl
from rlft.record.callback import RecordCallback


def log(callback: RecordCallback, folder: Path, logs: dict[str, float], step: int, rank: int = 0) -> None:
    args = TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True)
    state = TrainerState(global_step=step, epoch=step / 10, is_world_process_zero=rank == 0)
    callback.on_log(args, state, TrainerControl(), logs=logs)


def test_logs_become_lines(tmp_path: Path) -> None:
    callback, logs = RecordCallback(), {"loss": 0.25, "epoch": 0.1, "reward": float("nan")}
    log(callback, tmp_path, logs, step=1)
    log(callback, tmp_path, {"eval_reward": 0.5}, step=2)
    first, second = read_jsonl(tmp_path / "record" / "metrics.jsonl")
    assert (first["step"], first["epoch"], first["loss"], first["reward"]) == (
        1,
        0.1,
        0.25,
        pytest.approx(float("nan"), nan_ok=True),
    )
    assert (second["step"], second["epoch"], second["eval_reward"]) == (2, 0.2, 0.5)
    assert 0 <= second["time"] - first["time"] < 3600
    assert set(logs) == {"loss", "epoch", "reward"}


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    log(RecordCallback(), tmp_path, {"loss": 0.25}, step=1, rank=1)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    log(RecordCallback(), tmp_path, {"loss": 0.25}, step=1)
    with (tmp_path / "record" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step":2,"lo')
    log(RecordCallback(), tmp_path, {"loss": 0.125}, step=2)
    assert [row["loss"] for row in read_jsonl(tmp_path / "record" / "metrics.jsonl")] == [0.25, 0.125]
