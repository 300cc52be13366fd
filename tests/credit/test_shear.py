"""SHEAR weights: the hand-computed test vector, and every property the method promises."""

from typing import Any

import pytest
import torch

from rlft.credit import Group, shear_weights, span_scores
from rlft.credit.options import DISTANCES, CreditOptions
from rlft.credit.shear import shear
from rlft.credit.spans import spans
from rlft.credit.transport import wasserstein


def rollouts(lengths: tuple[int, ...] = (9, 7, 11, 4), width: int = 5, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=generator, dtype=torch.float64) for length in lengths]


CORRECT = [True, False, False, True]


def same(left: list[torch.Tensor], right: list[torch.Tensor], tolerance: float = 1e-6) -> bool:
    return all(torch.allclose(a, b, atol=tolerance, rtol=0) for a, b in zip(left, right, strict=True))


def test_vector_computed_by_hand() -> None:
    """d = 1, w = 3, s = 2, one correct rollout against two: n_bar = 83/17."""
    hidden = [
        torch.tensor(values)[:, None] for values in ([1.0, 2, 3, 4, 5, 6], [1.0, 2, 3, 11, 12, 13], [1.0, 2, 3, 4, 10])
    ]
    expected = [[0, 0, 5 / 3, 5 / 3, 5 / 2, 5 / 2], [0, 0, 9 / 2, 9 / 2, 7, 7], [0, 0, 5 / 3, 5 / 3, 5 / 3]]
    weights = shear_weights(hidden, [True, False, False], window=3, stride=2)
    for got, want in zip(weights, expected, strict=True):
        assert got.tolist() == pytest.approx([value / (83 / 17) for value in want], abs=1e-6)


def test_scores_equal_brute_force() -> None:
    hidden = rollouts()
    for i, scores in enumerate(span_scores(hidden, CORRECT, window=4, stride=3)):
        for k, (a, b) in enumerate(spans(len(hidden[i]), 4, 3)):
            nearest = min(
                wasserstein(hidden[i][a:b], hidden[j][c:d])
                for j in range(4)
                if CORRECT[j] != CORRECT[i]
                for c, d in spans(len(hidden[j]), 4, 3)
            )
            assert scores is not None
            assert scores[k] == pytest.approx(nearest, abs=1e-9)


def test_permuting_rollouts_permutes_weights() -> None:
    hidden, order = rollouts(), [2, 0, 3, 1]
    straight = shear_weights(hidden, CORRECT, window=4, stride=2)
    permuted = shear_weights([hidden[i] for i in order], [CORRECT[i] for i in order], window=4, stride=2)
    assert same(permuted, [straight[i] for i in order])


def test_order_inside_a_span_is_ignored() -> None:
    hidden = rollouts((8, 8))
    swapped = [hidden[0][[3, 1, 0, 2, 4, 5, 6, 7]], hidden[1]]
    plain = shear_weights(hidden, [True, False], window=4, stride=4)
    assert same(shear_weights(swapped, [True, False], window=4, stride=4), plain)


@pytest.mark.parametrize("distance", DISTANCES)
def test_rotation_changes_nothing(distance: str) -> None:
    hidden = rollouts()
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    options = {"window": 4, "stride": 2, "distance": distance}
    plain = shear_weights(hidden, CORRECT, **options)
    assert same(shear_weights([h @ rotation for h in hidden], CORRECT, **options), plain)


@pytest.mark.parametrize("distance", DISTANCES)
def test_scaling_all_states_changes_nothing(distance: str) -> None:
    hidden, options = rollouts(), {"window": 4, "stride": 2, "distance": distance}
    plain = shear_weights(hidden, CORRECT, **options)
    assert same(shear_weights([17.0 * h for h in hidden], CORRECT, **options), plain)


def test_shared_prefix_has_weight_zero() -> None:
    """One window of tokens in common: those tokens lie in no span that differs until the next span begins."""
    first, second = rollouts((10, 10))
    second[:6] = first[:6]
    for weight_T in shear_weights([first, second], [True, False], window=4, stride=4):
        assert weight_T[:4].abs().max() < 1e-6
        assert (weight_T[4:] > 0.1).all()


def test_group_without_both_outcomes_keeps_weight_one() -> None:
    for outcome in (True, False):
        for weight_T in shear_weights(rollouts(), [outcome] * 4):
            assert torch.equal(weight_T, torch.ones_like(weight_T))


def test_empty_rollout_takes_no_part() -> None:
    """A truncated completion can be masked whole: it has no tokens, and must not disturb the others."""
    hidden = rollouts()
    empty = torch.zeros(0, 5, dtype=torch.float64)
    with_empty = shear_weights([*hidden, empty], [*CORRECT, False], window=4, stride=2)
    assert len(with_empty[-1]) == 0
    assert same(with_empty[:-1], shear_weights(hidden, CORRECT, window=4, stride=2))


def test_only_empty_opponents_means_weight_one() -> None:
    hidden = [rollouts()[0], torch.zeros(0, 5, dtype=torch.float64)]
    assert torch.equal(shear_weights(hidden, [True, False])[0], torch.ones(9))


def test_normalizers() -> None:
    hidden = rollouts()
    options = {"window": 4, "stride": 2}
    paper = shear_weights(hidden, CORRECT, **options)
    by_rollout = shear_weights(hidden, CORRECT, normalize="rollout", **options)
    by_group = shear_weights(hidden, CORRECT, normalize="mean_one", **options)
    assert all(weight_T.mean() == pytest.approx(1, abs=1e-6) for weight_T in by_rollout)
    assert torch.cat(by_group).mean() == pytest.approx(1, abs=1e-6)
    assert same(by_group, [weight_T / torch.cat(paper).mean() for weight_T in paper])
    assert same(by_rollout, [weight_T / weight_T.mean() for weight_T in paper])


def test_mix_interpolates_to_plain_grpo() -> None:
    hidden = rollouts()
    full = shear_weights(hidden, CORRECT, window=4, stride=2)
    half = shear_weights(hidden, CORRECT, window=4, stride=2, mix=0.5)
    assert same(half, [0.5 + 0.5 * weight_T for weight_T in full])
    assert same(shear_weights(hidden, CORRECT, window=4, stride=2, mix=0.0), [torch.ones(len(h)) for h in hidden])


@pytest.mark.parametrize("normalize", ["group", "rollout", "mean_one"])
def test_excluded_answer_has_no_influence(normalize: str) -> None:
    """Whatever stands in the answers, the weights before them stay, and answer tokens get the rollout's mean."""
    hidden, starts = rollouts(), [6, 5, 8, 3]
    changed = [torch.cat([h[:start], 100 + h[start:]]) for h, start in zip(hidden, starts, strict=True)]
    options = {"window": 4, "stride": 2, "normalize": normalize, "answer_start": starts}
    plain, other = shear_weights(hidden, CORRECT, **options), shear_weights(changed, CORRECT, **options)
    assert same(plain, other)
    for weight_T, start in zip(plain, starts, strict=True):
        assert torch.allclose(weight_T[start:], weight_T[:start].mean())


@pytest.mark.parametrize("option", [{"distance": "sliced"}, {"normalize": "sum"}])
def test_unknown_choice_names_the_known_ones(option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is not one of"):
        shear_weights(rollouts(), CORRECT, **option)


def test_unscored_rollout_takes_no_side() -> None:
    hidden = rollouts()
    group = Group(
        completion_ids=[torch.arange(len(h)) for h in hidden],
        rewards=torch.tensor([1.0, 0.0, float("nan"), 1.0]),
        correct=torch.tensor([True, False, False, True]),
        advantages=torch.tensor([0.5, -1.0, 0.0, 0.5]),
        hidden=hidden,
    )
    weights = shear(group, window=4, stride=2)
    assert torch.equal(weights[2], torch.ones(11))
    others = shear_weights([hidden[i] for i in (0, 1, 3)], [True, False, True], window=4, stride=2)
    assert same([weights[i] for i in (0, 1, 3)], others)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_named(distance: str, value: float) -> None:
    hidden = rollouts()
    hidden[2][7, 3] = value
    with pytest.raises(ValueError, match="rollout 2, token 7"):
        shear_weights(hidden, CORRECT, window=4, stride=2, distance=distance)


def test_widths_that_differ_are_named() -> None:
    hidden = rollouts()
    hidden[3] = hidden[3][:, :4]
    with pytest.raises(ValueError, match=r"rollout 3 has states of shape \(4, 4\), rollout 0 \(9, 5\)"):
        span_scores(hidden, CORRECT, window=4, stride=2)


@pytest.mark.parametrize("correct", [CORRECT[:-1], [*CORRECT, True]])
def test_every_rollout_has_one_outcome(correct: list[bool]) -> None:
    with pytest.raises(ValueError, match=f"{len(correct)} outcomes for {len(CORRECT)} rollouts"):
        shear_weights(rollouts(), correct, window=4, stride=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": 2.0}, "mix=2.0 must lie in"),
        ({"tolerance": 0.1, "distance": "cosine"}, "not cosine"),
        ({"correct_threshold": float("nan")}, "correct_threshold is NaN"),
        ({"exclude_answer": True, "answer_marker": ""}, "needs an answer_marker"),
    ],
)
def test_options_that_say_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CreditOptions(**options).check_credit_options()


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_tolerance_outside_its_range_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"tolerance=.* must lie in \[0, 1\)"):
        span_scores(rollouts(), CORRECT, window=4, stride=2, tolerance=tolerance)
    with pytest.raises(ValueError, match=r"tolerance=.* must lie in \[0, 1\)"):
        CreditOptions(tolerance=tolerance).check_credit_options()


@pytest.mark.parametrize("distance", DISTANCES)
def test_states_that_are_all_equal_have_distance_zero(distance: str) -> None:
    hidden = [torch.full((length, 5), 3.0) for length in (9, 7, 4)]
    for scores_K in span_scores(hidden, [True, False, False], window=4, stride=2, distance=distance):
        assert scores_K is not None
        assert scores_K == pytest.approx(0, abs=1e-6)
    for normalize in ("group", "rollout", "mean_one"):
        for weight_T in shear_weights(hidden, [True, False, False], window=4, stride=2, normalize=normalize):
            assert torch.isfinite(weight_T).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_zero_states_give_finite_weights(distance: str) -> None:
    """All zero: n_bar is 0 and the group keeps weight 1. Some zero: their span means have no direction."""
    zeros = [torch.zeros(length, 5) for length in (9, 7)]
    for weight_T in shear_weights(zeros, [True, False], window=4, stride=2, distance=distance):
        assert torch.equal(weight_T, torch.ones_like(weight_T))
    hidden = rollouts()
    hidden[0][:4] = 0
    for weight_T in shear_weights(hidden, CORRECT, window=4, stride=2, distance=distance):
        assert torch.isfinite(weight_T).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_single_token_rollout_and_one_correct_among_many(distance: str) -> None:
    hidden = rollouts((1, 7, 11, 4, 6, 9, 8, 5))
    weights = shear_weights(hidden, [True] + [False] * 7, window=4, stride=2, distance=distance)
    assert [len(weight_T) for weight_T in weights] == [1, 7, 11, 4, 6, 9, 8, 5]
    assert all(torch.isfinite(weight_T).all() and (weight_T >= 0).all() for weight_T in weights)


def test_tolerance_bounds_the_scores() -> None:
    hidden = rollouts((40, 37, 51, 28))
    exact = span_scores(hidden, CORRECT, window=10, stride=4)
    near = span_scores(hidden, CORRECT, window=10, stride=4, tolerance=0.2)
    changed = 0
    for exact_K, near_K in zip(exact, near, strict=True):
        assert exact_K is not None
        assert near_K is not None
        assert (near_K >= exact_K - 1e-6).all()
        assert (near_K <= exact_K / 0.8 + 1e-6).all()
        changed += int((near_K > exact_K + 1e-6).sum())
    assert changed


def test_bf16_states_are_compared_in_full_precision() -> None:
    hidden = [states.bfloat16() for states in rollouts((30, 25, 28, 33), width=64)]
    options = {"window": 8, "stride": 3}
    assert same(
        shear_weights(hidden, CORRECT, **options), shear_weights([h.double() for h in hidden], CORRECT, **options)
    )
