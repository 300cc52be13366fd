"""One generation batch of a GRPO trainer as rows of the run record."""

from typing import Any

import torch
from torch import Tensor

from rlft import compat
from rlft.credit.batch import Outcomes
from rlft.record.rollouts import RolloutRow

ROLES = "tme"
"""Letters of `RolloutRow.roles`: trained on, masked, the environment's."""


def rollout_rows(
    trainer: Any, rollouts: dict[str, Any], credit_BT: Tensor, outcomes: Outcomes, first: int
) -> list[RolloutRow]:
    """Rows of this process's completions, in order.

    Args:
        trainer: a `GRPOTrainer`: its tokenizer, group size, step and reward names are read.
        rollouts: TRL's generation batch.
        credit_BT: weight of every completion token; 0 on environment tokens, which are not trained on.
        outcomes: of all N rows.
        first: global index of this process's first row.

    Returns:
        B rows.
    """
    prompts = _cut(rollouts["prompt_ids"], rollouts["prompt_mask"].bool())
    pad, stop_ids = compat.pad_and_stop_ids(trainer)
    kept_BT = _sampled(rollouts["completion_ids"], rollouts["completion_mask"].bool(), pad)
    completions, weights = _cut(rollouts["completion_ids"], kept_BT), _cut(credit_BT, kept_BT)
    roles = _cut(_roles(rollouts), kept_BT)
    different = {tuple(ids): ids for ids in prompts}  # G completions have their prompt in common
    decode = trainer.processing_class.batch_decode
    prompt_texts = dict(zip(different, decode(list(different.values())), strict=True))
    step = trainer.state.global_step
    texts = zip(map(tuple, prompts), decode(completions), strict=True)
    timed = zip(trainer.reward_func_names, trainer.reward_funcs, strict=True)
    seconds = {name: function.seconds for name, function in timed if hasattr(function, "seconds")}
    return [
        RolloutRow(
            step=step,
            policy_step=step,
            group=(first + row) // trainer.num_generations,
            prompt=prompt_texts[prompt],
            completion=completion,
            token_ids=completions[row],
            rewards={
                name: _or_none(value)
                for name, value in zip(
                    trainer.reward_func_names, outcomes.by_function_NF[first + row].tolist(), strict=True
                )
            },
            reward=_or_none(float(outcomes.rewards_N[first + row])),
            advantage=float(outcomes.advantages_N[first + row]),
            credit=weights[row],
            finish="stop" if completions[row] and completions[row][-1] in stop_ids else "length",
            roles="".join(ROLES[role] for role in roles[row]),
            reward_seconds=seconds,
        )
        for row, (prompt, completion) in enumerate(texts)
    ]


def _roles(rollouts: dict[str, Any]) -> Tensor:
    """Places in `ROLES` of the completion tokens."""
    masked_BT = (rollouts["completion_mask"] == 0).long()
    tools_BT = rollouts.get("tool_mask")
    return masked_BT if tools_BT is None else torch.where(tools_BT == 0, ROLES.index("e"), masked_BT)


def _cut(values_BS: Tensor, kept_BS: Tensor) -> list[list[Any]]:
    """What is kept of each row, as lists."""
    parts = values_BS[kept_BS].cpu().split(kept_BS.sum(1).tolist())
    return [part.tolist() for part in parts]


def _sampled(ids_BT: Tensor, mask_BT: Tensor, pad: int) -> Tensor:
    """Mask of the tokens that were sampled; TRL clears the whole mask of a completion it truncated and ignores."""
    before_padding_BT = (ids_BT != pad).flip(1).cumsum(1).flip(1) > 0
    return torch.where(mask_BT.any(1, keepdim=True), mask_BT, before_padding_BT)


def _or_none(value: float) -> float | None:
    return None if value != value else value
