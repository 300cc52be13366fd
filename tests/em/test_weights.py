"""Weights against hand-made values and closed forms, the invariances they must have, and what bad input gets."""

import math
from itertools import pairwise

import numpy as np
import pytest

from rlft.em.diagnostics import ess_histogram, weight_metrics
from rlft.em.weighing import Dropped, WeightOptions, answer_score, weigh
from rlft.em.weights import combine_aliases, effective_sample_size, importance_weights

INF = math.inf


def scores(seed: int, k: int = 8, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-10, spread, k)


def test_weights_are_a_softmax_that_survives_any_magnitude() -> None:
    np.testing.assert_allclose(importance_weights([-1000, -1001]), [0.731058578630005, 0.268941421369995], rtol=1e-12)
    np.testing.assert_allclose(importance_weights([-1e6, -1e6 - 1]), importance_weights([-1000, -1001]), rtol=1e-9)
    assert importance_weights([-123.0]).tolist() == [1.0]
    np.testing.assert_allclose(importance_weights([-4.0, -INF, -4.0]), [0.5, 0, 0.5], rtol=1e-12)
    naive = np.exp(scores(0)) / np.exp(scores(0)).sum()
    np.testing.assert_allclose(importance_weights(scores(0)), naive, rtol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 3.0},
        {"ess_floor": 0.5},
        {"uniform_mix": 0.2},
        {"max_weight": 0.3},
        {"temperature": 0.5, "ess_floor": 0.3, "uniform_mix": 0.1, "max_weight": 0.4},
    ],
)
def test_shift_permutation_and_sum(settings: dict[str, float]) -> None:
    for seed in range(20):
        s = scores(seed)
        w = importance_weights(s, **settings)
        assert w.sum() == pytest.approx(1, abs=1e-12)
        assert (w >= 0).all()
        np.testing.assert_allclose(importance_weights(s + 300, **settings), w, atol=1e-9)
        order = np.random.default_rng(seed).permutation(8)
        np.testing.assert_allclose(importance_weights(s[order], **settings), w[order], atol=1e-12)
        assert (np.diff(w[np.argsort(s)]) >= -1e-12).all(), "a likelier answer never weighs less"


def test_temperature_of_the_answers_length_turns_sums_into_means() -> None:
    s = scores(1)
    np.testing.assert_allclose(importance_weights(s, temperature=5), importance_weights(s / 5), rtol=1e-12)
    options = WeightOptions(length_norm=True, aliases="first")
    means = [answer_score([value], [5], options) for value in s]
    np.testing.assert_allclose(weigh(means, options).weights_K, importance_weights(s, temperature=5), rtol=1e-12)


def test_effective_sample_size() -> None:
    assert effective_sample_size([0.125] * 8) == pytest.approx(8, rel=1e-12)
    assert effective_sample_size([0, 1, 0]) == pytest.approx(1, rel=1e-12)
    assert effective_sample_size([0.5, 0.25, 0.25]) == pytest.approx(1 / (0.25 + 2 / 16), rel=1e-12)
    for seed in range(20):
        w = importance_weights(scores(seed))
        assert 1 <= effective_sample_size(w) <= 8
        assert effective_sample_size(w * 8) == pytest.approx(1 / (w**2).sum(), rel=1e-12)
    for bad in ([], [0.0, 0.0], [0.5, -0.5], [math.nan]):
        with pytest.raises(ValueError, match="finite, not negative"):
            effective_sample_size(bad)


@pytest.mark.parametrize("floor", [0.25, 0.5, 0.9, 0.999])
def test_ess_floor_is_met_by_the_lowest_temperature(floor: float) -> None:
    for seed in range(20):
        s = scores(seed, spread=8.0)
        ess = effective_sample_size(importance_weights(s, ess_floor=floor))
        before = effective_sample_size(importance_weights(s))
        assert ess == pytest.approx(max(floor * 8, before), abs=1e-6)
        temperatures = np.geomspace(1, 1e4, 4000)
        reached = next(
            t for t in temperatures if effective_sample_size(importance_weights(s, temperature=t)) >= floor * 8
        )
        np.testing.assert_allclose(
            importance_weights(s, ess_floor=floor), importance_weights(s, temperature=reached), atol=5e-3
        )


def test_ess_floor_beyond_the_positive_likelihoods_gives_equal_weights() -> None:
    np.testing.assert_allclose(importance_weights([-1, -INF, -30, -INF], ess_floor=0.75), [0.5, 0, 0.5, 0], atol=1e-12)


def test_uniform_mix() -> None:
    s = scores(2)
    np.testing.assert_allclose(importance_weights(s, uniform_mix=0.2), 0.8 * importance_weights(s) + 0.025, rtol=1e-12)
    np.testing.assert_allclose(importance_weights([0, -INF], uniform_mix=0.2), [0.9, 0.1], rtol=1e-12)
    np.testing.assert_allclose(importance_weights(s, uniform_mix=1.0), [0.125] * 8, rtol=1e-12)


def brute_force_cap(weights: np.ndarray, cap: float) -> np.ndarray:
    """Clip and hand the excess to the others in proportion, until nothing exceeds the cap."""
    w, fixed = weights.copy(), np.zeros(len(weights), dtype=bool)
    while (w > cap + 1e-15).any():
        fixed |= w > cap
        w[fixed] = cap
        w[~fixed] *= (1 - cap * fixed.sum()) / w[~fixed].sum()
    return w


@pytest.mark.parametrize("cap", [0.126, 0.2, 0.34, 0.5, 0.9, 1.0])
def test_max_weight_is_respected(cap: float) -> None:
    for seed in range(50):
        w = importance_weights(scores(seed), max_weight=cap)
        assert w.max() <= cap + 1e-15
        assert w.sum() == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(w, brute_force_cap(importance_weights(scores(seed)), cap), atol=1e-12)


def test_max_weight_reaches_weights_that_underflow() -> None:
    np.testing.assert_allclose(importance_weights([0, -2000, -2001], max_weight=0.5), [0.5, 0.3655, 0.1345], atol=1e-4)
    np.testing.assert_allclose(importance_weights([0, -5, -9, -2], max_weight=0.25), [0.25] * 4, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([-1, math.nan], {}, "NaN"),
        ([-1, INF], {}, "inf"),
        ([-INF, -INF], {}, "all 2 log-likelihoods are -inf"),
        ([], {}, "K >= 1"),
        ([-1, -2], {"temperature": 0}, "temperature=0"),
        ([-1, -2], {"temperature": math.nan}, "temperature=nan"),
        ([-1, -2], {"ess_floor": 1}, "ess_floor=1"),
        ([-1, -2], {"uniform_mix": 1.5}, "uniform_mix=1.5"),
        ([-1, -2], {"max_weight": 0}, "max_weight=0"),
        ([-1, -2], {"max_weight": 0.49}, "at least 0.5"),
        ([-1, -2, -INF], {"max_weight": 0.4}, "2 of 3"),
    ],
)
def test_bad_input_is_refused(values: list[float], settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        importance_weights(values, **settings)


def test_aliases() -> None:
    assert combine_aliases([-3.0, -1.0, -2.0]) == -1
    assert combine_aliases([-3.0, -1.0], "first") == -3
    assert combine_aliases([math.log(0.25), math.log(0.5)], "logsumexp") == pytest.approx(math.log(0.75))
    assert combine_aliases([-1000.0, -1000.0], "logsumexp") == pytest.approx(-1000 + math.log(2))
    assert math.isnan(combine_aliases([math.nan, -1.0]))
    assert math.isnan(combine_aliases([-1.0, math.nan]))
    with pytest.raises(ValueError, match="without a gold answer"):
        combine_aliases([])
    with pytest.raises(ValueError, match="aliases='mean'"):
        combine_aliases([-1.0], "mean")
    per_token = WeightOptions(length_norm=True)
    assert answer_score([-6.0, -4.0], [6, 1], per_token) == -1, "each answer by its own length, then the best"
    assert answer_score(None, [6, 1], per_token) is None


GUESS, WRONG, GOOD = -3.7, -9.0, -0.02  # log-likelihoods of a trained tiny model after each kind of trajectory


def test_an_all_wrong_group_rewards_the_guess_unless_there_is_a_floor() -> None:
    group = [GUESS, WRONG, WRONG, WRONG, WRONG, GUESS, WRONG, WRONG]
    as_published = weigh(group, WeightOptions())
    assert as_published.weights_K is not None
    assert as_published.weights_K[0] + as_published.weights_K[5] > 0.98
    floored = weigh(group, WeightOptions(min_best_loglik=math.log(0.2)))
    assert floored.dropped == Dropped.ALL_WRONG == "all_wrong"
    assert floored.weights_K is None
    assert floored.search_K is None
    kept = weigh([*group[:-1], GOOD], WeightOptions(min_best_loglik=math.log(0.2)))
    assert kept.weights_K is not None
    assert kept.weights_K[-1] > 0.9


def test_reasons_to_drop_a_question() -> None:
    assert weigh([None, math.nan], WeightOptions()).dropped == Dropped.UNSCORED
    assert weigh([-INF, None], WeightOptions()).dropped == Dropped.ZERO_LIKELIHOOD
    assert weigh([-1.0, -1.05], WeightOptions(min_spread=0.1)).dropped == Dropped.NO_SPREAD
    assert weigh([-1.0, -1.15], WeightOptions(min_spread=0.1)).dropped is None
    assert weigh([-1.0, -2.0], WeightOptions(weighting="rejection"), [False, False]).dropped == Dropped.NONE_CORRECT
    assert weigh([-1.0, None, None], WeightOptions(max_weight=0.5)).dropped == Dropped.CAP
    assert weigh([-1.0, -INF], WeightOptions(max_weight=0.5)).dropped == Dropped.CAP
    assert weigh([-1.0, -INF], WeightOptions(max_weight=0.5, uniform_mix=0.1)).dropped is None


def test_a_trajectory_without_score_weighs_nothing_and_does_not_count() -> None:
    weighed = weigh([-1.0, None, -2.0, math.nan], WeightOptions(baseline="group", uniform_mix=0.1))
    expected = importance_weights([-1, -2], uniform_mix=0.1)
    assert weighed.weights_K == pytest.approx([expected[0], 0, expected[1], 0])
    assert weighed.search_K == pytest.approx([expected[0] - 0.5, 0, expected[1] - 0.5, 0])
    assert weighed.scores_K == [-1, None, -2, None]


def test_weightings_and_baseline() -> None:
    s, right = [-1.0, -2.0, -3.0, -4.0], [False, True, False, True]
    assert weigh(s, WeightOptions(weighting="uniform")).weights_K == [0.25] * 4
    assert weigh(s, WeightOptions(weighting="rejection"), right).weights_K == [0, 0.5, 0, 0.5]
    weighed = weigh(s, WeightOptions(baseline="group"))
    assert weighed.weights_K == pytest.approx(importance_weights(s).tolist())
    assert weighed.search_K == pytest.approx((importance_weights(s) - 0.25).tolist())
    assert weighed.ess == pytest.approx(effective_sample_size(importance_weights(s)))
    with pytest.raises(ValueError, match="needs correct_K"):
        weigh(s, WeightOptions(weighting="rejection"))
    with pytest.raises(ValueError, match=r"\+inf"):
        weigh([INF], WeightOptions(weighting="uniform"))


@pytest.mark.parametrize("bad", [{"weighting": "f1"}, {"aliases": "mean"}, {"baseline": "k"}, {"min_spread": -1}])
def test_bad_options_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
        WeightOptions(**bad)  # type: ignore[arg-type]


def test_diagnostics_count_every_question_once() -> None:
    options = WeightOptions(min_best_loglik=-5)
    groups = [[-1.0, -1.0], [-0.5, -40.0], [-9.0, -9.0], [None, None], [-1.0, -INF], [None, -2.0]]
    questions = [weigh(group, options) for group in groups]
    metrics = weight_metrics(questions)
    assert metrics["questions"] == 6
    assert metrics["kept"] == 4
    assert metrics["unscored"] == 3
    assert metrics["dropped/all_wrong"] == 1
    assert metrics["dropped/unscored"] == 1
    assert metrics["kept"] + sum(v for name, v in metrics.items() if name.startswith("dropped/")) == 6
    assert metrics["ess_ratio"] == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
    assert metrics["collapsed"] == 0.75
    assert metrics["loglik_best"] == pytest.approx((-1 - 0.5 - 9 - 1 - 2) / 5)
    assert metrics["loglik_spread"] == pytest.approx(39.5 / 5)
    assert sum(ess_histogram(questions)) == 4
    assert ess_histogram(questions)[-1] == 2
    assert weight_metrics([])["questions"] == 0


def test_a_higher_floor_never_lowers_the_effective_sample_size() -> None:
    sizes = [effective_sample_size(importance_weights(scores(3), ess_floor=f)) for f in np.linspace(0, 0.99, 30)]
    assert all(b >= a - 1e-9 for a, b in pairwise(sizes))
