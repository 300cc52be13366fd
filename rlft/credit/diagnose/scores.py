"""Is SHEAR's signal real on these rollouts? Span scores and token weights against labels, beside controls.

Every measure is given for SHEAR's scores and for controls that show what chance, vocabulary and position alone reach:

    shear       distance to the nearest span of the other outcome (arXiv 2604.23318, eq. 4)
    permuted    the same after outcomes are permuted inside each group: the chance level, which need not be 0.5
    lexical     the same distance with token identity as the only state
    own_group   the same distance to the other rollouts of one's own outcome
    position    the token's index
    entropy     the policy's entropy, where given

Measures (labels: first wrong token of a rollout that ended wrong):

    matched     P(token weight at the error > weight at the same index of a correct rollout of the group)
    after       AUC of span scores, spans that reach the error or lie behind it against spans before it
    in_bins     the same, only pairs of spans in the same quantile bin of position
    rho         Spearman's rho of span score and that label
    partial     the same with position held fixed
    farther     needs no labels: share of spans that are farther from the other outcome than from their own outcome's
                rollouts

Intervals are bootstraps over groups (95 %); for `permuted`, the middle 95 % of the permutations, with the mean.
Shapes: G rollouts of a group; N rows of a measure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rlft.credit.diagnose.controls import PAIRWISE, Compared, Weighting, compared
from rlft.credit.diagnose.group import LabelledGroup
from rlft.credit.diagnose.labels import Rows, Weigh, farther_rows, labelled_rows
from rlft.credit.diagnose.measures import BinFigure, auc, auc_in_bins, bin_figures, partial_spearman, spearman
from rlft.credit.spans import spans
from rlft.evaluate.personal import Interval, Measured, bootstrap, paired_bootstrap

SPAN_MEASURES: Mapping[str, Callable[[np.ndarray], float]] = {
    "after": auc,
    "in_bins": auc_in_bins,
    "rho": spearman,
    "partial": partial_spearman,
}
MEASURES = ("matched", *SPAN_MEASURES, "farther")
WEIGHTINGS = ("shear", "permuted", "lexical", "own_group", "entropy", "position")


@dataclass(frozen=True)
class Diagnosis:
    """Figures of one set of groups.

    Attributes:
        settings: what was compared and how.
        counts: `groups`, `mixed_groups` (both outcomes; all that follows is of these), `rollouts`, `wrong`, `labelled`
            (wrong, with a known first error), `ignored_labels` (on correct rollouts), `matched_pairs`,
            `matched_ties` (equal weights, as where two spans are each other's nearest), `spans` (of labelled rollouts),
            `unpermutable` (groups of two rollouts, whose scores are the same with outcomes permuted).
        figures: weighting -> measure -> value and interval; a measure that cannot be had is left out.
        bins: weighting -> AUC and rho in each position bin.
        p_values: measure -> share of permutations that reach the real value, (1 + count) / (1 + permutations).
        over: control -> `matched` of shear less that of the control, on the same pairs.
    """

    settings: dict[str, object]
    counts: dict[str, int]
    figures: dict[str, dict[str, Interval]]
    bins: dict[str, list[BinFigure]]
    p_values: dict[str, float]
    over: dict[str, Interval]


def diagnose(
    groups: Iterable[LabelledGroup],
    *,
    window: int = 100,
    stride: int = 25,
    distance: str = "wasserstein",
    bins: int = 4,
    permutations: int = 100,
    resamples: int = 500,
    seed: int = 0,
) -> Diagnosis:
    """Measure SHEAR's scores and their controls on groups of rollouts.

    Args:
        groups: read once and one at a time, so a generator keeps the states of one group only in memory.
        window: w, tokens in a span.
        stride: s, tokens between span starts.
        distance: `wasserstein`, `chamfer` or `cosine`.
        bins: quantile bins of span position.
        permutations: relabellings of all groups.
        resamples: of the bootstrap.
        seed: of permutations and bootstrap.

    Returns:
        The figures. Without labels only `farther` is measured.

    Raises:
        ValueError: if no group has both outcomes, a number is below 1, or as `LabelledGroup` and `span_scores` raise.
    """
    refuse_settings(
        window=window, stride=stride, distance=distance, bins=bins, permutations=permutations, resamples=resamples
    )
    kept, counts = _reduced(groups, window, stride, distance)
    rows = {name: _rows(kept, weigh, bins) for name, weigh in _weighings(kept).items()}
    rows["shear"]["farther"] = farther_rows(kept, lambda group: group.by_hidden)
    rows["lexical"]["farther"] = farther_rows(kept, lambda group: group.by_tokens)
    won_N = rows["shear"]["matched"][0]
    counts |= {"matched_pairs": len(won_N), "matched_ties": int((won_N == 0.5).sum())}
    counts |= {"spans": len(rows["shear"]["after"][0])}
    counts["unpermutable"] = sum(len(group.correct_G) == 2 for group in kept)
    figures = {name: _intervals(of_arm, resamples, seed) for name, of_arm in rows.items()}
    permuted = _permuted(kept, bins, permutations, seed)
    figures["permuted"] = {
        name: Interval(float(np.mean(drawn)), *np.quantile(drawn, [0.025, 0.975]).tolist())
        for name, drawn in permuted.items()
    }
    settings: dict[str, object] = {"window": window, "stride": stride, "distance": distance, "bins": bins}
    return Diagnosis(
        settings=settings | {"permutations": permutations, "resamples": resamples, "seed": seed},
        counts=counts,
        figures={name: figures[name] for name in WEIGHTINGS if name in figures},
        bins={name: bin_figures(of_arm["after"][0]) for name, of_arm in rows.items() if len(of_arm["after"][0])},
        p_values={
            name: (1 + sum(value >= real.value for value in permuted[name])) / (1 + permutations)
            for name, real in figures["shear"].items()
            if name in permuted and np.isfinite(real.value)
        },
        over=_over(rows, resamples, seed),
    )


def refuse_settings(*, window: int, stride: int, distance: str, bins: int, permutations: int, resamples: int) -> None:
    """Refuse settings of `diagnose` that cannot work, before anything is computed.

    Raises:
        ValueError: with the value and the rule.
    """
    spans(0, window, stride)
    if distance not in PAIRWISE:
        raise ValueError(
            f"distance={distance!r}: a diagnosis compares rollouts pair by pair; use {', '.join(PAIRWISE)}."
        )
    for name, value in (("bins", bins), ("permutations", permutations), ("resamples", resamples)):
        if value < 1:
            raise ValueError(f"{name}={value}: at least 1 is needed.")


def diagnosis_record(diagnosis: Diagnosis) -> dict[str, object]:
    """The figures as JSON types; an interval is [value, low, high]."""
    return {
        "settings": diagnosis.settings,
        "counts": diagnosis.counts,
        "figures": {arm: {k: list(v) for k, v in found.items()} for arm, found in diagnosis.figures.items()},
        "bins": {arm: [found._asdict() for found in of_arm] for arm, of_arm in diagnosis.bins.items()},
        "p_values": diagnosis.p_values,
        "matched_over": {arm: list(found) for arm, found in diagnosis.over.items()},
    }


def _reduced(
    groups: Iterable[LabelledGroup], window: int, stride: int, distance: str
) -> tuple[list[Compared], dict[str, int]]:
    counts = dict.fromkeys(("groups", "mixed_groups", "rollouts", "wrong", "labelled", "ignored_labels"), 0)
    kept: list[Compared] = []
    names: set[str] = set()
    for group in groups:
        counts["groups"] += 1
        if group.name in names:
            raise ValueError(f"two groups are called {group.name!r}; give every group a name of its own.")
        names.add(group.name)
        if not group.mixed:
            continue
        kept.append(compared(group, window=window, stride=stride, distance=distance))
        labelled = [error is not None for error in group.errors]
        counts["mixed_groups"] += 1
        counts["rollouts"] += len(labelled)
        counts["wrong"] += sum(not value for value in group.correct)
        counts["labelled"] += sum(here and not value for here, value in zip(labelled, group.correct, strict=True))
        counts["ignored_labels"] += sum(
            here and bool(value) for here, value in zip(labelled, group.correct, strict=True)
        )
    if not kept:
        raise ValueError(
            f"none of the {counts['groups']} groups holds both a correct and a wrong rollout, so there is nothing to "
            "compare; sample more rollouts a prompt, or prompts that are neither always nor never solved."
        )
    return kept, counts


def _weighings(kept: Sequence[Compared]) -> dict[str, Weigh]:
    weighings: dict[str, Weigh] = {
        "shear": Compared.shear,
        "lexical": Compared.lexical,
        "own_group": Compared.own_group,
        "position": Compared.of_position,
    }
    if all(group.entropy is not None for group in kept):
        weighings["entropy"] = Compared.of_entropy
    return weighings


def _relabelled(group: Compared, outcomes: Mapping[str, np.ndarray]) -> Weighting:
    return group.shear(outcomes[group.name])


def _rows(kept: Sequence[Compared], weigh: Weigh, bins: int) -> dict[str, Rows]:
    """Rows of every measure that needs labels, by its name."""
    matched, spans = labelled_rows(kept, weigh, bins)
    return {"matched": matched, **dict.fromkeys(SPAN_MEASURES, spans)}


def _intervals(rows: Mapping[str, Rows], resamples: int, seed: int) -> dict[str, Interval]:
    return {
        name: bootstrap(Measured(found, _figure(name)), users=named, resamples=resamples, seed=seed)
        for name in MEASURES
        if name in rows
        for found, named in [rows[name]]
        if len(found)
    }


def _permuted(kept: Sequence[Compared], bins: int, permutations: int, seed: int) -> dict[str, list[float]]:
    """Measure -> its value under each relabelling."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(permutations):
        outcomes = {group.name: rng.permutation(group.correct_G) for group in kept}
        rows = _rows(kept, partial(_relabelled, outcomes=outcomes), bins)
        farther = [value for group in kept for value in group.farther(group.by_hidden, outcomes[group.name])]
        rows["farther"] = (np.array(farther), [])
        for name, (found, _names) in rows.items():
            if len(found):
                drawn.setdefault(name, []).append(_figure(name)(found))
    return drawn


def _figure(name: str) -> Callable[[np.ndarray], float]:
    return SPAN_MEASURES.get(name, lambda values_N: float(values_N.mean()))


def _over(rows: Mapping[str, Mapping[str, Rows]], resamples: int, seed: int) -> dict[str, Interval]:
    """What shear's `matched` has over that of each control which weighs the same pairs."""
    shear, named = rows["shear"]["matched"]
    first = Measured(shear, _figure("matched"))
    others = {name: of_arm["matched"][0] for name, of_arm in rows.items() if name != "shear"}
    return {
        name: paired_bootstrap(first, Measured(found, _figure("matched")), users=named, resamples=resamples, seed=seed)
        for name, found in others.items()
        if len(shear) and len(found) == len(shear)
    }
