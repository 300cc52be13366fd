"""SHEAR weights: the hand-computed test vector, and every property the method promises."""

import numpy as np
import pytest
import torch

from rlft.credit import Group, shear_weights, span_scores
from rlft.credit.distances import chamfer_nearest, cosine_nearest, mmd_nearest, nearest_by
from rlft.credit.shear import shear
from rlft.credit.spans import spans
from rlft.credit.transport import wasserstein

DISTANCES = ["wasserstein", "chamfer", "mmd", "cosine"]


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


def test_distances_equal_pair_by_pair_formulas() -> None:
    x, y = rollouts((8, 9))[:2]
    spans_k, spans_l = spans(8, 3, 2), spans(9, 3, 2)
    bandwidth = 1.7

    def every_pair(pair) -> list[float]:
        return [min(pair(x[a:b], y[c:d]) for c, d in spans_l) for a, b in spans_k]

    def chamfer(p: torch.Tensor, q: torch.Tensor) -> float:
        cost = torch.cdist(p, q)
        return float(cost.min(1).values.mean() + cost.min(0).values.mean())

    def cosine(p: torch.Tensor, q: torch.Tensor) -> float:
        return 1 - float(torch.cosine_similarity(p.mean(0), q.mean(0), dim=0))

    def mmd(p: torch.Tensor, q: torch.Tensor) -> float:
        def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
            return float(torch.exp(-(torch.cdist(a, b) ** 2) / (2 * bandwidth**2)).mean())

        return max(kernel(p, p) + kernel(q, q) - 2 * kernel(p, q), 0) ** 0.5

    assert chamfer_nearest(x, y, spans_k, spans_l) == pytest.approx(every_pair(chamfer), abs=1e-9)
    assert cosine_nearest(x, y, spans_k, spans_l) == pytest.approx(every_pair(cosine), abs=1e-9)
    assert mmd_nearest(x, y, spans_k, spans_l, bandwidth=bandwidth) == pytest.approx(every_pair(mmd), abs=1e-9)


def test_mmd_bandwidth_is_the_median_distance() -> None:
    hidden = rollouts()
    tokens = torch.cat(hidden)
    median = np.median(torch.pdist(tokens).numpy())
    assert nearest_by("mmd", hidden).keywords["bandwidth"] == pytest.approx(median, abs=1e-9)


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
