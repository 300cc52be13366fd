"""SHEAR credit: a token weighs as much as its span lies away from everything the opposing rollouts thought.

"Hidden States Know Where Reasoning Diverges" (arXiv 2604.23318), Algorithm 1, for one group of G rollouts with hidden
states h_i (T_i, H) and outcomes r_i:

    O(i)       the rollouts whose outcome differs from i's
    d_{i,k}    = min over j in O(i), over spans l of j, of W1(span k of i, span l of j)      (eq. 3, 4)
    n_bar      = mean over all tokens of the group of ||h||
    omega_{i,t} = max over spans k that cover t of d_{i,k} / n_bar
    A~_{i,t}   = A_i * omega_{i,t}

A group without both outcomes keeps weight 1. Differences from the paper: W1 is exact, or certified to a tolerance,
instead of Sinkhorn's; a span set ends with the first span that reaches the last token. `normalize`, `mix` and
`exclude_answer` are options of ours.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlft.credit.distances import UNITLESS, nearest_by
from rlft.credit.group import Group
from rlft.credit.options import NORMALIZERS, check_mix
from rlft.credit.spans import max_over_covering, spans


def span_scores(
    hidden: Sequence[Tensor],
    correct: Sequence[bool],
    *,
    window: int = 100,
    stride: int = 25,
    distance: str = "wasserstein",
    tolerance: float = 0.0,
) -> list[np.ndarray | None]:
    """d_{i,k}: distance of every span to its nearest span in any opposing rollout (eq. 4).

    Args:
        hidden: G tensors (T_i, H), on one device.
        correct: G outcomes.
        window: w, tokens in a span.
        stride: s, tokens between span starts.
        distance: `wasserstein`, `chamfer`, `mmd`, `cosine` or `sinkhorn`.
        tolerance: `wasserstein` is exact at 0; above it a score is at most 1 / (1 - tolerance) of the exact one.

    Returns:
        For each rollout (K_i,) scores, or None where it, or the other side, has no tokens.

    Raises:
        ValueError: if states are not finite, or differ in width, naming the rollout; or outcomes are missing.
    """
    check_states(hidden)
    if len(correct) != len(hidden):
        raise ValueError(f"{len(correct)} outcomes for {len(hidden)} rollouts; `correct` has one each.")
    nearest = nearest_by(distance, hidden, tolerance)
    spans_G = [spans(len(hidden_TH), window, stride) for hidden_TH in hidden]
    scores: list[np.ndarray | None] = [None] * len(hidden)
    sides = [[i for i, outcome in enumerate(correct) if bool(outcome) == side and spans_G[i]] for side in (True, False)]
    if not all(sides):
        return scores
    states_A, states_B = ([hidden[i] for i in side] for side in sides)
    spans_A, spans_B = ([spans_G[i] for i in side] for side in sides)
    for side, scores_K in zip(sides, nearest(states_A, states_B, spans_A, spans_B), strict=True):
        parts = np.split(scores_K, np.cumsum([len(spans_G[i]) for i in side])[:-1])
        for i, part_K in zip(side, parts, strict=True):
            scores[i] = part_K
    return scores


def check_states(hidden: Sequence[Tensor]) -> None:
    """Refuse states that no distance can be taken of.

    Args:
        hidden: G tensors (T_i, H).

    Raises:
        ValueError: naming the rollout, and the token of the first state that is not finite.
    """
    for i, hidden_TH in enumerate(hidden):
        if hidden_TH.dim() != 2 or hidden_TH.shape[1] != hidden[0].shape[1]:
            raise ValueError(
                f"rollout {i} has states of shape {tuple(hidden_TH.shape)}, rollout 0 {tuple(hidden[0].shape)}: states "
                "of a group are (tokens, hidden width) with one width; they must come from one model and layer."
            )
        finite_T = torch.isfinite(hidden_TH).all(1)
        if not finite_T.all():
            token = int(finite_T.int().argmin())
            raise ValueError(
                f"rollout {i}, token {token}: its hidden state is NaN or infinite, so no distance exists; the forward "
                "overflowed (train in bf16 or fp32 rather than fp16) or the model has diverged."
            )


def shear_weights(
    hidden: Sequence[Tensor],
    correct: Sequence[bool],
    *,
    window: int = 100,
    stride: int = 25,
    distance: str = "wasserstein",
    tolerance: float = 0.0,
    normalize: str = "group",
    mix: float = 1.0,
    answer_start: Sequence[int] | None = None,
) -> list[Tensor]:
    """omega_{i,t}: the weight of every token's advantage (Algorithm 1, steps 1 to 3).

    Args:
        hidden: G tensors (T_i, H), the state of each model token; environment tokens and padding left out.
        correct: G outcomes.
        window: w, tokens in a span.
        stride: s, tokens between span starts.
        distance: `wasserstein` (paper), `chamfer`, `mmd`, `cosine` or `sinkhorn`.
        tolerance: largest certified relative gap of a Wasserstein minimum; 0 is exact.
        normalize: `group` divides by n_bar (paper; mmd and cosine have no unit and are left as they are); `rollout`
            gives every rollout mean weight 1; `mean_one` gives the group mean weight 1 over its tokens.
        mix: weights become 1 - mix + mix * omega; 1 is the paper, 0 plain GRPO.
        answer_start: G token indices; tokens from there on enter no span and get the mean weight of the tokens before.

    Returns:
        G fp32 tensors (T_i,) on the CPU; ones where nothing opposes a rollout.

    Raises:
        ValueError: on an unknown distance or normaliser, window < stride, mix outside [0, 1], missing outcomes, or
            states that are not finite.
    """
    if normalize not in NORMALIZERS:
        raise ValueError(f"normalize={normalize!r} is not one of {', '.join(NORMALIZERS)}.")
    check_mix(mix)
    starts = [len(hidden_TH) for hidden_TH in hidden] if answer_start is None else answer_start
    compared = [hidden_TH[:start] for hidden_TH, start in zip(hidden, starts, strict=True)]
    scores = span_scores(compared, correct, window=window, stride=stride, distance=distance, tolerance=tolerance)
    norm_bar = float(torch.cat([compared_TH.double().norm(dim=1) for compared_TH in compared]).mean())
    if norm_bar == 0 or all(score is None for score in scores):
        return [torch.ones(len(hidden_TH)) for hidden_TH in hidden]
    if distance in UNITLESS:
        norm_bar = 1.0
    omega: list[np.ndarray | None] = []
    for hidden_TH, compared_TH, score_K in zip(hidden, compared, scores, strict=True):
        if score_K is None:
            omega.append(None)
            continue
        spans_K = spans(len(compared_TH), window, stride)
        before_T = max_over_covering(score_K, spans_K, len(compared_TH)) / norm_bar
        omega.append(np.pad(before_T, (0, len(hidden_TH) - len(before_T)), constant_values=before_T.mean()))
    return [
        torch.ones(len(hidden_TH)) if omega_T is None else torch.from_numpy(1 - mix + mix * omega_T).float()
        for hidden_TH, omega_T in zip(hidden, _normalized(omega, normalize), strict=True)
    ]


def shear(
    group: Group,
    *,
    window: int = 100,
    stride: int = 25,
    distance: str = "wasserstein",
    tolerance: float = 0.0,
    normalize: str = "group",
    mix: float = 1.0,
) -> list[Tensor]:
    """`shear_weights` as a credit function: rollouts that no reward scored take no side and keep weight 1.

    Args:
        group: G rollouts with `hidden`.
        window, stride, distance, tolerance, normalize, mix: as in `shear_weights`.

    Returns:
        G tensors (T_i,).
    """
    assert group.hidden is not None, "the trainer fills Group.hidden because this function declares it in `needs`"
    weights = [torch.ones(length) for length in group.lengths]
    scored = [i for i, reward in enumerate(group.rewards.tolist()) if reward == reward]
    if not group.mixed:
        return weights
    omega = shear_weights(
        [group.hidden[i] for i in scored],
        [bool(group.correct[i]) for i in scored],
        window=window,
        stride=stride,
        distance=distance,
        tolerance=tolerance,
        normalize=normalize,
        mix=mix,
        answer_start=None if group.answer_start is None else [group.answer_start[i] for i in scored],
    )
    for i, omega_T in zip(scored, omega, strict=True):
        weights[i] = omega_T
    return weights


shear.needs = frozenset({"hidden"})  # type: ignore[attr-defined]


def _normalized(omega: Sequence[np.ndarray | None], normalize: str) -> list[np.ndarray | None]:
    if normalize == "group":
        return list(omega)
    if normalize == "mean_one":
        mean = np.concatenate([omega_T for omega_T in omega if omega_T is not None]).mean()
        return [omega_T if omega_T is None or mean == 0 else omega_T / mean for omega_T in omega]
    return [omega_T if omega_T is None or omega_T.mean() == 0 else omega_T / omega_T.mean() for omega_T in omega]
