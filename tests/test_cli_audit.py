"""`rlft rewards audit`: figures of a folder as text and as JSON, errors in a line; without it rewards are listed."""

import json
from pathlib import Path

import pytest

from rlft.cli import main
from rlft.reward_models import write_pairs
from rlft.reward_models.folder import HELD_OUT
from rlft.reward_models.origin import write_origin
from rlft.reward_models.pair_file import Pair
from tests.trainers.prlm_runs import write_scorer

PAIRS = [
    Pair(str(n), f"u{n}", f"{n}+1=", [{"id": "0", "text": f"{n}", "target": None, "date": None}], "1", ["22"], ["none"])
    for n in range(4)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_scorer(tmp_path / "scorer")


def test_a_blind_reward_model_has_no_swap_gap(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(PAIRS, folder / HELD_OUT)
    assert main(["rewards", "audit", str(folder), "--task", "toy"]) == 0
    assert "blind scorer of toy, 4 pairs of 4 users" in (text := capsys.readouterr().out)
    assert "swap gap            0.000   standard error 0.000" in text
    assert main(["rewards", "audit", str(folder), "--json", "--device", "cpu"]) == 0
    audit = json.loads(capsys.readouterr().out)
    assert audit["swap_gap"] == {"mean": 0, "positive": 0, "standard_error": 0}
    assert audit["trained"] == {"loss": "bt"}


def test_pairs_may_come_from_a_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(PAIRS[:2], tmp_path / "mine.jsonl")
    assert main(["rewards", "audit", str(folder), "--pairs", str(tmp_path / "mine.jsonl")]) == 0
    assert ", 2 pairs" in capsys.readouterr().out


def test_what_cannot_be_audited_is_said_in_a_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "1"}\n')
    write_pairs(PAIRS[:1], tmp_path / "one.jsonl")
    for flags, message in (
        ([], "give pairs of held-out users with --pairs"),
        (["--task", "LaMP_4"], "for the task 'toy', not for 'LaMP_4'"),
        (["--pairs", str(tmp_path / "none.jsonl")], "none.jsonl"),
        (["--pairs", str(tmp_path / "bad.jsonl")], "lacks user_id"),
        (["--pairs", str(tmp_path / "one.jsonl")], "two users"),
        (["--pairs", str(tmp_path / "one.jsonl"), "--device", "abacus"], "--device abacus cannot be used here"),
    ):
        assert main(["rewards", "audit", str(folder), *flags]) == 1
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("rlft: error: ")
        assert message in said[-1]
        assert not [line for line in said if "Traceback" in line]


def test_a_run_folder_is_told_from_the_reward_model_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewards", "audit", str(folder.parent)]) == 1
    assert capsys.readouterr().err == f"rlft: error: {folder.parent} has no scorer.json; is it {folder}?\n"


def test_the_figures_stand_alone(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_pairs(PAIRS, folder / HELD_OUT)
    assert main(["rewards", "audit", str(folder)]) == 0
    assert capfd.readouterr().err == ""


def test_without_a_subcommand_rewards_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewards"]) == 0
    assert "exact_match" in capsys.readouterr().out


def test_pairs_that_it_was_trained_on_are_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_origin(folder, {}, PAIRS[:3])
    write_pairs(PAIRS, tmp_path / "pairs.jsonl")
    assert main(["rewards", "audit", str(folder), "--pairs", str(tmp_path / "pairs.jsonl")]) == 0
    assert "it was trained on 3 of these pairs" in capsys.readouterr().out
