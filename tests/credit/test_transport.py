"""Exact transport against three oracles: permutations by brute force, POT's network simplex, SciPy's LP.

The nearest-span search of every solver is compared with the full table of network-simplex costs.
"""

import itertools
from importlib.util import find_spec

import numpy as np
import ot
import pytest
import torch
from scipy.stats import wasserstein_distance, wasserstein_distance_nd

from rlft.credit.spans import max_over_covering, spans
from rlft.credit.transport import NearestSpans, nearest, nearest_spans, transport, wasserstein
from rlft.credit.transport.carry import carry
from rlft.credit.transport.layout import Laid, strips
from rlft.credit.transport.sinkhorn import certified

NUMBA = pytest.param("numba", marks=pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed"))
EXACT = ["scipy", NUMBA]


def cloud(points: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(points, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def costs(n: int, m: int, kind: str, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if kind == "grid":  # heavy ties
        return generator.integers(0, 4, (n, m)).astype(np.float32)
    x, y = generator.standard_normal((n, 6)), generator.standard_normal((m, 6))
    if kind == "twins":  # a shared prefix, whose distances are 0
        y[: min(n, m) // 2] = x[: min(n, m) // 2]
    return np.linalg.norm(x[:, None] - y[None], axis=2).astype(np.float32)


def simplex(cost: np.ndarray) -> float:
    n, m = cost.shape
    return float(ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), cost.astype(np.float64)))


@pytest.mark.parametrize("points", [1, 2, 5, 6])
def test_equal_sizes_equal_the_best_permutation(points: int) -> None:
    cost = costs(points, points, "random")
    best = min(np.mean([cost[i, j] for i, j in enumerate(order)]) for order in itertools.permutations(range(points)))
    assert transport(cost)[0] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("kind", ["random", "grid", "twins"])
@pytest.mark.parametrize(
    ("n", "m"), [(1, 4), (4, 1), (2, 3), (6, 3), (7, 5), (8, 7), (17, 23), (40, 33), (33, 40), (50, 50), (100, 99)]
)
def test_every_size_equals_network_simplex(n: int, m: int, kind: str) -> None:
    """From 17 x 23 on, unequal sizes are beyond replication, so units are carried along augmenting paths."""
    cost = costs(n, m, kind)
    found, coupling = transport(cost)
    assert found == pytest.approx(simplex(cost), abs=1e-6)
    assert np.bincount(coupling.rows, coupling.mass) == pytest.approx(1 / n)
    assert np.bincount(coupling.columns, coupling.mass) == pytest.approx(1 / m)
    assert found == pytest.approx(float(coupling.mass @ cost[coupling.rows, coupling.columns]), abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.001])
def test_carry_stops_at_its_limit_with_a_lower_bound(share: float) -> None:
    cost = costs(24, 17, "random")
    least = simplex(cost)
    u, v, flow = np.zeros(24, np.float32), np.zeros(17, np.float32), np.zeros((17, 24), np.int32)
    bound, finished = carry(cost, u, v, flow, share * least)
    assert finished == (share > 1)
    assert bound <= least + 1e-5
    assert bound >= min(share, 1) * least - 1e-5
    assert (cost - u[:, None] - v).min() >= -1e-5


def test_one_dimension_equals_scipy() -> None:
    x, y = cloud(6, 1, 4), cloud(9, 1, 5)
    assert wasserstein(x, y) == pytest.approx(wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()), abs=1e-6)


def test_wasserstein_equals_scipy_nd() -> None:
    x, y = cloud(4, 3, 6), cloud(6, 3, 7)
    assert wasserstein(x, y) == pytest.approx(wasserstein_distance_nd(x.numpy(), y.numpy()), abs=1e-6)


def group(
    lengths: tuple[int, ...], width: int, prefix: int = 0, grid: bool = False
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Two sides of rollouts; with `prefix` they begin alike, on a `grid` many distances are equal."""
    hidden = [cloud(length, width, seed) for seed, length in enumerate(lengths)]
    hidden = [h.round() if grid else h for h in hidden]
    for h in hidden:
        h[:prefix] = hidden[0][: len(h[:prefix])]
    half = (len(hidden) + 1) // 2
    return hidden[:half], hidden[half:]


def solve(sides: tuple[list[torch.Tensor], ...], window: int, stride: int, **options) -> tuple[NearestSpans, ...]:
    return nearest_spans(*sides, *([spans(len(h), window, stride) for h in side] for side in sides), **options)


def table(sides: tuple[list[torch.Tensor], ...], window: int, stride: int) -> np.ndarray:
    points = [[h[a:b] for h in side for a, b in spans(len(h), window, stride)] for side in sides]
    return np.array([[simplex(torch.cdist(x, y).numpy()) for y in points[1]] for x in points[0]])


CASES = {
    "uneven": (group((29, 31, 20, 26, 33), 4), 8, 3),
    "even": (group((24, 24, 24, 24), 6), 8, 4),
    "prefix": (group((60, 44, 51, 70), 16, prefix=20), 16, 5),
    "grid": (group((30, 22, 27, 31), 2, grid=True), 7, 7),
    "short": (group((3, 1, 9, 2), 3), 10, 2),
    "long window": (group((90, 85), 8), 40, 20),
    "single tokens": (group((1, 6), 3), 1, 1),
}


@pytest.fixture(scope="module")
def tables() -> dict[str, np.ndarray]:
    return {name: table(*case) for name, case in CASES.items()}


@pytest.mark.parametrize("memory", [1 << 30, 1])
@pytest.mark.parametrize("tolerance", [0.0, 0.05])
@pytest.mark.parametrize("solver", [*EXACT, "torch"])
@pytest.mark.parametrize("case", CASES)
def test_minima_and_bounds_equal_the_full_table(
    case: str, solver: str, tolerance: float, memory: int, tables: dict[str, np.ndarray]
) -> None:
    """Both sides, whole and in strips: bound <= minimum <= found <= bound / (1 - tolerance)."""
    if solver == "torch" and tolerance == 0:
        tolerance = 1e-3
    sides, window, stride = CASES[case]
    found = solve(sides, window, stride, solver=solver, tolerance=tolerance, memory=memory)
    for side, true in zip(found, (tables[case].min(1), tables[case].min(0)), strict=True):
        assert (side.lower_K <= true + 1e-5).all()
        assert (side.minima_K >= true - 1e-5).all()
        assert (side.minima_K <= side.lower_K / (1 - tolerance) + 1e-5).all()
        if tolerance == 0:
            assert side.minima_K == pytest.approx(true, abs=1e-5)


@pytest.mark.parametrize("solver", EXACT)
def test_paper_window_equals_network_simplex(solver: str) -> None:
    """Spans of 100 tokens, tails of 99 and 94 in one group, every pair of unequal size included."""
    sides = group((199, 194), 12, prefix=40)
    found = solve(sides, 100, 25, solver=solver)
    full = table(sides, 100, 25)
    assert found[0].minima_K == pytest.approx(full.min(1), abs=1e-5)
    assert found[1].minima_K == pytest.approx(full.min(0), abs=1e-5)


@pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlft.credit.transport import compiled

    sides = group((60, 44, 51, 70), 16)
    alone = solve(sides, 16, 5, solver="numba")
    monkeypatch.setattr(compiled, "SERIAL_UP_TO", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for one, three in zip(alone, solve(sides, 16, 5, solver="numba"), strict=True):
        assert three.minima_K == pytest.approx(one.minima_K, abs=1e-9)


def test_a_tolerance_leaves_pairs_unsolved() -> None:
    """Negative control: with a wide tolerance some minima are not the exact ones."""
    sides = group((80, 70, 75, 66), 3)
    exact, near = (solve(sides, 8, 2, solver="scipy", tolerance=tolerance)[0] for tolerance in (0.0, 0.3))
    assert (near.minima_K > exact.minima_K + 1e-6).any()


def test_certified_bounds_enclose_the_cost_and_fit_its_gap() -> None:
    blocks = [costs(n, m, "random", seed=n) for n, m in ((20, 20), (20, 13), (7, 20))]
    padded = torch.zeros(3, 20, 20)
    for i, block in enumerate(blocks):
        padded[i, : block.shape[0], : block.shape[1]] = torch.from_numpy(block)
    rows, columns = (torch.stack([torch.arange(20) < b.shape[axis] for b in blocks]) for axis in (0, 1))
    lower, upper, u, v = certified(padded, rows, columns)
    for i, block in enumerate(blocks):
        assert lower[i] <= simplex(block) + 1e-6 <= upper[i] + 2e-6
        assert upper[i] <= 1.02 * lower[i]
        assert (padded[i] - u[i][:, None] - v[i])[rows[i]][:, columns[i]].min() >= -1e-5


def test_auto_loads_numba_only_once_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_searched_pairs", 0)
    monkeypatch.setattr(nearest, "find_spec", lambda name: name == "numba")
    small, large = nearest.NUMBA_FROM // 4, nearest.NUMBA_FROM
    assert [nearest._choose("auto", False, 0.0, small) for _ in range(4)] == ["scipy", "scipy", "scipy", "numba"]
    monkeypatch.setattr(nearest, "find_spec", lambda name: None)
    assert nearest._choose("auto", False, 0.0, large) == "scipy"
    assert nearest._choose("auto", True, 0.0, large) == "scipy"
    assert nearest._choose("auto", True, 0.01, large) == "torch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "gurobi"}, "solver='gurobi' is not one of auto, scipy"),
        ({"solver": "torch"}, "needs tolerance > 0"),
        ({"tolerance": 1.0}, "tolerance=1.0 must lie"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(group((5, 5), 2), 2, 1, **options)


def test_strips_hold_every_pair_of_rollouts_once() -> None:
    lengths = [5, 9, 2], [7, 1, 8, 3]
    for memory in (1, 12 * 70, 12 * 100, 12 * 10_000):
        pairs = [
            (i, j)
            for one, other in strips(*lengths, memory)
            for i in range(one.start, one.stop)
            for j in range(other.start, other.stop)
        ]
        assert sorted(pairs) == [(i, j) for i in range(3) for j in range(4)]


def test_laid_means() -> None:
    laid = Laid.of([[(0, 3), (2, 5)], [], [(0, 2)]])
    assert laid.start_K.tolist() == [0, 2, 5]
    assert laid.means(np.arange(7.0)[None]).tolist() == [[1, 3, 5.5]]


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
