"""InfoNCE over K negatives on TRL's Bradley-Terry loss (InfoNCE: van den Oord et al. 2018, arXiv 1807.03748, eq. 4).

    L = -log( exp(s+/T) / (exp(s+/T) + sum_k exp(s_k/T)) ) = -log sigmoid( s+/T - logsumexp_k(s_k/T) )

which is TRL's own loss if it is shown s+/T and, as the one rejected score, the logsumexp of the negatives. With K = 1
and T = 1 both are the model's own scores, bit for bit. TRL's metrics then speak of these two: `accuracy` is the share
of chosen answers that outweigh all their negatives together.

Legend: B pairs, N negatives of all of them, K of one.
"""

from typing import Any

import torch
from torch import Tensor
from trl import RewardTrainer


class InfoNCETrainer(RewardTrainer):
    """`trl.RewardTrainer` with several negatives for each chosen answer.

    Args:
        temperature: T.
        **kwargs: everything `RewardTrainer` takes; batches are those of `rlft.reward_models.training.PairCollator`.
    """

    def __init__(self, *, temperature: float, **kwargs: Any) -> None:
        self.temperature = temperature
        super().__init__(**kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss of the chosen answer against its negatives' soft maximum."""
        against = _AgainstAll(model, inputs.pop("negatives"), self.temperature)
        return super().compute_loss(against, inputs, return_outputs, num_items_in_batch)


class _AgainstAll:
    """What `RewardTrainer.compute_loss` is to call instead of the model.

    Args:
        model: the model, wrapped or not; its batch is B chosen answers, then N negatives in the same order.
        negatives_B: (B,) how many of the negatives are each pair's.
        temperature: T.
    """

    def __init__(self, model: Any, negatives_B: Tensor, temperature: float) -> None:
        self.model, self.negatives_B, self.temperature = model, negatives_B, temperature

    def __call__(self, **inputs: Any) -> Any:
        outputs = self.model(**inputs)
        scores = outputs.logits.squeeze(-1) / self.temperature
        chosen_B, rejected_N = scores.split([len(self.negatives_B), len(scores) - len(self.negatives_B)])
        outputs.logits = torch.cat([chosen_B, soft_maximum(rejected_N, self.negatives_B)]).unsqueeze(-1)
        return outputs


def soft_maximum(rejected_N: Tensor, negatives_B: Tensor) -> Tensor:
    """(B,) logsumexp of each pair's negatives, which stand one pair after the other."""
    most = int(negatives_B.max())
    taken_BK = torch.arange(most, device=rejected_N.device) < negatives_B.to(rejected_N.device).unsqueeze(1)
    table_BK = rejected_N.new_full(taken_BK.shape, -torch.inf).masked_scatter(taken_BK, rejected_N)
    return table_BK.logsumexp(1)
