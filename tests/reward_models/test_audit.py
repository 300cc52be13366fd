"""The audit's numbers against closed forms, on scorers whose scores are known."""

import argparse
import math

import numpy as np
import pytest
import torch

from rlft.reward_models.audit import (
    audit_command,
    audit_scorer,
    audit_text,
    check_drift,
    clustered_error,
    pair_accuracy,
    swap_gap,
)
from rlft.reward_models.folder import ScorerError, write_scorer_json
from rlft.reward_models.measures import calibration, length_slope
from rlft.reward_models.pair_file import write_pairs
from rlft.reward_models.scorer import Scorer
from tests.reward_models.toy import decoder, make_pairs, spec


class Known:
    """A scorer whose score is a function of profile and answer."""

    def __init__(self, rule, form="aware"):
        self.rule, self.spec = rule, spec(form)

    def score(self, queries, profiles, answers):
        return torch.tensor([float(self.rule(*one)) for one in zip(profiles, answers, strict=True)])


def own(profile, answer):
    """3 for an answer in the profile's style, -3 for none, -1 for another's."""
    marker = answer.split()[0]
    return 3 if profile[0]["text"].startswith(marker) else -3 if marker == "plain" else -1


def blind(profile, answer):
    return -3 if answer.startswith("plain") else 3


PAIRS = make_pairs(50)


def test_accuracy_by_kind():
    assert pair_accuracy(Known(own), PAIRS) == {"all": 1.0, "none": 1.0, "swap": 1.0}
    assert pair_accuracy(Known(blind), PAIRS) == {"all": 0.5, "none": 1.0, "swap": 0.0}  # a tie is a miss
    assert pair_accuracy(Known(lambda profile, answer: -own(profile, answer)), PAIRS)["all"] == 0.0


def test_the_swap_gap_is_what_another_profile_takes_away():
    gap = swap_gap(Known(own), PAIRS)
    assert gap == {"mean": 4.0, "positive": 1.0, "standard_error": 0.0}
    assert swap_gap(Known(blind), PAIRS)["mean"] == 0.0


def test_the_swap_gap_of_a_real_blind_scorer_is_exactly_0():
    made = Scorer(*decoder(), spec("blind"), batch_tokens=40)
    assert swap_gap(made, PAIRS) == {"mean": 0.0, "positive": 0.0, "standard_error": 0.0}


def test_the_swap_gap_needs_a_second_user():
    with pytest.raises(ValueError, match="another user"):
        swap_gap(Known(own), [pair for pair in PAIRS if pair.user_id == "m0"])


def test_pairs_of_one_user_count_as_one_draw():
    """Every pair five times under its user's name: the error stays, as closed form and by leaving nothing out."""
    values = np.random.default_rng(0).normal(size=8)
    users = [f"u{n}" for n in range(8)]
    alone = values.std(ddof=1) / np.sqrt(8)
    assert clustered_error(values, users) == pytest.approx(alone)
    assert clustered_error(np.repeat(values, 5), np.repeat(users, 5)) == pytest.approx(alone)
    assert clustered_error(values, ["u"] * 8) == 0.0


def test_the_slope_is_that_of_the_line():
    words = np.array([[1.0, 5.0], [2.0, 9.0], [4.0, 4.0]])
    length = length_slope(2 - 0.5 * words[:, 0], 2 - 0.5 * words[:, 1], words)
    assert length["slope"] == pytest.approx(-0.5)
    assert [length[name] for name in ("correlation", "difference_correlation")] == pytest.approx([-1, -1])
    assert length["rule_accuracy"] == pytest.approx(2.5 / 3)


def test_the_slope_agrees_with_numpy_and_is_free_of_a_shift():
    draw = np.random.default_rng(0)
    words, scores = draw.integers(1, 30, (40, 2)).astype(float), draw.normal(size=(40, 2))
    length = length_slope(scores[:, 0], scores[:, 1], words)
    slope, _ = np.polyfit(words.T.ravel(), scores.T.ravel(), 1)
    assert length["slope"] == pytest.approx(slope)
    shifted = length_slope(scores[:, 0] + 5, scores[:, 1] + 5, words)
    assert shifted["slope"] == pytest.approx(slope)


def test_equal_lengths_and_equal_scores_have_no_slope():
    equal = length_slope(np.array([1.0, 2.0]), np.array([0.0, 3.0]), np.full((2, 2), 4.0))
    assert equal == {"slope": 0.0, "correlation": 0.0, "difference_correlation": 0.0, "rule_accuracy": 0.5}


def test_probabilities_that_hold_are_calibrated():
    margin = math.log(3)  # p = 0.75, right three times in four
    table = calibration(np.array([margin] * 3 + [-margin]))
    assert table["ece"] == pytest.approx(0)
    assert table["bins"] == [{"confidence": pytest.approx(0.75), "accuracy": 0.75, "count": 4}]
    assert table["nll"] == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


def test_overconfidence_is_measured():
    table = calibration(np.array([40.0, 40.0, -40.0, -40.0]))
    assert table["ece"] == pytest.approx(0.5)
    level = calibration(np.zeros(3))
    assert (level["ece"], level["nll"]) == (0.0, pytest.approx(math.log(2)))


def test_only_what_a_scorer_was_trained_to_tell_sets_off_the_alarm():
    pooled, trained = (check_drift(Known(blind), PAIRS, 0.5, kinds) for kinds in (("none", "swap"), ("swap",)))
    assert (pooled.deciding, trained.deciding) == (pooled.accuracy["all"], pooled.accuracy["swap"])
    assert trained.alarm
    assert pooled.accuracy == trained.accuracy
    assert check_drift(Known(blind), PAIRS, 0.5, ("corrupt",)).deciding == pooled.accuracy["all"]


def test_drift_goes_off_below_the_threshold():
    fine, drifted = check_drift(Known(own), PAIRS), check_drift(Known(blind), PAIRS)
    assert (fine.alarm, drifted.alarm, drifted.pairs) == (False, True, 50)
    assert "swap 0.000) is below 0.6; stop" in drifted.message
    assert not check_drift(Known(blind), PAIRS, threshold=0.5).alarm
    with pytest.raises(ValueError, match="share of pairs"):
        check_drift(Known(own), PAIRS, threshold=60)
    with pytest.raises(ScorerError, match="no pairs"):
        check_drift(Known(own), [])


@pytest.fixture
def folder(tmp_path):
    model, tokenizer = decoder()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "scorer")
    write_scorer_json(tmp_path / "scorer", spec("blind"), tokenizer, {"loss": "bt"})
    return tmp_path / "scorer"


def arguments(folder, **given):
    return argparse.Namespace(**({"folder": folder, "pairs": None, "task": None, "seed": 0, "device": "cpu"} | given))


def test_the_command_takes_the_pairs_that_were_set_aside(folder, tmp_path):
    with pytest.raises(ScorerError, match="--pairs FILE"):
        audit_command(arguments(folder))
    write_pairs(PAIRS, folder / "held_out.jsonl")
    write_pairs(PAIRS[:20], tmp_path / "others.jsonl")
    audit = audit_command(arguments(folder))
    assert (audit["pairs"], audit["negatives"], audit["trained"]) == (50, {"none": 50, "swap": 50}, {"loss": "bt"})
    assert audit["swap_gap"]["mean"] == 0.0
    assert audit_command(arguments(folder, pairs=tmp_path / "others.jsonl"))["pairs"] == 20
    with pytest.raises(ScorerError, match="not for 'LaMP_5'"):
        audit_command(arguments(folder, task="LaMP_5"))


@pytest.mark.parametrize("device", ["no such", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_a_model_is_loaded(device, folder, monkeypatch):
    write_pairs(PAIRS, folder / "held_out.jsonl")
    monkeypatch.setattr(Scorer, "load", None)
    with pytest.raises(ScorerError, match=f"--device {device} cannot be used here"):
        audit_command(arguments(folder, device=device))


def test_the_text_holds_every_number():
    text = audit_text(audit_scorer(Known(own), PAIRS))
    assert "accuracy all        1.000   of 100 rejected answers, chance 0.500\n" in text
    assert "accuracy swap       1.000   of 50\n" in text
    assert "swap gap            4.000" in text
    assert "trained with" not in text


def test_the_text_says_what_it_was_trained_with():
    trained = {"loss": "bt", "pairs": 9, "negatives": {"swap": 7, "none": 9}}
    text = audit_text(audit_scorer(Known(own), PAIRS) | {"trained": trained})
    assert "\ntrained with bt on 9 pairs; rejected answers: 9 none, 7 swap\n" in text


def test_the_text_says_where_there_is_no_gap():
    unsure, sees_none = "do not show that the scorer reads the profile", "a blind scorer sees no profile"
    texts = [audit_text(audit_scorer(Known(*known), PAIRS)) for known in ((own,), (blind,), (blind, "blind"))]
    assert [(unsure in text, sees_none in text) for text in texts] == [(False, False), (True, False), (False, True)]
