"""The other distances against their formulas, pair by pair, and against closed forms."""

import numpy as np
import ot
import pytest
import torch

from rlft.credit import distances as module
from rlft.credit.distances import nearest_by
from rlft.credit.options import DISTANCES
from rlft.credit.spans import spans
from rlft.credit.transport import distances, wasserstein


def states(lengths: tuple[int, ...], width: int = 5, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=generator, dtype=torch.float64) for length in lengths]


def chamfer(p: torch.Tensor, q: torch.Tensor) -> float:
    cost = torch.cdist(p, q)
    return float(cost.min(1).values.mean() + cost.min(0).values.mean())


def cosine(p: torch.Tensor, q: torch.Tensor) -> float:
    return 1 - float(torch.cosine_similarity(p.mean(0), q.mean(0), dim=0))


def mmd(p: torch.Tensor, q: torch.Tensor, bandwidth: float) -> float:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.exp(-(torch.cdist(a, b) ** 2) / (2 * bandwidth**2)).mean())

    return max(kernel(p, p) + kernel(q, q) - 2 * kernel(p, q), 0) ** 0.5


def sinkhorn(p: torch.Tensor, q: torch.Tensor, epsilon: float) -> float:
    a, b = np.full(len(p), 1 / len(p)), np.full(len(q), 1 / len(q))
    cost = torch.cdist(p, q).numpy()
    return float((ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", numItermax=200, warn=False) * cost).sum())


def token_pairs(hidden: list[torch.Tensor]) -> torch.Tensor:
    return torch.pdist(torch.cat(hidden))


@pytest.mark.parametrize("memory", [1 << 30, 1])
@pytest.mark.parametrize("distance", DISTANCES)
def test_minima_equal_pair_by_pair_formulas(distance: str, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides, rollouts of unequal length, whole and in strips of rollouts."""
    monkeypatch.setattr(module, "MEMORY", memory)
    hidden = states((8, 9, 3, 12, 7))
    pair = {
        "wasserstein": wasserstein,
        "chamfer": chamfer,
        "cosine": cosine,
        "mmd": lambda p, q: mmd(p, q, float(np.median(token_pairs(hidden).numpy()))),
        "sinkhorn": lambda p, q: sinkhorn(p, q, 0.05 * float(token_pairs(hidden).mean())),
    }[distance]
    sides = hidden[:2], hidden[2:]
    laid = [[spans(len(h), 4, 3) for h in side] for side in sides]
    points = [
        [h[a:b] for h, found in zip(side, ks, strict=True) for a, b in found]
        for side, ks in zip(sides, laid, strict=True)
    ]
    table = np.array([[pair(p, q) for q in points[1]] for p in points[0]])
    least_k, least_l = nearest_by(distance, hidden)(*sides, *laid)
    within = 5e-3 if distance == "sinkhorn" else 1e-5  # Sinkhorn stops after a number of iterations
    assert least_k == pytest.approx(table.min(1), abs=within)
    assert least_l == pytest.approx(table.min(0), abs=within)


def test_sinkhorn_lies_above_wasserstein_and_close() -> None:
    hidden = states((40, 36), width=16)
    laid = [[spans(len(h), 10, 5)] for h in hidden]
    exact, entropic = (
        np.concatenate(nearest_by(name, hidden)(hidden[:1], hidden[1:], *laid)) for name in ("wasserstein", "sinkhorn")
    )
    assert (entropic >= exact - 1e-6).all()
    assert (entropic <= 1.05 * exact).all()


def test_equal_spans_have_no_discrepancy() -> None:
    hidden = states((20, 20))
    hidden[1] = hidden[0].clone()
    laid = [[spans(20, 6, 3)], [spans(20, 6, 3)]]
    for distance in ("wasserstein", "chamfer", "mmd", "cosine"):
        for least in nearest_by(distance, hidden)(hidden[:1], hidden[1:], *laid):
            assert least == pytest.approx(0, abs=1e-6)


def test_distances_survive_a_large_common_offset() -> None:
    """The product form cancels badly around a far-off mean; centring keeps it exact."""
    x, y = states((5, 7), width=8)
    assert distances(x + 1e4, y + 1e4).numpy() == pytest.approx(torch.cdist(x, y).numpy(), abs=2e-3)  # fp32 of 1e4
    assert distances(x + 100, y + 100).numpy() == pytest.approx(torch.cdist(x, y).numpy(), abs=2e-5)


def test_distances_of_near_twins_keep_their_digits() -> None:
    """Few near pairs are computed from their difference, many by a product in float64; both beat fp32 by far."""
    x = states((40,), width=64)[0].float()
    y = torch.cat([x[:1] + 1e-3, 3 * torch.ones(200, 64)])
    assert distances(x, y)[0, 0] == pytest.approx(float((x[0] - y[0]).double().norm()), rel=1e-6)
    y = x + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = distances(x[:1], y[:1])
    assert found[0, 0] == pytest.approx(float((x[0] - y[0]).double().norm()), rel=1e-6)


def test_distances_under_autocast_are_fp32() -> None:
    x, y = (h.float() for h in states((30, 20), width=64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distances(x, y), distances(x, y).float())
        inside = distances(x, y)
    assert torch.equal(inside, distances(x, y))


def test_unknown_distance_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="wasserstein, chamfer, mmd, cosine, sinkhorn"):
        nearest_by("sliced", states((3,)))
