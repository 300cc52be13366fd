"""How a run of personal answers ends that cannot go on, or has learnt nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from rlft.finish import short_endings
from rlft.finish_prlm import _answers_missed
from rlft.trainers.trust import TrustCallback, TrustError


def trainer(folder: Path, *shares: float) -> Any:
    """What is read of a trainer whose completions had answers in these shares."""
    state = TrainerState(global_step=2, log_history=[{"prlm/parseable": share} for share in shares])
    said = {"think_end": "</think>", "answer_key": "title", "max_completion_length": 16, "output_dir": str(folder)}
    return SimpleNamespace(args=SimpleNamespace(**said), state=state)


def end_without_gradient(of: Any) -> None:
    with short_endings(of), _answers_missed(of):
        TrustCallback().on_train_end(of.args, of.state, TrainerControl())


def test_a_run_without_answers_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        end_without_gradient(trainer(tmp_path, 0.0, 0.0))
    for part in ("no completion of the run held an answer", "--answer_key title", "--think_end </think>"):
        assert part in str(ended.value)
    assert "--max_completion_length 16" in str(ended.value)
    assert "easier" not in str(ended.value)


@pytest.mark.parametrize("shares", [(), (0.0, 0.5)])
def test_a_run_with_answers_and_equal_rewards_is_told_of_the_rewards(shares: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="Make the problems easier or harder"):
        end_without_gradient(trainer(tmp_path, *shares))


def test_other_trust_errors_stay_as_they_are(tmp_path: Path) -> None:
    of = trainer(tmp_path, 0.0)
    with pytest.raises(SystemExit, match="3 gradients are not finite"), short_endings(of), _answers_missed(of):
        raise TrustError("3 gradients are not finite")


def test_scores_that_are_no_numbers_end_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: the scorer gave nan\\b.*\\nKept: "), short_endings(trainer(tmp_path)):
        raise FloatingPointError("the scorer gave nan for 'x'")
