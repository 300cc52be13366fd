"""Seeds of replay: the short pieces of new text that the model is asked to continue.

STOC (arXiv 2605.10640), step 3. Shapes: T tokens of a sample, S = T - width + 1 places where a window may start.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rlft.replay.scores import ATTENTION_SCORERS, SCORERS, SINK_TOKENS, Floats, token_scores
from rlft.rollouts.policy import seed_of

RANKINGS = ("window", "token")

LEAST_ROWS = 8
"""Rows that a column must average before `fair` and `sinkless` trust its score; later columns are noise."""

Booleans = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Seed:
    """A piece of one sample."""

    sample_id: str
    start: int
    """Token it starts at."""
    end: int
    """Token it ends before."""
    ids: tuple[int, ...]
    score: float
    """What it was chosen by; comparable within a scorer only."""
    scorer: str


def sample_seeds(
    sample_id: str,
    mass_T: Sequence[float] | Floats | None,
    ids_T: Sequence[int],
    *,
    k: int,
    width: int,
    scorer: str,
    seed: int,
    special_ids: Collection[int] = (),
    rank: str = "window",
) -> list[Seed]:
    """`select_seeds` with the pieces themselves; what `random` picks depends on `seed` and `sample_id` alone.

    Raises:
        ValueError: as `select_seeds`, naming the sample.
    """
    chance = seed_of(seed, "seeds", sample_id)
    try:
        chosen = select_seeds(
            mass_T, ids_T, k=k, width=width, scorer=scorer, seed=chance, special_ids=special_ids, rank=rank
        )
    except ValueError as error:
        raise ValueError(f"sample {sample_id!r}: {error}") from error
    return [
        Seed(sample_id, start, end, tuple(int(token) for token in ids_T[start:end]), score, scorer)
        for start, end, score in chosen
    ]


def select_seeds(
    mass_T: Sequence[float] | Floats | None,
    ids_T: Sequence[int],
    *,
    k: int,
    width: int,
    scorer: str,
    seed: int,
    special_ids: Collection[int] = (),
    rank: str = "window",
) -> list[tuple[int, int, float]]:
    """The best windows of a sample, taken greedily, none overlapping another; of equals the first.

    No window holds a special token. Under `fair` and `sinkless` the tokens that a window ranks by have at least
    `LEAST_ROWS` rows, and under `sinkless` they are none of the first `SINK_TOKENS`, unless no window would be left.

    The released code masks only later starts, so that its seeds may overlap; it drops a seed that the end of the sample
    cuts, and its window form never takes the last window. Here every whole window is a candidate.

    Args:
        mass_T: (T,) attention mass; None for `prefix`, `random` and `bos`, which read none.
        ids_T: the sample without padding.
        k: seeds wanted (the paper: 3). Fewer come back where no further window fits.
        width: tokens of a seed (the paper: 3 on biographies, 10 on KnowEdit).
        scorer: one of `SCORERS`. `prefix` takes the windows from the start on, `random` any, `bos` none: its one
            seed is empty, and generation starts from the start token alone.
        seed: of `random`.
        special_ids: tokens that are no text: start, end, padding.
        rank: a window ranks by the mean of its token scores (`window`, as the released code on real data), or by
            the score of its first token (`token`, as the released code on synthetic data). `prefix` and `random`
            have one ranking.

    Returns:
        (start, end, score) by position. Where no stretch between special tokens is longer than `width`, the longest
        is the one seed.

    Raises:
        ValueError: for an unknown scorer or ranking, k or width below 1, mass that is missing or of another length,
            an empty sample, or one of special tokens only.
    """
    _refuse(scorer, rank, k, width)
    ids = np.asarray(ids_T, dtype=np.int64)
    if ids.ndim != 1 or not ids.size:
        raise ValueError(f"ids_T has shape {ids.shape}; one id per token, at least one, is needed.")
    if scorer == "bos":
        return [(0, 0, 0.0)]
    text_T = ~np.isin(ids, list(special_ids))
    longest = _longest_run(text_T)
    if not longest:
        raise ValueError(f"all {ids.size} tokens are special ones, such as padding; leave the sample out.")
    span = min(width, longest)
    score_S = _window_scores(mass_T, ids.size, span, scorer, seed, rank)
    free_S = _whole(text_T, span)
    trusted_T = _trusted(ids.size, scorer)
    kept_S = free_S & (trusted_T[: free_S.size] if rank == "token" else _whole(trusted_T, span))
    if longest <= width:
        return _greedy(score_S, free_S, 1, span)
    return _greedy(score_S, kept_S if kept_S.any() else free_S, k, span)


def _refuse(scorer: str, rank: str, k: int, width: int) -> None:
    if scorer not in SCORERS:
        raise ValueError(f"scorer={scorer!r} is none of {', '.join(SCORERS)}.")
    if rank not in RANKINGS:
        raise ValueError(f"rank={rank!r} is none of {', '.join(RANKINGS)}.")
    if k < 1 or width < 1:
        raise ValueError(f"k={k} and width={width} must be at least 1: seeds of a sample, and tokens of a seed.")


def _window_scores(
    mass_T: Sequence[float] | Floats | None, tokens: int, width: int, scorer: str, seed: int, rank: str
) -> Floats:
    starts = tokens - width + 1
    if scorer == "prefix":
        return -np.arange(starts, dtype=np.float64)
    if scorer == "random":
        return np.random.default_rng(seed).random(starts)
    if mass_T is None or len(mass_T) != tokens:
        seen = "none" if mass_T is None else f"{len(mass_T)} numbers"
        raise ValueError(
            f"scorer={scorer!r} needs the attention mass of all {tokens} tokens and got {seen}; "
            f"only {', '.join(ATTENTION_SCORERS)} read it."
        )
    score_T = token_scores(mass_T, scorer)
    return score_T[:starts] if rank == "token" else sliding_window_view(score_T, width).mean(-1)


def _trusted(tokens: int, scorer: str) -> Booleans:
    place_T = np.arange(tokens)
    trusted_T = np.ones(tokens, dtype=np.bool_)
    if scorer in ("fair", "sinkless"):
        trusted_T &= tokens - place_T >= LEAST_ROWS
    if scorer == "sinkless":
        trusted_T &= place_T >= SINK_TOKENS
    return trusted_T


def _greedy(score_S: Floats, free_S: Booleans, k: int, width: int) -> list[tuple[int, int, float]]:
    chosen: list[tuple[int, int, float]] = []
    open_S = free_S.copy()
    while len(chosen) < k and open_S.any():
        start = int(np.where(open_S, score_S, -np.inf).argmax())
        chosen.append((start, start + width, float(score_S[start])))
        open_S[max(0, start - width + 1) : start + width] = False
    return sorted(chosen)


def _whole(true_T: Booleans, width: int) -> Booleans:
    """Which windows hold nothing but true."""
    return sliding_window_view(true_T, width).min(-1)


def _longest_run(text_T: Booleans) -> int:
    breaks = np.flatnonzero(~np.concatenate(([False], text_T, [False])))
    return int(np.diff(breaks).max() - 1)
