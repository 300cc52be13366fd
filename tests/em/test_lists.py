"""Weights of lists: counts against samples, what each option acts on, advantages against TRL's, and bad input."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from trl.trainer.utils import nanstd

from rlft.em.diagnostics import weight_metrics
from rlft.em.lists import DEDUP, group_advantages, weigh_lists
from rlft.em.weighing import Dropped, WeightOptions, answer_score, weigh

Lists = list[tuple[int, ...] | None]

Places = tuple[int, ...]
A: Places = (0, 1)
B: Places = (1, 0)
C: Places = (2, 3)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 3.0},
    {"ess_floor": 0.6},
    {"uniform_mix": 0.2},
    {"max_weight": 0.2},
    {"baseline": "group"},
    {"weighting": "uniform", "baseline": "group"},
    {"weighting": "rejection"},
    {"temperature": 0.5, "ess_floor": 0.3, "uniform_mix": 0.1, "max_weight": 0.4, "baseline": "group"},
]


def sampled(seed: int, k: int = 10) -> tuple[Lists, list[float | None], list[bool]]:
    """K samples of a few lists, some of them invalid, and whether each one's answer is right."""
    rng = np.random.default_rng(seed)
    scores = {places: float(rng.normal(-5, 3)) for places in (A, B, C)}
    lists: Lists = [(A, B, C, None)[i] for i in rng.choice(4, size=k, p=[0.5, 0.2, 0.2, 0.1])]
    lists[0] = C
    right = [places == C or bool(rng.random() < 0.3) for places in lists]
    return lists, [None if places is None else scores[places] for places in lists], right


def per_list(lists_K: Lists, weights_K: list[float] | None) -> dict[Any, float]:
    assert weights_K is not None
    return {u: sum(w for z, w in zip(lists_K, weights_K, strict=True) if z == u) for u in set(lists_K)}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_counts_and_samples_give_every_list_the_same_weight(settings: dict[str, Any]) -> None:
    options = WeightOptions(**settings)
    for seed in range(20):
        lists, scores, right = sampled(seed)
        none, count = (weigh_lists(lists, scores, options, dedup, right) for dedup in ("none", "count"))
        assert none == weigh(scores, options, right)
        assert count.ess == none.ess
        assert count.scores_K == none.scores_K
        for of_none, of_count in ((none.weights_K, count.weights_K), (none.search_K, count.search_K)):
            assert per_list(lists, of_count) == pytest.approx(per_list(lists, of_none), abs=1e-14)
            assert of_count is not None
            assert not any(w for k, w in enumerate(of_count) if lists[k] is None or lists[k] in lists[:k])
        assert sum(count.weights_K or []) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("dedup", DEDUP)
def test_the_order_of_the_samples_does_not_matter(dedup: str) -> None:
    for seed in range(10):
        lists, scores, _ = sampled(seed)
        order = np.random.default_rng(seed).permutation(len(lists))
        shuffled: Lists = [lists[i] for i in order]
        before = weigh_lists(lists, scores, WeightOptions(), dedup)
        after = weigh_lists(shuffled, [scores[i] for i in order], WeightOptions(), dedup)
        assert per_list(shuffled, after.weights_K) == pytest.approx(per_list(lists, before.weights_K), abs=1e-12)


def test_closed_forms_of_count_and_support() -> None:
    lists: Lists = [A, B, A, (), A, None]
    scores = [math.log(0.1), math.log(0.4), math.log(0.1), None, math.log(0.1), None]
    count = weigh_lists(lists, scores, WeightOptions(baseline="group"))
    assert count.weights_K == pytest.approx([3 / 7, 4 / 7, 0, 0, 0, 0], rel=1e-12)
    assert count.search_K == pytest.approx([3 / 7 - 3 / 4, 4 / 7 - 1 / 4, 0, 0, 0, 0], rel=1e-12)
    assert count.ess == pytest.approx(0.7**2 / (3 * 0.1**2 + 0.4**2), rel=1e-12)
    support = weigh_lists(lists, scores, WeightOptions(baseline="group"), "support")
    assert support.weights_K == pytest.approx([0.2, 0.8, 0, 0, 0, 0], rel=1e-12)
    assert support.search_K == pytest.approx([-0.3, 0.3, 0, 0, 0, 0], rel=1e-12)
    assert support.ess == pytest.approx(1 / (0.2**2 + 0.8**2), rel=1e-12)
    assert len(support.scored) == 2
    assert weight_metrics([support])["ess_ratio"] == pytest.approx((support.ess or 0) / 2)


def test_copies_of_one_list_are_not_one_samples_weight() -> None:
    """`collapsed` asks how much one sample weighs, so equal lists that share a row are no collapse."""
    alike = [(weigh_lists([A] * 8, [-1.0] * 8, WeightOptions(), dedup)) for dedup in ("count", "none")]
    assert [weighed.largest for weighed in alike] == pytest.approx([1 / 8] * 2, rel=1e-12)
    assert weight_metrics(alike)["collapsed"] == 0
    ahead = [weigh_lists([A, B, B], [0.0, -9.0, -9.0], WeightOptions(), dedup) for dedup in DEDUP]
    assert min(weighed.largest or 0 for weighed in ahead) > 0.99
    assert weight_metrics(ahead)["collapsed"] == 1
    assert weigh_lists([A, B], [0.0, -9.0], WeightOptions(max_weight=0.6)).largest == pytest.approx(0.6)
    assert weigh_lists([None], [None], WeightOptions()).largest is None


@pytest.mark.parametrize("dedup", DEDUP)
def test_samples_that_are_no_lists_are_rewarded_too(dedup: str) -> None:
    lists: Lists = [A, None, A, B, None]
    scores, rewards = [-1.0, None, -1.0, -2.0, None], [0.4, 0.0, 0.4, 0.1, 0.0]
    weighed = weigh_lists(lists, scores, WeightOptions(), dedup, rewards_K=rewards)
    own = group_advantages([0.4, 0.0, None if dedup == "support" else 0.4, 0.1, 0.0]).tolist()
    expected = [own[0] + own[2], own[1], 0.0, own[3], own[4]] if dedup == "count" else own
    assert weighed.search_K == pytest.approx(expected, abs=1e-12)
    assert max(expected[1], expected[4]) < 0 < expected[0]
    assert weighed.weights_K == weigh_lists(lists, scores, WeightOptions(), dedup).weights_K


def test_options_act_on_samples_or_on_distinct_lists() -> None:
    lists, scores = [A, A, A, B], [0.0, 0.0, 0.0, -50.0]
    mixed = WeightOptions(uniform_mix=0.4)
    assert weigh_lists(lists, scores, mixed).weights_K == pytest.approx([0.9, 0, 0, 0.1], abs=1e-12)
    assert weigh_lists(lists, scores, mixed, "support").weights_K == pytest.approx([0.8, 0, 0, 0.2], abs=1e-12)
    capped = WeightOptions(max_weight=0.4)
    assert weigh_lists(lists, scores, capped).weights_K == pytest.approx([1, 0, 0, 0], abs=1e-12)
    assert weigh_lists(lists, scores, capped, "support").dropped is Dropped.CAP


def test_identity_is_the_order_of_the_places() -> None:
    assert weigh_lists([A, B], [-1.0, -2.0], WeightOptions()) == weigh([-1.0, -2.0], WeightOptions())
    assert weigh_lists([[0, 1], (0, 1)], [-1.0, -1.0], WeightOptions()).weights_K == pytest.approx([1, 0])


@pytest.mark.parametrize("dedup", DEDUP)
def test_one_sample_weighs_one_and_reasons_to_drop_pass(dedup: str) -> None:
    assert weigh_lists([A], [-7.0], WeightOptions(), dedup).weights_K == [1]
    assert weigh_lists([None, A], [None, -7.0], WeightOptions(), dedup).weights_K == [0, 1]
    assert weigh_lists([None, ()], [None, math.nan], WeightOptions(), dedup).dropped is Dropped.UNSCORED
    assert weigh_lists([A, A], [-math.inf] * 2, WeightOptions(), dedup).dropped is Dropped.ZERO_LIKELIHOOD
    floor = WeightOptions(min_best_loglik=-5)
    dropped = weigh_lists([A, A, B], [-6, -6, -9], floor, dedup)
    assert (dropped.dropped, dropped.weights_K, dropped.search_K) == (Dropped.ALL_WRONG, None, None)


@pytest.mark.parametrize("dedup", DEDUP)
def test_mean_log_likelihood_is_the_sum_at_the_temperature_of_the_length(dedup: str) -> None:
    lists, length = [A, B, A, C], 5
    sums = {A: -9.0, B: -14.0, C: -7.5}
    by_mean, by_sum = WeightOptions(length_norm=True), WeightOptions(temperature=length)
    means = [answer_score([sums[z]], [length], by_mean) for z in lists]
    expected = weigh_lists(lists, [answer_score([sums[z]], [length], by_sum) for z in lists], by_sum, dedup)
    assert weigh_lists(lists, means, by_mean, dedup).weights_K == pytest.approx(expected.weights_K, rel=1e-12)


@pytest.mark.parametrize(
    ("lists", "scores", "dedup", "message"),
    [
        ([A], [-1.0], "counts", "dedup='counts' is none of count, none, support"),
        ([A, B], [-1.0], "count", "2 lists and 1 scores"),
        ([A, None], [-1.0, -2.0], "count", "sample 1 has score -2.0 but no list"),
        ([A, B, A], [-1.0, -2.0, -3.0], "none", r"samples 0 and 2 are the same list \(0, 1\)"),
        ([A, A], [-1.0, None], "support", "score each distinct list once"),
        ([A], [math.inf], "count", r"\+inf"),
    ],
)
def test_bad_input_is_refused(lists: Lists, scores: list[float | None], dedup: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weigh_lists(lists, scores, WeightOptions(), dedup)


def test_advantages_are_those_of_trl() -> None:
    for seed in range(10):
        rewards = torch.tensor(np.random.default_rng(seed).random(8))
        rewards[seed % 3 :: 4] = torch.nan
        expected = (rewards - rewards.nanmean()) / (nanstd(rewards) + 1e-4)
        given = [None if math.isnan(r) else r for r in rewards.tolist()]
        np.testing.assert_allclose(group_advantages(given), expected.nan_to_num(0).numpy(), rtol=1e-6)
    np.testing.assert_allclose(group_advantages([1, 0, None]), np.array([0.5, -0.5, 0]) / (math.sqrt(0.5) + 1e-4))


def test_advantages_without_a_difference_are_zero() -> None:
    for rewards in ([0.1] * 3, [1.0], [None, 0.3, math.nan], [None, None], []):
        assert group_advantages(rewards).tolist() == [0.0] * len(rewards)
    with pytest.raises(ValueError, match="not all finite"):
        group_advantages([1.0, -math.inf])
