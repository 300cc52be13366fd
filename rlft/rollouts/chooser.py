"""Which token comes next: the inverse of the cumulative distribution at a uniform number of the draw's own.

token = min {v : sum_{w <= v} p(w) > u}. The numbers u_1, u_2, ... of a draw come from Philox keyed by its seed (Salmon
et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011), so what is sampled depends on the distribution, the seed
and the step, and not on what else is in the batch.

Legend: B draws of a batch, T new tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from rlft.rollouts.policy import Draw, Sampling


class Chooser(LogitsProcessor):
    """Chooses the token of every row, and hands `generate` scores whose largest is that token's.

    Args:
        draws: one per row, for their seeds and caps.
        sampling: the distribution; temperature, then top-k, then top-p, as transformers does it.
        device: of the logits.
    """

    def __init__(self, draws: Sequence[Draw], sampling: Sampling, device: torch.device) -> None:
        self.temperature = sampling.temperature
        self.warpers = LogitsProcessorList()
        if sampling.top_k:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))
        if sampling.temperature > 0:
            # MPS has no float64.
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self.uniform_TB = torch.from_numpy(_uniforms(draws)).T.to(device, dtype)
        self.ids: list[Tensor] = []
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.temperature == 0:
            scaled_BV = scores
            choice_B1 = scores.argmax(-1, keepdim=True)
        else:
            scaled_BV = scores / self.temperature
            probs_BV = self.warpers(input_ids, scaled_BV).softmax(-1)
            choice_B1 = invert_cdf(probs_BV, self.uniform_TB[len(self.ids)])
        self.ids.append(choice_B1)
        self.logprobs.append(scaled_BV.gather(1, choice_B1) - scaled_BV.logsumexp(-1, keepdim=True))
        return scores.scatter(1, choice_B1, torch.inf)

    def chosen(self) -> tuple[list[list[int]], list[list[float]]]:
        """Ids and log-probabilities (B, T) of all steps, also those of rows that had ended."""
        return torch.cat(self.ids, 1).tolist(), torch.cat(self.logprobs, 1).tolist()


def invert_cdf(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The first id whose cumulative probability exceeds the row's uniform number.

    Args:
        probs_BV: non-negative, each row with a positive sum near 1.
        uniform_B: in [0, 1), in the precision that the sums are to be taken in.

    Returns:
        (B, 1) ids, never one of probability 0.
    """
    sums_BV = probs_BV.cumsum(-1, dtype=uniform_B.dtype)
    # Kept under the last sum whatever the rounding, so that an id is found.
    below_one = 1 - 4 * torch.finfo(uniform_B.dtype).eps
    target_B1 = (uniform_B.clamp(max=below_one) * sums_BV[:, -1])[:, None]
    return torch.searchsorted(sums_BV, target_B1, right=True).clamp(max=probs_BV.size(1) - 1)


def _uniforms(draws: Sequence[Draw]) -> np.ndarray:
    """(B, T) uniform numbers; those of a draw are the first of its stream, so a larger cap changes none of them."""
    steps = max(draw.max_new_tokens for draw in draws)
    return np.stack([np.random.Generator(np.random.Philox(key=draw.seed)).random(steps) for draw in draws])
