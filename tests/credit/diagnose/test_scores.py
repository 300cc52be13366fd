"""Diagnosis of span scores: measures against other libraries, controls against brute force, planted signals found."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from rlft.credit import shear_weights, span_scores
from rlft.credit.diagnose.controls import compared, lexical_distances
from rlft.credit.diagnose.group import LabelledGroup
from rlft.credit.diagnose.measures import auc, auc_in_bins, bin_figures, partial_spearman, quantile_bins, spearman
from rlft.credit.diagnose.scores import MEASURES, diagnose, diagnosis_record
from rlft.credit.diagnose.table import diagnosis_text
from rlft.credit.spans import spans

WINDOW, STRIDE = 3, 2
FEW = {"window": WINDOW, "stride": STRIDE, "permutations": 20, "resamples": 20}


def group(seed: int = 0, lengths: tuple[int, ...] = (9, 7, 8, 10, 6), name: str | None = None) -> LabelledGroup:
    """Random states of five rollouts, two correct; errors are known on two of the three wrong ones."""
    generator = torch.Generator().manual_seed(seed)
    return LabelledGroup(
        name=name or str(seed),
        hidden=[torch.randn(length, 4, generator=generator) for length in lengths],
        token_ids=[torch.randint(6, (length,), generator=generator).tolist() for length in lengths],
        correct=[True, False, False, True, False],
        first_error=[-1, 4, 5, None, None],
    )


def planted(seed: int, *, where: str) -> LabelledGroup:
    """Six rollouts of 12 tokens around one path; the wrong ones leave it at token 6, or only their words do."""
    generator = torch.Generator().manual_seed(seed)
    path_TH = torch.randn(12, 6, generator=generator)
    hidden, ids = [], []
    for member in range(6):
        states_TH = path_TH + 0.05 * torch.randn(12, 6, generator=generator)
        words = [0, 1, 2] * 4
        if member >= 3 and where == "states":
            states_TH[6:] += 5
        if member >= 3 and where == "words":
            words[6:] = range(100, 106)
        hidden.append(states_TH)
        ids.append(words)
    return LabelledGroup(str(seed), hidden, ids, [True] * 3 + [False] * 3, [None] * 3 + [6] * 3)


@pytest.fixture
def rows_N4() -> np.ndarray:
    rng = np.random.default_rng(0)
    position = rng.integers(0, 30, 200).astype(float)
    label = (rng.random(200) < position / 40).astype(float)
    score = np.round(position / 10 + label + rng.normal(size=200), 1)
    return np.stack([label, score, position, quantile_bins(position, 4)], 1)


def test_auc_is_the_mann_whitney_statistic(rows_N4: np.ndarray) -> None:
    positive, negative = (rows_N4[rows_N4[:, 0] == label, 1] for label in (1, 0))
    statistic = stats.mannwhitneyu(positive, negative).statistic
    assert auc(rows_N4) == pytest.approx(statistic / (len(positive) * len(negative)))


def test_auc_in_bins_counts_pairs_of_one_bin_only(rows_N4: np.ndarray) -> None:
    won = pairs = 0.0
    for one in rows_N4[rows_N4[:, 0] == 1]:
        for other in rows_N4[(rows_N4[:, 0] == 0) & (rows_N4[:, 3] == one[3])]:
            won, pairs = won + (one[1] > other[1]) + 0.5 * (one[1] == other[1]), pairs + 1
    assert auc_in_bins(rows_N4) == pytest.approx(won / pairs)
    bins = bin_figures(rows_N4)
    weights = [found.positives * found.negatives for found in bins]
    assert auc_in_bins(rows_N4) == pytest.approx(np.average([found.auc for found in bins], weights=weights))
    assert [found.low for found in bins] == sorted(found.low for found in bins)
    first = rows_N4[rows_N4[:, 3] == 0]
    assert bins[0].rho == pytest.approx(stats.spearmanr(first[:, 1], first[:, 0]).statistic)


def test_spearman_is_scipys_and_partial_that_of_the_residuals(rows_N4: np.ndarray) -> None:
    label, score, position, _ = rows_N4.T
    assert spearman(rows_N4) == pytest.approx(stats.spearmanr(score, label).statistic)
    ranks = [stats.rankdata(column) for column in (score, label)]
    line = np.stack([stats.rankdata(position), np.ones(len(position))], 1)
    left = [rank - line @ np.linalg.lstsq(line, rank)[0] for rank in ranks]
    assert partial_spearman(rows_N4) == pytest.approx(np.corrcoef(*left)[0, 1])


def test_measures_that_are_not_defined_are_nan(rows_N4: np.ndarray) -> None:
    of_one_label, constant = rows_N4.copy(), rows_N4.copy()
    of_one_label[:, 0], constant[:, 1] = 1, 2
    for measure in (auc, auc_in_bins, spearman, partial_spearman):
        assert np.isnan(measure(of_one_label))
    assert np.isnan(spearman(constant))
    assert auc(constant) == 0.5


def test_equal_positions_share_a_bin() -> None:
    assert quantile_bins(np.arange(8.0), 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert set(quantile_bins(np.ones(5), 4)) == {1}
    assert quantile_bins(np.zeros(0), 4).tolist() == []


@pytest.mark.parametrize("distance", ["wasserstein", "chamfer", "cosine"])
def test_minima_over_pairs_are_the_scores_of_the_group(distance: str) -> None:
    one = group()
    found = compared(one, window=WINDOW, stride=STRIDE, distance=distance)
    for outcomes in (one.correct, [False, True, True, True, False]):
        expected = span_scores(one.hidden, outcomes, window=WINDOW, stride=STRIDE, distance=distance)
        scale = 1.0 if distance == "cosine" else float(torch.cat(list(one.hidden)).double().norm(dim=1).mean())
        for score_K, expected_K in zip(found.shear(np.array(outcomes)).spans, expected, strict=True):
            np.testing.assert_allclose(score_K, expected_K / scale, atol=1e-5)


def test_token_weights_are_shears() -> None:
    one = group()
    weights = shear_weights(one.hidden, one.correct, window=WINDOW, stride=STRIDE)
    found = compared(one, window=WINDOW, stride=STRIDE, distance="wasserstein").shear().tokens
    for weight_T, expected_T in zip(found, weights, strict=True):
        np.testing.assert_allclose(weight_T, expected_T, atol=1e-5)


def test_own_group_is_the_nearest_other_rollout_of_the_same_outcome() -> None:
    one = group()
    own = compared(one, window=WINDOW, stride=STRIDE, distance="chamfer").own_group().spans
    scale = float(torch.cat(list(one.hidden)).double().norm(dim=1).mean())
    only, _ = span_scores([one.hidden[0], one.hidden[3]], [True, False], window=3, stride=2, distance="chamfer")
    np.testing.assert_allclose(own[0], only / scale, atol=1e-5)


def test_lexical_distance_is_w1_on_one_hot_states() -> None:
    one = group(seed=3, lengths=(2, 5, 6, 10, 1))
    one_hot = [torch.eye(6)[ids] for ids in one.token_ids]
    expected = span_scores(one_hot, one.correct, window=WINDOW, stride=STRIDE)
    found = compared(one, window=WINDOW, stride=STRIDE, distance="cosine").lexical().spans
    for score_K, expected_K in zip(found, expected, strict=True):
        np.testing.assert_allclose(score_K, expected_K, atol=1e-5)


def test_lexical_distance_orders_equal_spans_as_one_minus_jaccard() -> None:
    rng = np.random.default_rng(0)
    ids_T, ids_U = rng.integers(5, size=20).tolist(), rng.integers(5, size=24).tolist()
    laid_K, laid_L = spans(20, 4, 2), spans(24, 4, 2)
    found_KL = lexical_distances(ids_T, ids_U, laid_K, laid_L)
    for k, (a, b) in enumerate(laid_K):
        for number, (c, d) in enumerate(laid_L):
            x, y = (np.bincount(ids, minlength=5) for ids in (ids_T[a:b], ids_U[c:d]))
            jaccard = np.minimum(x, y).sum() / np.maximum(x, y).sum()
            common = 2 * jaccard / (1 + jaccard)
            assert found_KL[k, number] == pytest.approx(2**0.5 * (1 - common))


def test_a_planted_error_in_the_states_is_found_and_its_controls_are_not() -> None:
    found = diagnose([planted(seed, where="states") for seed in range(12)], **FEW)
    matched = {name: figures["matched"].value for name, figures in found.figures.items()}
    assert matched["shear"] == 1
    assert found.p_values["matched"] == pytest.approx(1 / 21)
    assert matched["lexical"] == matched["position"] == 0.5
    assert found.counts["matched_ties"] == 0
    assert matched["permuted"] < 0.8
    assert found.figures["shear"]["farther"].value > found.figures["permuted"]["farther"].high
    assert found.over["lexical"].low == 0.5
    assert found.figures["position"]["after"].value == 1
    assert np.isnan(found.figures["position"]["partial"].value)


def test_a_planted_error_in_the_words_is_told_from_one_in_the_states() -> None:
    found = diagnose([planted(seed, where="words") for seed in range(12)], **FEW)
    assert found.figures["lexical"]["matched"].value == 1
    assert found.figures["lexical"]["farther"].value > 0.6
    assert found.figures["shear"]["matched"].low < 0.5 < found.figures["shear"]["matched"].high
    assert found.over["lexical"].high < 0


def test_matched_compares_the_error_with_the_same_index_of_correct_rollouts() -> None:
    one = group()
    weights = shear_weights(one.hidden, one.correct, window=WINDOW, stride=STRIDE)
    pairs = [(weights[i][e], weights[j][e]) for i, e in ((1, 4), (2, 5)) for j in (0, 3)]
    found = diagnose([one], **FEW)
    assert found.counts["matched_pairs"] == len(pairs)
    assert found.figures["shear"]["matched"].value == np.mean([float(here > there) for here, there in pairs])
    assert (found.counts["wrong"], found.counts["labelled"], found.counts["ignored_labels"]) == (3, 2, 0)


def test_scale_order_of_groups_and_of_rollouts_do_not_matter() -> None:
    groups = [group(seed) for seed in range(4)]
    found = diagnosis_record(diagnose(groups, **FEW))["figures"]
    order = [4, 2, 0, 3, 1]
    turned = [
        replace(
            one,
            hidden=[3 * one.hidden[i] for i in order],
            **{name: [getattr(one, name)[i] for i in order] for name in ("token_ids", "correct", "first_error")},
        )
        for one in reversed(groups)
    ]
    again = diagnosis_record(diagnose(turned, **FEW))["figures"]
    for name in ("shear", "lexical", "own_group"):
        for measure, (value, *_) in found[name].items():
            assert again[name][measure][0] == pytest.approx(value), (name, measure)


def test_without_labels_only_farther_is_measured_and_entropy_is_weighed_where_given() -> None:
    bare = [replace(group(seed), first_error=None) for seed in range(3)]
    found = diagnose(bare, **FEW)
    assert {name: set(figures) for name, figures in found.figures.items() if figures} == {
        "shear": {"farther"},
        "permuted": {"farther"},
        "lexical": {"farther"},
    }
    told = [replace(group(seed), entropy=[[0.1] * n for n in (9, 7, 8, 10, 6)]) for seed in range(3)]
    assert set(diagnose(told, **FEW).figures["shear"]) == set(MEASURES)
    assert diagnose(told, **FEW).figures["entropy"]["matched"].value == 0.5


def test_a_rollout_without_tokens_takes_no_part_and_unmixed_groups_are_counted() -> None:
    empty = group(lengths=(9, 7, 8, 0, 6))
    unmixed = replace(group(1), correct=[True] * 5, first_error=None)
    found = diagnose([empty, unmixed], **FEW)
    assert found.counts["groups"] == 2
    assert found.counts["mixed_groups"] == 1
    assert found.counts["matched_pairs"] == 2


def test_intervals_are_over_groups_not_over_pairs() -> None:
    won = planted(0, where="states")
    lost = replace(won, name="lost", correct=[False] * 3 + [True] * 3, first_error=[6] * 3 + [None] * 3)
    found = diagnose([won, lost], **(FEW | {"permutations": 1, "resamples": 200}))
    assert found.counts["matched_pairs"] == 18
    assert found.figures["shear"]["matched"] == (0.5, 0, 1)
    for control in ("lexical", "position"):
        assert found.figures[control]["matched"] == (0.5, 0.5, 0.5)
        assert found.over[control] == (0, -0.5, 0.5)


def test_groups_of_two_are_counted_as_unpermutable() -> None:
    def pair(seed: int) -> LabelledGroup:
        whole = group(seed, name=f"pair {seed}")
        return replace(whole, hidden=whole.hidden[:2], token_ids=whole.token_ids[:2], correct=[1, 0], first_error=None)

    one = compared(pair(0), window=WINDOW, stride=STRIDE, distance="wasserstein")
    for score_K, turned_K in zip(one.shear().spans, one.shear(~one.correct_G).spans, strict=True):
        np.testing.assert_array_equal(score_K, turned_K)
    unmixed = replace(pair(3), correct=[True, True])
    found = diagnose([pair(0), pair(1), unmixed, group(2)], **FEW)
    assert found.counts["unpermutable"] == 2
    assert "2 of 3 groups hold two rollouts: permuting their outcomes changes nothing" in diagnosis_text(found)
    without = diagnose([group(2)], **FEW)
    assert without.counts["unpermutable"] == 0
    assert "hold two rollouts" not in diagnosis_text(without)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda one: diagnose([replace(one, correct=[False] * 5)], **FEW), "none of the 1 groups holds both"),
        (lambda one: diagnose([], **FEW), "none of the 0 groups"),
        (lambda one: diagnose([one, one], **FEW), "two groups are called '0'"),
        (lambda one: diagnose([one], distance="mmd", **FEW), "distance='mmd'"),
        (lambda one: diagnose([one], window=2, stride=3), "window=2, stride=3"),
        (lambda one: diagnose([one], **(FEW | {"permutations": 0})), "permutations=0: at least 1"),
        (lambda one: replace(one, correct=[True]), "1 correct for 5 rollouts"),
        (lambda one: replace(one, first_error=[None, 7, None, None, None]), "first_error=7 lies outside its 7 tokens"),
        (lambda one: replace(one, token_ids=[[1]] * 5), "1 token_ids for 9 states"),
        (lambda one: replace(one, entropy=[[1.0]] * 5), "1 entropy for 9 states"),
        (lambda one: replace(one, hidden=[torch.ones(3)] * 5), r"hidden has shape \(3,\)"),
    ],
)
def test_bad_input_is_refused(broken: Callable[[LabelledGroup], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        broken(group())
