"""What SHEAR's span scores are compared with, to see whether they know more than chance, vocabulary or position.

All that a weighting needs is d_ikj, the distance of span k of rollout i to the nearest span of rollout j, once for
every pair of rollouts: the score against any set of opponents is a minimum over j, so relabelled outcomes cost no
further transport. Shapes: G rollouts, K_i spans and T_i tokens of rollout i.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from rlft.credit.diagnose.group import LabelledGroup
from rlft.credit.shear import span_scores
from rlft.credit.spans import Span, averaging, max_over_covering, spans

PAIRWISE = ("wasserstein", "chamfer", "cosine")
"""Distances of two spans that do not depend on the rest of the group."""

DECIMALS = 5
"""Of distances: twins differ by rounding only, and must count as ties."""

Nearest = list[np.ndarray]
"""G arrays (K_i, G): d_ikj; inf where j is i or has no tokens."""


class Weighting(NamedTuple):
    """One group under one way of weighing; None stands for a rollout that has nothing to be compared with."""

    spans: list[np.ndarray | None]
    """G arrays (K_i,) of span scores."""
    tokens: list[np.ndarray | None]
    """G arrays (T_i,) of token weights."""


@dataclass(frozen=True)
class Compared:
    """A group with both outcomes, without its states: what every weighting is made from."""

    name: str
    correct_G: np.ndarray
    errors: list[int | None]
    lengths: list[int]
    spans: list[list[Span]]
    by_hidden: Nearest
    """In units of the group's mean state norm (cosine: as it is)."""
    by_tokens: Nearest
    entropy: list[np.ndarray] | None

    def shear(self, correct_G: np.ndarray | None = None) -> Weighting:
        """SHEAR's scores d_ik = min over rollouts of the other outcome (eq. 4), under real or given outcomes."""
        return self._weighting(self.against(self.by_hidden, self._outcomes(correct_G), own=False))

    def own_group(self, correct_G: np.ndarray | None = None) -> Weighting:
        """The same distance to the other rollouts of one's *own* outcome."""
        return self._weighting(self.against(self.by_hidden, self._outcomes(correct_G), own=True))

    def lexical(self) -> Weighting:
        """SHEAR with token identity as the only state."""
        return self._weighting(self.against(self.by_tokens, self.correct_G, own=False))

    def of_entropy(self) -> Weighting:
        """The policy's entropy at each token, and its mean over each span."""
        assert self.entropy is not None, "asked for only where every group has entropies"
        means = [averaging(laid, len(h_T)) @ h_T for laid, h_T in zip(self.spans, self.entropy, strict=True)]
        return Weighting(list(means), list(self.entropy))

    def of_position(self) -> Weighting:
        """The token's index, and the middle of each span."""
        return Weighting(
            [np.array([(a + b - 1) / 2 for a, b in laid]) for laid in self.spans],
            [np.arange(length, dtype=float) for length in self.lengths],
        )

    def farther(self, nearest: Nearest, correct_G: np.ndarray | None = None) -> list[float]:
        """For every span 1, 0.5 or 0: is it farther from the other outcome than from its own outcome's rollouts?

        Args:
            nearest: `by_hidden` or `by_tokens`.
            correct_G: outcomes in place of the real ones.

        Returns:
            One value a span, spans of rollouts that are alone with their outcome left out.
        """
        outcomes_G = self._outcomes(correct_G)
        opposing, own = (self.against(nearest, outcomes_G, own=side) for side in (False, True))
        found = []
        for opposing_K, own_K in zip(opposing, own, strict=True):
            if opposing_K is not None and own_K is not None:
                found += (0.5 + 0.5 * np.sign(opposing_K - own_K)).tolist()
        return found

    def against(self, nearest: Nearest, correct_G: np.ndarray, *, own: bool) -> list[np.ndarray | None]:
        """Distance of every span to the nearest span of a side, that of the other outcome or its own.

        Args:
            nearest: `by_hidden` or `by_tokens`.
            correct_G: outcomes.
            own: take the rollouts of one's own outcome (oneself left out).

        Returns:
            G arrays (K_i,), None where there is nothing on that side.
        """
        scores: list[np.ndarray | None] = []
        for i, nearest_KG in enumerate(nearest):
            side_G = (correct_G == correct_G[i]) == own
            score_K = nearest_KG[:, side_G].min(1, initial=np.inf)
            scores.append(score_K if len(score_K) and np.isfinite(score_K).all() else None)
        return scores

    def _outcomes(self, correct_G: np.ndarray | None) -> np.ndarray:
        return self.correct_G if correct_G is None else correct_G

    def _weighting(self, scores: list[np.ndarray | None]) -> Weighting:
        laid = zip(scores, self.spans, self.lengths, strict=True)
        tokens = [None if s_K is None else max_over_covering(s_K, spans_K, length) for s_K, spans_K, length in laid]
        return Weighting(scores, tokens)


def compared(group: LabelledGroup, *, window: int, stride: int, distance: str) -> Compared:
    """Reduce a group to its distances between rollouts.

    Args:
        group: G rollouts with both outcomes.
        window: w, tokens in a span.
        stride: s, tokens between span starts.
        distance: one of `PAIRWISE`.

    Returns:
        The distances; the states are no longer needed.

    Raises:
        ValueError: if window < stride, or on states that `span_scores` refuses.
    """
    laid = [spans(length, window, stride) for length in group.lengths]
    scale = 1.0
    if distance != "cosine":
        scale = float(torch.cat([states_TH.double().norm(dim=1) for states_TH in group.hidden]).mean()) or 1.0
    by_hidden = [np.full((len(spans_K), len(laid)), np.inf) for spans_K in laid]
    by_tokens = [nearest_KG.copy() for nearest_KG in by_hidden]
    ids = [[int(token) for token in ids_T] for ids_T in group.token_ids]
    for i in range(len(laid)):
        for j in range(i):
            if not laid[i] or not laid[j]:
                continue
            both = [group.hidden[i], group.hidden[j]]
            there, back = span_scores(both, [True, False], window=window, stride=stride, distance=distance)
            assert there is not None, "both rollouts have tokens"
            assert back is not None, "both rollouts have tokens"
            by_hidden[i][:, j], by_hidden[j][:, i] = (np.round(d_K / scale, DECIMALS) for d_K in (there, back))
            pair_KL = lexical_distances(ids[i], ids[j], laid[i], laid[j]).round(DECIMALS)
            by_tokens[i][:, j], by_tokens[j][:, i] = pair_KL.min(1), pair_KL.min(0)
    return Compared(
        name=group.name,
        correct_G=np.array([bool(value) for value in group.correct]),
        errors=group.errors,
        lengths=group.lengths,
        spans=laid,
        by_hidden=by_hidden,
        by_tokens=by_tokens,
        entropy=None if group.entropy is None else [np.asarray(h_T, dtype=float) for h_T in group.entropy],
    )


def lexical_distances(
    ids_T: Sequence[int], ids_U: Sequence[int], spans_K: Sequence[Span], spans_L: Sequence[Span]
) -> np.ndarray:
    """W1 between spans whose states are one-hot vectors of their token ids, in closed form.

    All pairs of different tokens are sqrt(2) apart, so W1 is sqrt(2) times the total variation distance of the two
    histograms. Spans of equal size are ordered by it as by 1 - multiset Jaccard.

    Args:
        ids_T: token ids of one rollout.
        ids_U: token ids of the other.
        spans_K: spans of the first.
        spans_L: spans of the second.

    Returns:
        (K, L) distances.
    """
    used, column_S = np.unique([*ids_T, *ids_U], return_inverse=True)
    share_KV, share_LV = (
        np.stack([np.bincount(column[a:b], minlength=len(used)) / (b - a) for a, b in laid])
        for column, laid in ((column_S[: len(ids_T)], spans_K), (column_S[len(ids_T) :], spans_L))
    )
    common_KL = np.stack([np.minimum(share_V, share_LV).sum(1) for share_V in share_KV])
    return np.sqrt(2) * (1 - np.minimum(common_KL, 1))
