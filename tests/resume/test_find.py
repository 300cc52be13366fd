"""Which place a run goes on from, and how the record is cut back to it; no model is needed."""

import os
from pathlib import Path

import pytest

from rlft.record.folder import CONFIG_NAME
from rlft.record.stages import AnotherRun
from rlft.resume.elsewhere import take_best_along
from rlft.resume.find import NothingToResume, find, look_ahead
from rlft.resume.manifest import PICKLES, checkpoints, damage, seal, unseal
from rlft.resume.marks import MARK, RUN, Mark, cut, sizes


def write_run(run: Path, *steps: int, name: str = "a") -> Path:
    """A run folder with whole checkpoints."""
    run.mkdir(exist_ok=True)
    Mark(name, {}, {}).write(run / RUN)
    for step in steps:
        folder = run / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        Mark(name, {}, {}).write(folder / MARK)
        seal(folder)
    return run


def test_the_latest_by_number_is_taken(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 2, 10, 9)
    os.utime(run / "checkpoint-2")
    (run / "checkpoint-best").mkdir()
    assert [path.name for path in checkpoints(run)] == ["checkpoint-10", "checkpoint-9", "checkpoint-2"]
    assert find(True, run).checkpoint == run / "checkpoint-10"
    assert find(str(run), tmp_path / "elsewhere").checkpoint == run / "checkpoint-10"
    assert find(str(run / "checkpoint-2"), run).checkpoint == run / "checkpoint-2"
    unseal(run / "checkpoint-10")
    found = find("true", run)
    assert found.checkpoint == run / "checkpoint-9"
    assert "checkpoint-10 is passed over: it was not written to its end" in found.passed_over[0]


def test_a_file_that_was_added_does_no_harm_and_one_in_a_folder_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 2) / "checkpoint-2"
    (folder / "note").touch()
    assert damage(folder) is None
    (folder / "selector").mkdir()
    (folder / "selector/adapter").write_text("a")
    seal(folder)
    (folder / "selector/adapter").write_text("b")
    assert damage(folder) == "its selector/adapter was altered"


def test_checkpoints_of_an_earlier_run_are_passed_over(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 8, name="earlier")
    write_run(run, 2, name="later")
    found = find(True, run)
    assert found.checkpoint == run / "checkpoint-2"
    assert "checkpoint-8 is passed over: it belongs to an earlier run" in found.passed_over[0]


def test_a_run_without_a_whole_checkpoint_begins_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 2)
    unseal(run / "checkpoint-2")
    assert find(True, run).checkpoint is None


@pytest.mark.parametrize("name", PICKLES)
def test_a_checkpoint_with_pickled_weights_is_passed_over(name: str, tmp_path: Path) -> None:
    """Its digests cannot tell: whoever can add a file can write a manifest."""
    run = write_run(tmp_path / "run", 2, 4)
    (run / "checkpoint-4" / name).touch()
    seal(run / "checkpoint-4")
    found = find(True, run)
    assert found.checkpoint == run / "checkpoint-2"
    assert f"it holds weights in {name}, a pickle" in found.passed_over[0]
    with pytest.raises(NothingToResume, match=f"cannot be gone on from: it holds weights in {name}"):
        find(str(run / "checkpoint-4"), run)


def test_the_best_checkpoint_that_was_taken_along_is_kept_for_its_weights(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "first", 2, 4), tmp_path / "second"
    (first / "checkpoint-4/trainer_state.json").write_text('{"best_global_step": 2}')
    seal(first / "checkpoint-4")
    second.mkdir()
    for _ in range(2):  # killed before it was marked, the run comes here again
        take_best_along(first / "checkpoint-4", second)
    assert sorted(path.name for path in second.iterdir()) == ["checkpoint-2"]
    Mark("a", {}, {}, origin=str(first / "checkpoint-4")).write(second / RUN)
    found = find(True, second)
    assert (found.checkpoint, found.passed_over) == (first / "checkpoint-4", [])
    write_run(tmp_path / "foreign", 2, name="b")
    with pytest.raises(AnotherRun, match="checkpoint-2 is of another run"):
        take_best_along(first / "checkpoint-4", tmp_path / "foreign")


NOTHING = {
    "no folder": ("{run}/none", "no folder .*--output_dir"),
    "nothing begun": ("{run}", "holds no checkpoint .*--output_dir"),
    "checkpoints of another trainer": ("{foreign}", "no run.json.*another --output_dir"),
    "checkpoint of another trainer": ("{foreign}/checkpoint-2", "was not written to its end"),
}


@pytest.mark.parametrize(("wanted", "said"), NOTHING.values(), ids=NOTHING)
def test_where_there_is_nothing_the_way_out_is_said(wanted: str, said: str, tmp_path: Path) -> None:
    run, foreign = tmp_path / "run", tmp_path / "foreign"
    run.mkdir()
    (foreign / "checkpoint-2").mkdir(parents=True)
    (foreign / "checkpoint-2/trainer_state.json").write_text("{}")
    with pytest.raises(NothingToResume, match=said):
        find(wanted.format(run=run, foreign=foreign), run)


def test_a_recipe_looks_before_it_loads(tmp_path: Path) -> None:
    assert look_ahead(None, None) is None
    assert look_ahead("false", str(tmp_path)) is None
    with pytest.raises(NothingToResume, match="no folder"):
        look_ahead("true", str(tmp_path / "none"))
    with pytest.raises(NothingToResume, match="holds no checkpoint"):
        look_ahead("true", str(tmp_path))
    (tmp_path / CONFIG_NAME).touch()
    assert look_ahead("true", str(tmp_path)) is None, "killed before its training began: it starts"
    run = write_run(tmp_path / "run", 2)
    assert look_ahead("true", str(run)) is True
    assert look_ahead(str(run / "checkpoint-2"), str(tmp_path)) == str(run / "checkpoint-2")


def test_the_record_is_cut_to_the_mark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"1\n2\n")
    (tmp_path / "rollouts-00000.jsonl.gz").write_bytes(b"abc")
    known = sizes(tmp_path)
    assert known == {"metrics.jsonl": 4, "rollouts-00000.jsonl.gz": 3}
    (tmp_path / "metrics.jsonl").write_bytes(b"1\n2\n3\n{torn")
    (tmp_path / "rollouts-00001.jsonl.gz").write_bytes(b"new")
    (tmp_path / "notes.txt").write_text("mine")
    cut(tmp_path, known)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "metrics.jsonl": b"1\n2\n",
        "rollouts-00000.jsonl.gz": b"abc",
        "notes.txt": b"mine",
    }
    assert not caplog.text
    (tmp_path / "metrics.jsonl").write_bytes(b"1\n")
    cut(tmp_path, known)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"1\n"
    assert "metrics.jsonl was shortened or deleted since" in caplog.text
