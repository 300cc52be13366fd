"""Exact transport against three oracles: permutations by brute force, POT's network simplex, SciPy's LP."""

import itertools

import numpy as np
import ot
import pytest
import torch
from scipy.stats import wasserstein_distance, wasserstein_distance_nd

from rlft.credit.spans import max_over_covering, spans
from rlft.credit.transport import distances, lower_bounds, nearest_wasserstein, transport, wasserstein


def cloud(points: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(points, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("points", [1, 2, 5, 6])
def test_equal_sizes_equal_the_best_permutation(points: int) -> None:
    cost = distances(cloud(points, 3, 0), cloud(points, 3, 1))
    best = min(np.mean([cost[i, j] for i, j in enumerate(order)]) for order in itertools.permutations(range(points)))
    assert transport(cost)[0] == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 3), (3, 6), (7, 5), (17, 23), (40, 33)])
def test_unequal_sizes_equal_network_simplex(n: int, m: int) -> None:
    """17 x 23 and 40 x 33 are beyond replication, so the linear programme answers."""
    cost = distances(cloud(n, 4, 2), cloud(m, 4, 3))
    expected = ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), cost)
    assert transport(cost)[0] == pytest.approx(expected, abs=1e-9)


def test_one_dimension_equals_scipy() -> None:
    x, y = cloud(6, 1, 4), cloud(9, 1, 5)
    assert wasserstein(x, y) == pytest.approx(wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()), abs=1e-9)


def test_wasserstein_equals_scipy_nd() -> None:
    x, y = cloud(4, 3, 6), cloud(6, 3, 7)
    assert wasserstein(x, y) == pytest.approx(wasserstein_distance_nd(x.numpy(), y.numpy()), abs=1e-9)


def test_distances_survive_a_large_common_offset() -> None:
    """The product form cancels badly around a far-off mean; centring keeps it exact."""
    x, y = cloud(5, 8, 8), cloud(7, 8, 9)
    assert distances(x + 1e4, y + 1e4) == pytest.approx(torch.cdist(x, y).numpy(), abs=1e-6)


@pytest.mark.parametrize(("t", "u", "window", "stride"), [(9, 14, 4, 2), (6, 5, 8, 3), (12, 11, 3, 3), (8, 7, 1, 1)])
def test_pruned_search_equals_the_full_table(t: int, u: int, window: int, stride: int) -> None:
    cost = distances(cloud(t, 3, 10), cloud(u, 3, 11))
    spans_k, spans_l = spans(t, window, stride), spans(u, window, stride)
    table = np.array([[transport(cost[a:b, c:d])[0] for c, d in spans_l] for a, b in spans_k])
    assert nearest_wasserstein(cost, spans_k, spans_l) == pytest.approx(table.min(1), abs=1e-12)
    for bound in lower_bounds(cost, spans_k, spans_l):
        assert (bound <= table + 1e-12).all()


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [
        (6, 3, 2, [(0, 3), (2, 5), (4, 6)]),
        (5, 3, 2, [(0, 3), (2, 5)]),
        (2, 3, 2, [(0, 2)]),
        (3, 3, 3, [(0, 3)]),
        (4, 1, 1, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (0, 3, 2, []),
    ],
)
def test_spans(length: int, window: int, stride: int, expected: list[tuple[int, int]]) -> None:
    assert spans(length, window, stride) == expected


@pytest.mark.parametrize(("length", "count"), [(1024, 38), (3072, 120)])
def test_span_count_of_the_paper_setting(length: int, count: int) -> None:
    assert len(spans(length, 100, 25)) == count


@pytest.mark.parametrize(("window", "stride"), [(2, 3), (4, 0), (0, 0)])
def test_spans_refuse_gaps(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="1 <= stride <= window"):
        spans(10, window, stride)


def test_max_over_covering() -> None:
    token = max_over_covering(np.array([1.0, 3.0, 2.0]), [(0, 3), (2, 5), (4, 6)], 6)
    assert token.tolist() == [1, 1, 3, 3, 3, 2]
