"""The output folder: what is refused, and the configuration on disk."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest
import yaml

from rlft.record import claim_output_dir, record_dir, save_config


class Schedule(StrEnum):
    LINEAR = "linear"


@dataclass
class Options:
    window: int
    out: Path


@pytest.mark.parametrize("resume", [True, False])
def test_absent_empty_and_unrelated_folders_are_claimed(tmp_path: Path, resume: bool) -> None:
    assert claim_output_dir(tmp_path / "a" / "b", resume).is_dir()
    assert claim_output_dir(tmp_path / "a" / "b", resume).is_dir()
    (tmp_path / "notes.txt").write_text("mine")
    assert claim_output_dir(tmp_path, resume) == tmp_path


@pytest.mark.parametrize(
    "trace", ["config.yaml", "record/", "checkpoint-30/", "adapter_config.json", "adapter_model.safetensors"]
)
def test_every_trace_of_a_run_is_refused_unless_resuming(tmp_path: Path, trace: str) -> None:
    if trace.endswith("/"):
        (tmp_path / trace).mkdir()
    else:
        (tmp_path / trace).touch()
    with pytest.raises(FileExistsError) as error:
        claim_output_dir(tmp_path, resume=False)
    for expected in (trace.rstrip("/"), str(tmp_path), "--output_dir", "--resume_from_checkpoint"):
        assert expected in str(error.value)
    assert claim_output_dir(tmp_path, resume=True) == tmp_path


def test_many_traces_are_summed_up(tmp_path: Path) -> None:
    for step in range(10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(FileExistsError, match=r"checkpoint-14 and 5 more\)"):
        claim_output_dir(tmp_path, resume=False)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(NotADirectoryError, match="--output_dir"):
        claim_output_dir(tmp_path / "run", resume=True)


def test_the_record_folder_is_a_trace(tmp_path: Path) -> None:
    assert record_dir(tmp_path / "run") == record_dir(tmp_path / "run")
    with pytest.raises(FileExistsError, match="record"):
        claim_output_dir(tmp_path / "run", resume=False)


def test_config_round_trips_through_safe_yaml(tmp_path: Path) -> None:
    config = {
        "learning_rate": 1e-6,
        "beta2": 0.999,
        "resume": None,
        "bf16": False,
        "seed": 3,
        "schedule": Schedule.LINEAR,
        "targets": {"v", "q"},
        "betas": (0.9, 0.99),
        "options": Options(window=100, out=Path("/tmp/x")),
        "text": "größer: yes #no",
        "looks_like_a_number": "1e-6",
        "function": len,
    }
    path = save_config(tmp_path, config)
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "config.yaml"
    assert read == config | {
        "schedule": "linear",
        "targets": ["q", "v"],
        "betas": [0.9, 0.99],
        "options": {"window": 100, "out": "/tmp/x"},
        "function": str(len),
    }
    assert list(read) == list(config)
    assert read["bf16"] is False


def test_a_failed_write_leaves_the_old_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_config(tmp_path, {"seed": 1})

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_config(tmp_path, {"seed": 2})
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed": 1}
