"""From TRL's padded generation batch to groups of rollouts, and from weights per rollout back to (B, T).

With several processes a group may straddle two of them (when the rows of one process are not a multiple of the group
size); then the token tensors of all processes are gathered, so that every process sees whole groups and the weights do
not depend on how many processes there are. Shapes: B rows of this process, N rows of all, T tokens, H hidden, G group.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from accelerate import Accelerator
from torch import Tensor

from rlft.credit.group import Group

Weighed = dict[int, tuple[Group, list[Tensor]]]
"""Groups and the weights of their rollouts, by global group number."""


@dataclass(frozen=True)
class TokenRows:
    """What credit reads of a run of consecutive rows; `first` is the global index of row 0.

    Attributes:
        ids_BT: completion token ids.
        mask_BT: 1 on model tokens; 0 on padding and environment tokens.
        hidden_BTH: states of the tokens, if the credit needs them.
        entropy_BT: entropies, if the credit needs them.
        answer_start_B1: index, among the model tokens, at which the final answer begins.
        first: global index of row 0.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    hidden_BTH: Tensor | None = None
    entropy_BT: Tensor | None = None
    answer_start_B1: Tensor | None = None
    first: int = 0

    def whole_groups(self, accelerator: Accelerator, group_size: int) -> "TokenRows":
        """These rows if they hold whole groups only, else the rows of all processes.

        Args:
            accelerator: the run's accelerator; every process must call this.
            group_size: G.

        Returns:
            Rows among which every group of this process is complete.
        """
        if len(self.ids_BT) % group_size == 0:
            return self
        gathered = {
            field.name: accelerator.gather(accelerator.pad_across_processes(value.contiguous(), dim=1))
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return TokenRows(**gathered, first=0)


@dataclass(frozen=True)
class Outcomes:
    """What the rewards said of all N rows: per function (F) and in total (NaN = None), correctness, TRL's advantage."""

    by_function_NF: Tensor
    rewards_N: Tensor
    correct_N: Tensor
    advantages_N: Tensor


def groups_among(
    rows: TokenRows, outcomes: Outcomes, group_size: int, first: int, count: int
) -> Iterator[tuple[int, Group]]:
    """Groups that hold any of the rows `first` to `first + count - 1`, each with its global group number.

    Args:
        rows: from `TokenRows.whole_groups`.
        outcomes: of all N rows.
        group_size: G.
        first: global index of this process's first row.
        count: B.

    Yields:
        (group number, `Group` of its G rollouts).
    """
    for number in range(first // group_size, (first + count - 1) // group_size + 1):
        globally = slice(number * group_size, (number + 1) * group_size)
        locally = range(globally.start - rows.first, globally.stop - rows.first)
        masks = [rows.mask_BT[row].bool() for row in locally]
        yield (
            number,
            Group(
                completion_ids=[rows.ids_BT[row][mask] for row, mask in zip(locally, masks, strict=True)],
                rewards=outcomes.rewards_N[globally],
                correct=outcomes.correct_N[globally],
                advantages=outcomes.advantages_N[globally],
                hidden=_select(rows.hidden_BTH, locally, masks),
                entropy=_select(rows.entropy_BT, locally, masks),
                answer_start=(
                    None if rows.answer_start_B1 is None else [int(rows.answer_start_B1[row, 0]) for row in locally]
                ),
            ),
        )


def spread(weighed: Weighed, mask_BT: Tensor, group_size: int, first: int) -> Tensor:
    """Weights (B, T) of this process's rows: 1 outside the model's tokens, where no loss looks.

    Args:
        weighed: every group of this process with its weights.
        mask_BT: this process's model-token mask.
        group_size: G.
        first: global index of row 0.

    Returns:
        fp32 (B, T) on the mask's device.
    """
    weights_BT = torch.ones(mask_BT.shape)
    for row, mask_T in enumerate(mask_BT.bool().cpu()):
        number, member = divmod(first + row, group_size)
        weights_BT[row, mask_T] = weighed[number][1][member]
    return weights_BT.to(mask_BT.device)


def _select(values_BTx: Tensor | None, rows: range, masks: list[Tensor]) -> list[Tensor] | None:
    return None if values_BTx is None else [values_BTx[row][mask] for row, mask in zip(rows, masks, strict=True)]
