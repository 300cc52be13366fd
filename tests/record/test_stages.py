"""Stages are done once, again if their files were touched, and never in the folder of another run."""

import json
from pathlib import Path

import pytest

from rlft.em.stages import IDENTITY, Round
from rlft.record.stages import AnotherRun, claim_identity


class Work:
    """Writes one file and counts how often it was asked to."""

    def __init__(self, folder: Path, name: str):
        self.path, self.count = folder / f"{name}.txt", 0

    def __call__(self) -> None:
        self.count += 1
        self.path.write_text(self.path.stem)


@pytest.fixture
def works(tmp_path: Path) -> tuple[Round, dict[str, Work]]:
    current = Round(tmp_path, 1)
    return current, {name: Work(current.folder, name) for name in ("sample", "score", "learn")}


def go(current: Round, works: dict[str, Work]) -> list[int]:
    for name, work in works.items():
        current.stage(name, work, f"{name}.txt")
    return [work.count for work in works.values()]


def test_a_finished_stage_is_not_done_again(works: tuple[Round, dict[str, Work]], tmp_path: Path) -> None:
    assert go(*works) == [1, 1, 1]
    assert go(Round(tmp_path, 1), works[1]) == [1, 1, 1]
    manifest = json.loads((tmp_path / "round-1/manifest.json").read_text())
    assert list(manifest) == ["sample", "score", "learn"]
    assert set(manifest["score"]["files"]) == {"score.txt"}


@pytest.mark.parametrize("fault", ["gone", "altered", "emptied"])
def test_a_damaged_stage_and_those_after_it_are_done_again(
    works: tuple[Round, dict[str, Work]], fault: str, tmp_path: Path
) -> None:
    go(*works)
    (tmp_path / "round-2").mkdir()
    (tmp_path / "round-1/shard-of-an-unfinished-stage").touch()
    path = tmp_path / "round-1/score.txt"
    path.unlink() if fault == "gone" else path.write_text("other" if fault == "altered" else "")
    assert go(*works) == [1, 2, 2]
    assert not (tmp_path / "round-2").exists()
    assert not (tmp_path / "round-1/shard-of-an-unfinished-stage").exists()
    assert path.read_text() == "score"


def test_a_stage_that_fails_is_not_entered(works: tuple[Round, dict[str, Work]], tmp_path: Path) -> None:
    current, _ = works

    def fail() -> None:
        (current.folder / "half.txt").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        current.stage("sample", fail, "*.txt")
    assert not (current.folder / "manifest.json").exists()
    assert go(*works) == [1, 1, 1]


def test_the_same_run_may_go_on(tmp_path: Path) -> None:
    """Sets have no order, and their text has another one in every process."""
    for modules in ("q_proj", "v_proj", "up_proj"), ("up_proj", "v_proj", "q_proj"):
        claim_identity(tmp_path / IDENTITY, {"seed": 1, "path": tmp_path, "targets": set(modules)})


def test_another_run_is_refused_with_the_differences(tmp_path: Path) -> None:
    claim_identity(tmp_path / IDENTITY, {"seed": 1, "model": "abc"})
    with pytest.raises(AnotherRun, match="seed was 1, is 2; top_p was None, is 0.9"):
        claim_identity(tmp_path / IDENTITY, {"seed": 2, "model": "abc", "top_p": 0.9})
