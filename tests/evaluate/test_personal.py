"""LaMP's metrics against hand-worked cases and scikit-learn's, and bootstrap intervals against their properties."""

import random

import numpy as np
import pytest

from rlft.data.lamp_tasks import LAMP_TASKS
from rlft.evaluate.personal import Measured, bootstrap, paired_bootstrap, personal_metrics, thinking_words


def said(task: int, *answers: str | None) -> list[str]:
    key = LAMP_TASKS[task].answer_key
    return [f"a b c</think>{{'{key}': '{answer}'}}" if answer is not None else "a b" for answer in answers]


def values(measured: dict[str, Measured]) -> dict[str, float]:
    return {name: one.value for name, one in measured.items()}


def test_ratings() -> None:
    golds = ["1", "3", "4", "5", "5"]
    # LaMP's rule for what is no number: the farther end of the scale, 5 from 1, 5 from 3, 1 from 4
    metrics = values(personal_metrics(LAMP_TASKS[3], said(3, None, "good", "inf", "4", "5.0"), golds))
    assert metrics["mae"] == pytest.approx((4 + 2 + 3 + 1 + 0) / 5)
    assert metrics["rmse"] == pytest.approx(((16 + 4 + 9 + 1 + 0) / 5) ** 0.5)
    assert metrics["parseable"] == 2 / 5
    assert metrics["thinking_words"] == (2 + 3 * 4) / 5


def test_labels_against_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng, labels = random.Random(4), list(LAMP_TASKS[2].labels or ())
    for _ in range(20):
        golds = rng.choices(labels[:9], k=12)
        answers = rng.choices([*labels[:12], "not a tag"], k=12)
        metrics = values(personal_metrics(LAMP_TASKS[2], said(2, *answers), golds))
        expected = sklearn.f1_score(golds, answers, labels=labels, average="macro", zero_division=0)
        assert metrics["macro_f1"] == pytest.approx(expected)
        assert metrics["accuracy"] == pytest.approx(sklearn.accuracy_score(golds, answers))
        assert metrics["parseable"] == 1


def test_a_missing_label_is_wrong() -> None:
    metrics = values(personal_metrics(LAMP_TASKS[1], said(1, "[1]", None, "[2]"), ["[1]", "[1]", "[2]"]))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("task", [4, 5, 6, 7])
def test_texts(task: int) -> None:
    completions = said(task, "New York old hall", None, "It's {me}")
    metrics = values(personal_metrics(LAMP_TASKS[task], completions, ["the new york city hall", "x y", "It's {me}"]))
    assert metrics["rouge1"] == pytest.approx((6 / 9 + 0 + 1) / 3)
    assert metrics["rougeL"] == pytest.approx((6 / 9 + 0 + 1) / 3)
    assert metrics["parseable"] == pytest.approx(2 / 3)
    assert {*LAMP_TASKS[task].metrics, "parseable", "thinking_words"} == metrics.keys()


def test_a_policy_that_does_not_think() -> None:
    metrics = values(personal_metrics(LAMP_TASKS[7], ["{'tweet': 'a b'}"], ["a b"], think_end=None))
    assert metrics == {"rouge1": 1.0, "rougeL": 1.0, "parseable": 1.0}


@pytest.mark.parametrize("task", LAMP_TASKS)
def test_bad_golds_are_refused(task: int) -> None:
    with pytest.raises(ValueError, match="2 completions, 1 golds"):
        personal_metrics(LAMP_TASKS[task], ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 completions"):
        personal_metrics(LAMP_TASKS[task], [], [])
    with pytest.raises(ValueError, match="row 0: gold answer None"):
        personal_metrics(LAMP_TASKS[task], ["a"], [None])
    if LAMP_TASKS[task].labels:
        with pytest.raises(ValueError, match="gold answer 'food' is not one of"):
            personal_metrics(LAMP_TASKS[task], ["a"], ["food"])


def mean_of(values_N: np.ndarray) -> Measured:
    return Measured(values_N, lambda chosen_N: float(chosen_N.mean()))


def test_interval_of_a_mean_is_near_the_normal_one() -> None:
    values_N = np.random.default_rng(1).normal(2.0, 1.0, size=400)
    found = bootstrap(mean_of(values_N), resamples=2000)
    half = 1.96 * values_N.std() / 20
    assert found.value == pytest.approx(values_N.mean())
    np.testing.assert_allclose([found.value - found.low, found.high - found.value], half, rtol=0.15)
    assert bootstrap(mean_of(values_N), resamples=2000) == found
    assert bootstrap(mean_of(values_N), resamples=2000, level=0.5).high < found.high


def test_rows_of_one_user_are_drawn_together() -> None:
    """Rows that repeat one draw of each user say no more than one row of each."""
    of_user = np.random.default_rng(3).normal(size=60)
    users = [f"u{number % 60}" for number in range(600)]
    often, once = mean_of(np.tile(of_user, 10)), mean_of(of_user)
    together, single = bootstrap(often, users=users, resamples=2000), bootstrap(once, resamples=2000)
    assert together[:] == pytest.approx(single[:], abs=0.03)
    assert bootstrap(often).high - bootstrap(often).low < (single.high - single.low) / 2
    assert bootstrap(once, users=users[:60], resamples=2000)[:] == pytest.approx(single[:], abs=1e-9)
    with pytest.raises(ValueError, match="59 users for 60 rows"):
        bootstrap(once, users=users[:59])


def test_pairing_uses_that_the_rows_are_the_same() -> None:
    rng = np.random.default_rng(2)
    hard_N = rng.normal(size=300)
    better, worse = mean_of(hard_N + 0.1 + rng.normal(0, 0.1, size=300)), mean_of(hard_N)
    paired = paired_bootstrap(better, worse)
    assert paired.value == pytest.approx(better.value - worse.value)
    assert 0 < paired.low < paired.value < paired.high
    alone = bootstrap(better)
    assert paired.high - paired.low < (alone.high - alone.low) / 4
    assert paired_bootstrap(worse, worse)[:] == (0.0, 0.0, 0.0)
    mirrored = paired_bootstrap(worse, better)
    np.testing.assert_allclose([mirrored.low, mirrored.high], [-paired.high, -paired.low])


@pytest.mark.parametrize("task", [2, 3, 4])
def test_every_metric_has_an_interval(task: int) -> None:
    labels = LAMP_TASKS[task].labels or ("a b", "c d")
    golds = random.Random(3).choices(labels, k=40)
    answers = [gold if number % 3 else labels[0] for number, gold in enumerate(golds)]
    for measured in personal_metrics(LAMP_TASKS[task], said(task, *answers), golds).values():
        found = bootstrap(measured, resamples=100)
        constant = np.ptp(measured.rows) == 0
        assert found.low <= found.value <= found.high
        assert constant or found.low < found.high


def test_bad_bootstraps_are_refused() -> None:
    one, other = mean_of(np.ones(3)), mean_of(np.ones(4))
    with pytest.raises(ValueError, match="3 rows against 4"):
        paired_bootstrap(one, other)
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap(one, resamples=0)
    with pytest.raises(ValueError, match="level=95"):
        bootstrap(one, level=95)


@pytest.mark.parametrize(
    ("text", "words"), [("a b</think>c", 2), ("a </think> b c </think> d", 4), ("never closed", 2), ("</think>x", 0)]
)
def test_words_of_the_thinking(text: str, words: int) -> None:
    assert thinking_words(text, "</think>") == words
