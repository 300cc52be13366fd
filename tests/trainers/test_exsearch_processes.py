"""EXSEARCH runs that are killed for real, and runs of two processes, end like one that ran alone in peace."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rlft.record.jsonl import read_jsonl
from rlft.rollouts.store import read_shard
from tests import scripts
from tests.trainers.processes import assert_same_end, assert_same_losses, losses
from tests.trainers.search_runs import NAME, model

RECIPE = scripts.ROOT / "recipes/exsearch.py"
FLAGS = [
    *("--smoke", "--eval_rows", "0", "--dev_rows", "6", "--shard_questions", "4", "--sampler_batch_size", "32"),
    *("--learning_rate", "1e-3", "--save_strategy", "steps", "--save_steps", "2", "--dataset_name", NAME),
]


def flags(folder: Path, *, processes: int = 1) -> list[str]:
    """Those of a run with 16 rows in an optimiser step; the model as a folder, which two processes need not warm up."""
    batch = ["--per_device_train_batch_size", str(16 // processes)]
    return [*FLAGS, *batch, "--model_name_or_path", model(), "--output_dir", str(folder)]


def finish(arguments: list[str], *, processes: int = 1) -> None:
    finished = scripts.run(RECIPE, *arguments, processes=processes)
    assert finished.returncode == 0, finished.stderr[-3000:]


def kill_at(awaited: Path, arguments: list[str]) -> None:
    """Kill the process as soon as it has made a file or a folder, in the middle of what it does next."""
    (process,) = scripts.begin(RECIPE, *arguments)
    while not awaited.exists() and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended by itself, and {awaited} was {awaited.exists()}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    finish(flags(folder))
    return folder


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Files of round 1."""
    found = {path.name: path.read_bytes() for pattern in patterns for path in (folder / "round-1").glob(pattern)}
    assert len(found) >= len(patterns)
    return found


def test_a_run_killed_in_every_stage_ends_like_one_that_was_not(alone: Path, tmp_path: Path) -> None:
    """SIGKILL while it samples, while it scores, and while it writes a checkpoint of the M-step."""
    folder = tmp_path / "killed"
    resumed = [*flags(folder), "--resume_from_checkpoint", "true"]
    kill_at(folder / "round-1/trajectories-00001.jsonl.gz", flags(folder))
    sampled = {path: path.stat().st_mtime_ns for path in folder.glob("round-1/trajectories-*")}
    assert len(sampled) >= 2
    kill_at(folder / "round-1/scores-00001.jsonl", resumed)
    kill_at(folder / "round-1/training/checkpoint-4", resumed)
    assert {path: path.stat().st_mtime_ns for path in sampled} == sampled, "finished shards are not made again"
    assert not (folder / "round-1/learn.json").exists()
    finish(resumed)
    files = ("trajectories-*", "scores-*", "weights.jsonl", "adapter_model.safetensors", "dev*")
    assert contents(folder, *files) == contents(alone, *files)
    assert (folder / "adapter_model.safetensors").read_bytes() == (alone / "adapter_model.safetensors").read_bytes()
    assert not (folder / "round-1/training").exists()


def trajectories(folder: Path) -> list[tuple[Any, ...]]:
    """All of round 1 but the log-probabilities, whose last digits depend on the launcher."""
    pairs = [pair for path in sorted((folder / "round-1").glob("trajectories-*")) for pair in read_shard(path)]
    assert len(pairs) == 16 * 8
    return [(key, z.prompt_ids, [segment.ids for segment in z.segments], z.finish, z.fields) for key, z in pairs]


def test_two_processes_do_what_one_does(alone: Path, tmp_path: Path) -> None:
    """Also at the M-step's last batch, which does not fill the shares of both."""
    folder = tmp_path / "two"
    finish(flags(folder, processes=2), processes=2)
    assert trajectories(folder) == trajectories(alone)
    assert_same_losses(losses(alone), losses(folder))
    lines = (read_jsonl(path / "round-1/weights.jsonl") for path in (alone, folder))
    for one, two in zip(*lines, strict=True):
        assert (one["id"], one["dropped"]) == (two["id"], two["dropped"])
        assert two["weights_K"] == (one["weights_K"] and pytest.approx(one["weights_K"], abs=1e-5))
    assert json.loads((folder / "round-1/rows.json").read_text())["rows"] % 16
    ours, theirs, start = (
        load_file(path / "adapter_model.safetensors")
        for path in (alone / "round-1", folder / "round-1", alone / "round-0")
    )
    assert_same_end(start, ours, theirs)
