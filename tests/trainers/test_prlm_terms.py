"""Shares of the advantage variance, against loops over completions and groups."""

import itertools
import math
import statistics
from typing import Any

import pytest
import torch

from rlft.trainers.prlm_terms import advantage_terms, variance_shares

NAN = math.nan
NAMES = ["rouge", "think_format", "personalization"]
SCALINGS = [("sum_then_normalize", scale) for scale in ("group", "batch", "none")] + [("normalize_then_sum", "group")]


def drawn(missing: bool, group_size: int = 4, groups: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(int(missing))
    rewards_NF = torch.rand(group_size * groups, 3, generator=draw)
    if missing:
        rewards_NF[torch.rand(rewards_NF.shape, generator=draw) < 0.2] = NAN
        rewards_NF[3] = NAN  # no reward applies
        rewards_NF[4:8, 1] = NAN  # one does not apply in a whole group
    return rewards_NF, torch.tensor([1.0, 0.1, 0.3])


def brute_advantages(rewards: list[list[float]], weights: list[float], size: int, how: str, scale: str) -> list[float]:
    """TRL's advantages, by the book: eq. of GRPO, one completion at a time; None means left out."""
    groups = [range(start, start + size) for start in range(0, len(rewards), size)]
    if how == "normalize_then_sum":
        normal = [[NAN] * len(weights) for _ in rewards]
        for group, f in itertools.product(groups, range(len(weights))):
            known = {i: rewards[i][f] for i in group if not math.isnan(rewards[i][f])}
            if len(known) > 1:
                mean, spread = statistics.mean(known.values()), statistics.stdev(known.values())
                for i, value in known.items():
                    normal[i][f] = (value - mean) / (spread + 1e-4)
        rewards = [
            [0.0 if v != v and r == r else v for r, v in zip(*rows, strict=True)]
            for rows in zip(rewards, normal, strict=True)
        ]
    total = [
        NAN if all(map(math.isnan, row)) else sum(w * r for w, r in zip(weights, row, strict=True) if not math.isnan(r))
        for row in rewards
    ]
    scored = [value for value in total if not math.isnan(value)]
    advantages = []
    for group in groups:
        own = [total[i] for i in group if not math.isnan(total[i])]
        base, spread = statistics.mean(own), statistics.stdev(own)
        if how == "normalize_then_sum" or scale == "batch":
            spread = statistics.stdev(scored)
        if how == "normalize_then_sum":
            base = statistics.mean(scored)
        divisor = 1.0 if (how, scale) == ("sum_then_normalize", "none") else spread + 1e-4
        advantages += [0.0 if math.isnan(total[i]) else (total[i] - base) / divisor for i in group]
    return advantages


@pytest.mark.parametrize(("how", "scale"), SCALINGS)
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "with None"])
def test_terms_add_up_to_the_advantages(how: str, scale: str, missing: bool) -> None:
    rewards_NF, weights_F = drawn(missing)
    terms_NF = advantage_terms(rewards_NF, weights_F, 4, how, scale)
    expected = brute_advantages(rewards_NF.double().tolist(), weights_F.double().tolist(), 4, how, scale)
    assert terms_NF.sum(1).tolist() == pytest.approx(expected, abs=1e-6)
    means = terms_NF.view(-1, 4, 3).mean(1)
    assert means.abs().max() < 1e-9, "a term with a mean of its own would have another variance"


@pytest.mark.parametrize(("how", "scale"), SCALINGS)
def test_shares_are_variances_over_the_variance_of_the_sum(how: str, scale: str) -> None:
    terms_NF = advantage_terms(*drawn(missing=True), 4, how, scale)
    shares = variance_shares(terms_NF, NAMES)
    columns = terms_NF.T.tolist()
    whole = statistics.pvariance([sum(row) for row in terms_NF.tolist()])
    for name, column in zip(NAMES, columns, strict=True):
        assert shares[name] == pytest.approx(statistics.pvariance(column) / whole)
    covariances = [statistics.covariance(a, b) for a, b in itertools.combinations(columns, 2)]
    unbiased = (len(columns[0]) - 1) / len(columns[0])
    assert shares["covariance"] == pytest.approx(2 * sum(covariances) * unbiased / whole)
    assert sum(shares.values()) == pytest.approx(1.0)


def shares_of(columns: list[list[float]], **settings: Any) -> dict[str, float]:
    rewards_NF = torch.tensor(columns).T
    weights_F = torch.tensor([1.0, 0.1, 0.1][: len(columns)])
    return variance_shares(advantage_terms(rewards_NF, weights_F, 4, **settings), NAMES[: len(columns)])


def test_a_small_term_is_all_there_is_where_the_others_tie() -> None:
    found = shares_of([[1.2] * 4, [1.0] * 4, [0.4, 0.5, 0.6, 0.5]])
    assert found == pytest.approx({"rouge": 0.0, "think_format": 0.0, "personalization": 1.0, "covariance": 0.0})


def test_group_scaling_weighs_groups_alike() -> None:
    """One group differs by rouge alone, by much; the other by the small term alone: half of the advantage each."""
    rouge, small = [0.0, 1.0, 0.0, 1.0, 2.0, 2.0, 2.0, 2.0], [0.5] * 4 + [0.4, 0.6, 0.4, 0.6]
    found = shares_of([rouge, [1.0] * 8, small])
    assert found["personalization"] == pytest.approx(0.5, abs=0.01)
    assert shares_of([rouge, [1.0] * 8, small], scale="none")["personalization"] < 0.001


def test_terms_that_pull_apart_have_a_negative_covariance() -> None:
    found = shares_of([[0.0, 0.1, 0.0, 0.1], [0.9, 0.0, 0.9, 0.0]])
    assert found["covariance"] < -1
    assert found["rouge"] > 1


def test_normalising_first_gives_terms_the_shares_of_their_squared_weights() -> None:
    """With uncorrelated rewards of any spread."""
    found = shares_of([[0.0, 0.0, 3.0, 3.0], [0.0, 1.0, 0.0, 1.0]], aggregation="normalize_then_sum")
    assert found["think_format"] / found["rouge"] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("how", "scale"), SCALINGS)
def test_equal_rewards_have_nothing_to_share(how: str, scale: str) -> None:
    assert shares_of([[0.7] * 8, [1.0] * 8, [0.3] * 8], aggregation=how, scale=scale) == {}
