"""From TRL's padded generation batch to rows of model tokens and groups of rows, and from weights back to (B, T).

Shapes: B rows of this process, N rows of all processes, T tokens, H hidden, G group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlft.credit.group import Group


@dataclass(frozen=True)
class Row:
    """What credit reads of one completion: its T_i model tokens, without padding and environment tokens.

    Attributes:
        ids_T: token ids.
        hidden_TH: states of the tokens, if the credit needs them.
        entropy_T: entropies, if the credit needs them.
        answer_start: index of the token at which the final answer begins, if it is excluded.
    """

    ids_T: Tensor
    hidden_TH: Tensor | None = None
    entropy_T: Tensor | None = None
    answer_start: int | None = None


@dataclass(frozen=True)
class Outcomes:
    """What the rewards said of all N rows: per function (F) and in total (NaN = None), correctness, TRL's advantage."""

    by_function_NF: Tensor
    rewards_N: Tensor
    correct_N: Tensor
    advantages_N: Tensor

    def mixed(self, group_size: int) -> list[bool]:
        """For each of the N / G groups, whether it holds both correct and wrong rollouts; unscored ones are neither."""
        correct_N = self.correct_N.bool()
        wrong_N = ~correct_N & ~self.rewards_N.isnan()
        either = torch.stack([correct_N, wrong_N]).view(2, -1, group_size).any(2)
        return either.all(0).tolist()

    def dead(self, group_size: int) -> list[bool]:
        """For each group, whether all its advantages are 0."""
        return (self.advantages_N.view(-1, group_size) == 0).all(1).tolist()


def split_rows(values_Nx: Tensor, mask_BT: Tensor) -> list[Tensor]:
    """Cut the values of all model tokens, laid end to end, into B tensors (T_i, ...)."""
    return list(values_Nx.split(mask_BT.sum(1).tolist()))


def token_rows(
    ids_BT: Tensor,
    mask_BT: Tensor,
    hidden: Mapping[int, Tensor] | None = None,
    entropy_BT: Tensor | None = None,
    answer_starts: Sequence[int] | None = None,
) -> list[Row]:
    """The B rows of one process.

    Args:
        ids_BT: completion token ids.
        mask_BT: bool, true on model tokens.
        hidden: states (T_i, H) by row, for the rows whose states are needed.
        entropy_BT: entropies, if the credit needs them.
        answer_starts: where the final answer begins, if it is excluded.

    Returns:
        B rows.
    """
    ids = split_rows(ids_BT[mask_BT], mask_BT)
    entropies = None if entropy_BT is None else split_rows(entropy_BT[mask_BT], mask_BT)
    return [
        Row(
            ids_T,
            None if hidden is None else hidden.get(row),
            None if entropies is None else entropies[row],
            None if answer_starts is None else answer_starts[row],
        )
        for row, ids_T in enumerate(ids)
    ]


def group_of(number: int, rows: Sequence[Row], outcomes: Outcomes) -> Group:
    """The `Group` of G rows.

    Args:
        number: the group's index over all processes.
        rows: its G rows, in order.
        outcomes: of all N rows.
    """
    place = slice(number * len(rows), (number + 1) * len(rows))
    hidden = [row.hidden_TH for row in rows if row.hidden_TH is not None]
    entropy = [row.entropy_T for row in rows if row.entropy_T is not None]
    starts = [row.answer_start for row in rows if row.answer_start is not None]
    return Group(
        completion_ids=[row.ids_T for row in rows],
        rewards=outcomes.rewards_N[place],
        correct=outcomes.correct_N[place],
        advantages=outcomes.advantages_N[place],
        hidden=hidden or None,
        entropy=entropy or None,
        answer_start=starts or None,
    )


def spread(weights: Sequence[Tensor], mask_BT: Tensor) -> Tensor:
    """Weights (B, T) of one process's rows: 1 outside the model's tokens, where no loss looks.

    Args:
        weights: B tensors (T_i,).
        mask_BT: bool, true on model tokens.

    Returns:
        fp32 (B, T) on the mask's device.
    """
    weights_BT = torch.ones(mask_BT.shape, device=mask_BT.device)
    weights_BT[mask_BT] = torch.cat(list(weights)).to(mask_BT.device)
    return weights_BT
