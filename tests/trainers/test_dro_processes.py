"""DRO runs that are killed in every stage, damaged, or done by two processes end like one that nobody disturbed."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from rlft.em.stages import Round
from rlft.em.weighted_sft import WeightedSFTTrainer
from rlft.pair_folder import ROLES
from rlft.rollouts.permutation import PermutationRollout
from rlft.rollouts.reading import AnswerRollout
from rlft.trainers import em_learning
from rlft.trainers.dro_learning import PairLearning
from rlft.trainers.dro_steps import DROSteps
from rlft.trainers.em_learning import Learning
from tests import scripts
from tests.trainers.dro_runs import STEPWISE, Finder, asked, bare, finished_run, left, outcome, questions, rows, trainer
from tests.trainers.killing import Killed, killed_at
from tests.trainers.processes import assert_same_end, assert_same_losses, losses

ADAPTER = "adapter_model.safetensors"
WORKER = Path(__file__).parent / "dro_worker.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of two rounds."""
    return finished_run(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def base(run: Path) -> Path:
    return run.parent / "dro-base"


def torn_save(self: WeightedSFTTrainer, folder: str, **kwargs: Any) -> None:
    """Dies when half of the result, not of a checkpoint, is written."""
    SAVE(self, folder, **kwargs)
    if Path(folder).name in ROLES:
        adapter = Path(folder) / ADAPTER
        adapter.write_bytes(adapter.read_bytes()[:1000])
        raise Killed(folder)


SAVE = WeightedSFTTrainer.save_model


def torn_deletion(folder: Path, **_: Any) -> None:
    """Dies when most of the checkpoints is deleted."""
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-2":
            DELETE(checkpoint)
    (folder / "checkpoint-2/optimizer.pt").unlink()
    raise Killed(folder)


DELETE = shutil.rmtree


class KilledAtStep(TrainerCallback):
    """Dies in the middle of an M-step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise Killed(args.output_dir)


KILLS: list[tuple[Any, str, int | Callable[..., Any], str]] = [
    (Finder, "search", 2, "0/candidates-train-00000.jsonl"),
    (Finder, "search", 4, "0/candidates-dev-00000.jsonl"),
    (Learning, "start", 2, f"0/selector/{ADAPTER}"),
    (AnswerRollout, "__call__", 2, "0/dev-greedy-answers-00000.jsonl.gz"),
    (PermutationRollout, "__call__", 2, "1/lists-00000.jsonl.gz"),
    (DROSteps, "_scores", 2, "1/scores-00000.jsonl"),
    (DROSteps, "weigh", 1, "1/scores-00002.jsonl"),
    (PairLearning, "generator_rows", 1, "1/weights.jsonl"),
    (KilledAtStep, "on_step_end", 3, "1/selector-rows.arrow"),
    (WeightedSFTTrainer, "save_model", torn_save, "1/generator-rows.arrow"),
    (Learning, "_fit", 2, f"1/selector/{ADAPTER}"),
    (KilledAtStep, "on_step_end", 3, "1/selector-learn.json"),
    (em_learning.shutil, "rmtree", torn_deletion, "1/rows.json"),
    (AnswerRollout, "__call__", 2, "1/dev-greedy-answers-00000.jsonl.gz"),
]
"""Where a run dies, one time after the other, and a file that it leaves, which is not made again."""


def test_a_run_killed_in_every_stage_ends_like_one_that_was_not(
    run: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev, found = rows(4, 2), Finder(asked() + rows(4, 2))

    def resumed(callbacks: list[Any]) -> Any:
        changes: dict[str, Any] = {"retriever": found, "callbacks": callbacks, **STEPWISE}
        return trainer(tmp_path, base, train=bare(asked()), dev=bare(dev), **changes)

    kept: dict[Path, int] = {}
    for owner, name, death, file in KILLS:
        with monkeypatch.context() as patch:
            if owner is not KilledAtStep:
                patch.setattr(owner, name, killed_at(owner, name, death) if isinstance(death, int) else death)
            with pytest.raises(Killed):
                resumed([KilledAtStep()] if owner is KilledAtStep else []).train()
        kept[tmp_path / f"round-{file}"] = (tmp_path / f"round-{file}").stat().st_mtime_ns
        assert not list(tmp_path.rglob(".*")), "nothing half-written is left"
    resumed([]).train()
    assert [left(tmp_path, number) for number in (0, 1)] == [left(run, number) for number in (0, 1)]
    assert outcome(tmp_path) == outcome(run)
    assert sum(found.asked, []) == [row["question"] for row in [*asked(), *dev]]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished is not made again"
    assert not list(tmp_path.glob("round-1/*-training"))


def test_answers_to_lists_go_on_where_they_were_killed(
    run: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage that is there where weights or rewards ask what the generator answers."""
    given = [{**row, "candidates": row["candidates"][:5]} for row, *_ in questions(run, 1, asked())]

    def answered(folder: Path) -> dict[str, bytes]:
        for name in ("round-0", "round-1"):
            shutil.copytree(run / name, folder / name, dirs_exist_ok=True)
        steps = trainer(folder, base, train=asked(), weighting="rejection").steps
        steps.answer(Round(folder, 1), Round(folder, 0), given)
        return {path.name: path.read_bytes() for path in sorted(folder.glob("round-1/answers-*"))}

    with monkeypatch.context() as patch:
        patch.setattr(AnswerRollout, "__call__", killed_at(AnswerRollout, "__call__", 2))
        with pytest.raises(Killed):
            answered(tmp_path / "killed")
    first = tmp_path / "killed/round-1/answers-00000.jsonl"
    made = first.stat().st_mtime_ns
    gone_on = answered(tmp_path / "killed")
    assert gone_on == answered(tmp_path / "whole")
    assert len(gone_on) == 3
    assert first.stat().st_mtime_ns == made


@pytest.mark.parametrize("role", ROLES)
def test_a_damaged_model_is_made_again_with_what_came_of_it(
    run: Path, base: Path, role: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "round-1" / role / ADAPTER).write_bytes(b"torn")
    earlier = ["lists-00000.jsonl.gz", "scores-00002.jsonl", "weights.jsonl", f"{role}-rows.arrow"]
    kept = [folder / "round-1" / name for name in [*earlier, *([f"selector/{ADAPTER}"] if role != "selector" else [])]]
    times = [path.stat().st_mtime_ns for path in kept]
    trainer(folder, base, train=asked(), eval_sampled=False).train()
    assert f"{role}/{ADAPTER} of stage 'learn {role}' is missing or altered" in caplog.text
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert outcome(folder) == outcome(run)
    assert not (folder / "round-2").exists()


def test_a_stage_in_a_sub_folder_is_done_again_and_earlier_ones_are_kept(tmp_path: Path) -> None:
    counts = dict.fromkeys(("a", "b", "c"), 0)

    def go() -> list[int]:
        current = Round(tmp_path, 1)
        for name in counts:

            def work(name: str = name) -> None:
                counts[name] += 1
                (current.folder / name).mkdir(exist_ok=True)
                (current.folder / name / "x.bin").write_text(name)

            current.stage(name, work, f"{name}/*.bin")
        return [*counts.values()]

    assert go() == go() == [1, 1, 1]
    (tmp_path / "round-1/c/deep").mkdir()
    (tmp_path / "round-1/c/deep/half").touch()
    (tmp_path / "round-1/a/note").touch()
    (tmp_path / "round-1/b/x.bin").unlink()
    first = (tmp_path / "round-1/a/x.bin").stat().st_mtime_ns
    assert go() == [1, 2, 2]
    assert (tmp_path / "round-1/a/x.bin").stat().st_mtime_ns == first
    assert not (tmp_path / "round-1/c/deep/half").exists()
    assert [(tmp_path / f"round-1/{name}/x.bin").read_text() for name in counts] == [*counts]


def test_a_process_killed_while_it_learns_ends_like_one_that_was_not(run: Path, base: Path, tmp_path: Path) -> None:
    """SIGKILL while a checkpoint is written, and another whose state is cut."""
    awaited = tmp_path / "round-1/selector-training/checkpoint-2"
    (process,) = scripts.begin(WORKER, str(tmp_path), str(base))
    while not awaited.exists() and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended by itself, and {awaited} was {awaited.exists()}"
    torn = awaited.with_name("checkpoint-99")
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"epoch": 1.')
    found = Finder([])
    trainer(tmp_path, base, train=bare(asked()), dev=bare(rows(4, 2)), retriever=found, **STEPWISE).train()
    assert left(tmp_path, 1) == left(run, 1)
    assert not found.asked


def test_two_processes_do_what_one_does(run: Path, base: Path, tmp_path: Path) -> None:
    finished = scripts.run(WORKER, str(tmp_path), str(base), processes=2)
    assert finished.returncode == 0, finished.stderr[-3000:]
    asked_by = [json.loads((tmp_path / f"asked-{rank}.json").read_text()) for rank in range(2)]
    assert all(asked_by)
    assert sorted(sum(sum(asked_by, []), [])) == sorted(row["question"] for row in [*asked(), *rows(4, 2)])
    compare_lists(run, tmp_path)
    alone, both = (json.loads((place / "round-1/rows.json").read_text()) for place in (run, tmp_path))
    assert alone == both
    assert alone["selector_rows"] % 8, "the last batch is not full"
    compare_models(run, tmp_path)
    found = losses(tmp_path)
    assert_same_losses(losses(run)[: len(found)], found)  # the other run goes on to a second round


def compare_models(run: Path, other: Path) -> None:
    """The same up to rounding, and not those of the start."""
    for role in ROLES:
        alone, both, start = (
            load_file(place / role / ADAPTER) for place in (run / "round-1", other / "round-1", run / "round-0")
        )
        assert_same_end(start, alone, both)


def compare_lists(run: Path, other: Path) -> None:
    """The same lists with the same weights."""
    for (row, lists, _, one), (_, theirs, _, two) in zip(
        questions(run, 1, asked()), questions(other, 1, asked()), strict=True
    ):
        assert [z.fields for z in lists] == [z.fields for z in theirs]
        assert (one["id"], two["dropped"]) == (row["id"], None)
        assert two["weights_K"] == pytest.approx(one["weights_K"], abs=1e-6)
