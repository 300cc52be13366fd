"""One generation batch of a GRPO trainer as rows of the run record."""

from typing import Any

from torch import Tensor

from rlft import compat
from rlft.credit.batch import Outcomes
from rlft.record.rollouts import RolloutRow


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
    decode = trainer.processing_class.batch_decode
    prompts = [ids[mask.bool()].tolist() for ids, mask in _rows(rollouts, "prompt")]
    pad, stop_ids = compat.pad_and_stop_ids(trainer)
    kept = [_sampled(ids, mask.bool(), pad) for ids, mask in _rows(rollouts, "completion")]
    completions = [ids[keep].tolist() for (ids, _), keep in zip(_rows(rollouts, "completion"), kept, strict=True)]
    weights = [row[keep].tolist() for row, keep in zip(credit_BT, kept, strict=True)]
    step = trainer.state.global_step
    texts = zip(decode(prompts), decode(completions), strict=True)
    return [
        RolloutRow(
            step=step,
            policy_step=step,
            group=(first + row) // trainer.num_generations,
            prompt=prompt,
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
        )
        for row, (prompt, completion) in enumerate(texts)
    ]


def _rows(rollouts: dict[str, Any], side: str) -> Any:
    return zip(rollouts[f"{side}_ids"], rollouts[f"{side}_mask"], strict=True)


def _sampled(ids_T: Tensor, mask_T: Tensor, pad: int) -> Tensor:
    """Mask of the tokens that were sampled; TRL clears the whole mask of a completion it truncated and ignores."""
    if mask_T.any():
        return mask_T
    return (ids_T != pad).flip(0).cumsum(0).flip(0) > 0  # all but the padding at the end


def _or_none(value: float) -> float | None:
    return None if value != value else value
