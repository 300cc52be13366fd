"""Two processes give the replay, the losses and the weights of one, batch for batch."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlft.record.jsonl import read_jsonl
from rlft.tiny.tasks import warm_start
from tests import scripts
from tests.trainers.processes import assert_same_end

ARMS = ("released", "ewc")
TASK = "tiny/biographies-small"


def run(folder: Path, processes: int) -> Path:
    """The model as a folder, which two processes need not warm up in an interpreter of its own."""
    named = ("--model_name_or_path", str(warm_start(TASK, 0)), "--dataset_name", TASK)
    shared = ("--smoke", *named, "--arms", *ARMS, "--output_dir", str(folder))
    batch = ("--per_device_train_batch_size", str(8 // processes), "--learn_after_end", "false")
    finished = scripts.run(scripts.ROOT / "recipes/stoc.py", *shared, *batch, processes=processes)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder


@pytest.mark.parametrize("arm", ARMS)
def test_two_processes_equal_one(arm: str, both: tuple[Path, Path]) -> None:
    one, two = (folder / arm for folder in both)
    if arm == "released":
        assert (one / "replay/mix.jsonl.gz").read_bytes() == (two / "replay/mix.jsonl.gz").read_bytes()
    start = load_file(warm_start(TASK, 0) / "model.safetensors")
    assert_same_end(start, *(load_file(folder / "model.safetensors") for folder in (one, two)))
    losses = [
        [row["loss"] for row in read_jsonl(folder / "record/metrics.jsonl") if "loss" in row] for folder in (one, two)
    ]
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for which in ("old", "new"):
        first, second = (json.loads((folder / "arm.json").read_text())["recall"][which] for folder in (one, two))
        assert second["hfta"] == first["hfta"]
        assert second["sfta"]["after"]["value"] == pytest.approx(first["sfta"]["after"]["value"], rel=1e-5)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of one run in one process, and of the same in two."""
    folder = tmp_path_factory.mktemp("runs")
    return run(folder / "one", 1), run(folder / "two", 2)
