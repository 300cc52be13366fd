"""Which token comes next: the inverse of the cumulative distribution at a uniform number of the draw's own.

token = min {v : sum_{w <= v} p(w) > u}. The numbers u_1, u_2, ... of a draw come from Philox keyed by its seed (Salmon
et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011), so what is sampled depends on the distribution, the seed
and the step, and not on what else is in the batch.

Legend: A draws that choose, B all draws, G pairs of a row and a grammar, R rows of logits, T new tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from rlft.rollouts.policy import Draw, Sampling

NOT_NUMBERS = (
    "the model's logits are NaN or infinite, so nothing can be sampled from it: its weights have diverged or its dtype "
    "overflows; lower learning_rate, or load it in bf16 or fp32."
)


class Chooser:
    """Chooses the next token of every draw and keeps its log-probability.

    Args:
        draws: for their seeds, caps and grammars.
        sampling: the distribution; what a grammar forbids is out first, then come the repetition penalty, temperature,
            top-k and top-p, as transformers does it.
        device: of the logits.
    """

    def __init__(self, draws: Sequence[Draw], sampling: Sampling, device: torch.device) -> None:
        self.temperature, self.penalty = sampling.temperature, sampling.repetition_penalty
        self.prompts = [draw.prompt_ids for draw in draws]
        self.seen_BV: Tensor | None = None
        """Ids of each draw's prompt and text, if they are penalised."""
        # They read no prompts, so none are given.
        self.warpers: list[Any] = []
        if sampling.top_k:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))
        if sampling.temperature > 0:
            # MPS has no float64.
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self.uniform_TB = torch.from_numpy(_uniforms(draws)).T.to(device, dtype)
        self.count = len(draws)
        self.grammars = [draw.grammar for draw in draws]
        self.held_B = np.array([grammar is not None for grammar in self.grammars])
        self.said: list[list[int]] = [[] for _ in draws]
        """What each draw under a grammar has chosen."""
        self.who: list[np.ndarray] = []
        self.ids: list[np.ndarray] = []
        self.logprobs: list[Tensor] = []

    def choose(self, logits_RV: Tensor, row_A: np.ndarray, draw_A: np.ndarray) -> np.ndarray:
        """One step: the next token of each draw that still goes on.

        Args:
            logits_RV: of the next token, before temperature.
            row_A: the row of logits that each draw chooses from; several may choose from one.
            draw_A: which draws.

        Returns:
            (A,) ids.

        Raises:
            FloatingPointError: if logits that a grammar allows are not numbers.
        """
        if self.held_B[draw_A].any():
            logits_RV, row_A = self._held(logits_RV, row_A, draw_A)
        rows = torch.from_numpy(row_A).to(logits_RV.device)
        wanted_RV = logits_RV if self.penalty == 1 else self._penalised(logits_RV, row_A, draw_A)
        if self.temperature == 0:
            scaled_RV = logits_RV
            choice_A1 = wanted_RV.argmax(-1, keepdim=True)[rows]
        else:
            scaled_RV = logits_RV / self.temperature
            kept_RV = scaled_RV if wanted_RV is logits_RV else wanted_RV / self.temperature
            for warper in self.warpers:
                kept_RV = warper(None, kept_RV)
            probs_RV = kept_RV.softmax(-1)
            uniform_A = self.uniform_TB[len(self.ids)][torch.from_numpy(draw_A).to(rows.device)]
            choice_A1 = invert_cdf(probs_RV, uniform_A, rows)
        logprob_A1 = scaled_RV[rows].gather(1, choice_A1) - scaled_RV.logsumexp(-1, keepdim=True)[rows]
        self.who.append(draw_A)
        self.ids.append(choice_A1[:, 0].cpu().numpy())
        self.logprobs.append(logprob_A1[:, 0])
        if self.seen_BV is not None:
            self.seen_BV[torch.from_numpy(draw_A).to(rows.device), choice_A1[:, 0]] = True
        for place in self.held_B[draw_A].nonzero()[0]:
            self.said[draw_A[place]].append(int(self.ids[-1][place]))
        return self.ids[-1]

    def _penalised(self, logits_RV: Tensor, row_A: np.ndarray, draw_A: np.ndarray) -> Tensor:
        """Logits with those of each row's own ids lowered; draws of one row have the same ids."""
        if self.seen_BV is None:
            self.seen_BV = torch.zeros(self.count, logits_RV.size(1), dtype=torch.bool, device=logits_RV.device)
            for draw, prompt in enumerate(self.prompts):
                self.seen_BV[draw, prompt] = True
        draw_R = np.zeros(len(logits_RV), np.int64)
        draw_R[row_A] = draw_A
        lowered_RV = torch.where(logits_RV > 0, logits_RV / self.penalty, logits_RV * self.penalty)
        return torch.where(self.seen_BV[torch.from_numpy(draw_R).to(logits_RV.device)], lowered_RV, logits_RV)

    def _held(self, logits_RV: Tensor, row_A: np.ndarray, draw_A: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """A row of logits for each grammar of a row, what it forbids at minus infinity; and the row of each draw.

        Draws of one row have chosen the same, so one grammar allows them the same.
        """
        pairs: dict[tuple[int, int], int] = {}
        keys = [(int(row), id(self.grammars[draw])) for row, draw in zip(row_A, draw_A, strict=True)]
        pair_A = np.array([pairs.setdefault(key, len(pairs)) for key in keys])
        _, first_G = np.unique(pair_A, return_index=True)
        held_GV = logits_RV[torch.from_numpy(row_A[first_G]).to(logits_RV.device)]
        for pair, draw in enumerate(draw_A[first_G]):
            grammar = self.grammars[draw]
            ids = grammar.allowed(self.said[draw]) if grammar else ()
            if len(ids):
                held_GV[pair] = only(held_GV[pair], ids)
        return held_GV, pair_A

    def chosen(self) -> tuple[list[list[int]], list[list[float]]]:
        """Ids and log-probabilities of each draw's steps."""
        # Stable, so that each draw's steps stay in order.
        who = np.concatenate(self.who)
        order = np.argsort(who, kind="stable")
        ends = np.cumsum(np.bincount(who, minlength=self.count))[:-1]
        ids = np.concatenate(self.ids)[order]
        logprobs = torch.cat(self.logprobs).cpu().numpy()[order]
        return [part.tolist() for part in np.split(ids, ends)], [part.tolist() for part in np.split(logprobs, ends)]


def only(logits_V: Tensor, ids: Sequence[int]) -> Tensor:
    """Logits with all but those of `ids` at minus infinity.

    Raises:
        FloatingPointError: if those are not numbers.
    """
    index = torch.tensor(ids, device=logits_V.device)
    kept = logits_V[index]
    if not kept.logsumexp(-1).isfinite():
        raise FloatingPointError(NOT_NUMBERS)
    return torch.full_like(logits_V, -torch.inf).index_copy(0, index, kept)


def invert_cdf(probs_RV: Tensor, uniform_A: Tensor, row_A: Tensor) -> Tensor:
    """The first id whose cumulative probability exceeds the uniform number.

    Args:
        probs_RV: non-negative, each row with a positive sum near 1.
        uniform_A: in [0, 1), in the precision that the sums are to be taken in.
        row_A: the row that each number chooses from.

    Returns:
        (A, 1) ids, never one of probability 0.
    """
    sums_AV = probs_RV.cumsum(-1, dtype=uniform_A.dtype)[row_A]
    # Kept under the last sum whatever the rounding, so that an id is found.
    below_one = 1 - 4 * torch.finfo(uniform_A.dtype).eps
    target_A1 = (uniform_A.clamp(max=below_one) * sums_AV[:, -1])[:, None]
    return torch.searchsorted(sums_AV, target_A1, right=True).clamp(max=probs_RV.size(1) - 1)


def _uniforms(draws: Sequence[Draw]) -> np.ndarray:
    """(B, T) uniform numbers; those of a draw are the first of its stream, so a larger cap changes none of them."""
    steps = max(draw.max_new_tokens for draw in draws)
    return np.stack([np.random.Generator(np.random.Philox(key=draw.seed)).random(steps) for draw in draws])
