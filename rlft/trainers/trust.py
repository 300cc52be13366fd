"""Trust checks: did training reach every weight it should, and is the adapter on disk the trained one?

Runs that learn nothing usually end without an error: gradient checkpointing cuts off a LoRA matrix, the
optimiser holds other tensors than the model, the saved adapter equals its start. `TrustCallback` looks for
these at the first gradient and at the end of any transformers or TRL trainer; `check_adapter` reloads what
was saved. A failed check raises `TrustError`.

A LoRA update is B·A with B = 0 at the start, so A has no gradient at the first step: B is what can be asked
for one.

Shapes: B rows, T tokens, V vocabulary.
"""

import logging
import math
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from peft import AutoPeftModelForCausalLM
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_model_param_count

from rlft.evaluate.mode import evaluation_mode
from rlft.saved import SAFETENSORS, refuse_pickles
from rlft.trainers.weights import Start, are_readable, gradient_norm, starts_of, trainable_weights

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}


class TrustError(RuntimeError):
    """Training or saving did not do what it seems to have done."""


class TrustCallback(TrainerCallback):
    """Checks that the optimiser owns every trainable weight, that gradients reach LoRA, that weights move.

    After training, `report` holds `trainable_parameters`, `checked_matrices` (LoRA B matrices whose gradient
    was seen) and `delta_norm` (L2 distance of all trainable weights from their start); under DeepSpeed the
    first only.
    """

    def __init__(self) -> None:
        self.report: dict[str, float] = {}
        self._starts: dict[str, Start] = {}
        self._remembered: dict[str, Start] = {}
        self._first_step = 0
        self._gradient_seen = False
        self._readable = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the trainable weights, compare them with the optimiser's, and remember where they start.

        Raises:
            TrustError: if nothing is trainable or the optimiser misses a trainable weight.
        """
        count = get_model_param_count(kwargs["model"], trainable_only=True)
        if count == 0:
            raise TrustError(
                "the model has 0 trainable parameters, so training would change nothing. Give the trainer a "
                "peft_config (recipes: --use_peft), or load an adapter with is_trainable=True."
            )
        self.report = {"trainable_parameters": count}
        self._first_step, self._gradient_seen = state.global_step, False
        weights = trainable_weights(kwargs["model"])
        self._readable = are_readable(weights)
        if not self._readable:
            logger.warning(
                "Under %s, weights and gradients are out of reach: the trust checks of optimiser, "
                "gradients and weight change are skipped. The check of the saved adapter still holds.",
                AcceleratorState().distributed_type,
            )
            return
        _check_optimizer(weights, kwargs["optimizer"])
        same = self._remembered.keys() == weights.keys()
        self._starts, self._remembered = self._remembered if same else starts_of(weights), {}

    def remember(self, model: nn.Module) -> None:
        """Take the weights as they are for the start, before a trainer that goes on replaces them by a checkpoint's.

        Where they cannot be read yet, as under FSDP, the start is that of `on_train_begin`.
        """
        weights = trainable_weights(model)
        self._remembered = starts_of(weights) if are_readable(weights) else {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """At the first step with any gradient, look for LoRA B matrices without one.

        By now gradients are accumulated, unscaled and clipped. A step without any gradient (no group with
        mixed rewards) says nothing, nor does one that fp16's loss scaler is about to skip: the check waits.

        Raises:
            TrustError: if a gradient is zero or not finite where it should not be.
        """
        if self._gradient_seen or not self._readable:
            return
        norms = {name: gradient_norm(weight) for name, weight in trainable_weights(kwargs["model"]).items()}
        finite = all(map(math.isfinite, norms.values()))
        if not any(norms.values()) or (args.fp16 and not finite):
            return
        self._gradient_seen = True
        _check_finite(norms, state.global_step)
        self.report["checked_matrices"] = _check_lora_gradients(norms, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure how far the trainable weights are from their start.

        Raises:
            TrustError: if no step had a gradient, or no weight changed.
        """
        steps = state.global_step - self._first_step
        if not self._readable or state.global_step == 0:
            return
        if steps and not self._gradient_seen:
            raise TrustError(
                f"no gradient in {steps} steps: within every group the rewards were equal, so every "
                "advantage was 0. Make the problems easier or harder (some completions must succeed and "
                "some fail), raise --num_generations or --temperature, or grade the reward more finely."
            )
        weights = trainable_weights(kwargs["model"])
        changes = [start.change(weights[name]) for name, start in self._starts.items()]
        if steps and not any(moved for _, moved in changes):
            raise TrustError(
                f"the trainable weights are unchanged after {steps} steps although they had gradients: "
                f"either the learning rate was 0 (--learning_rate {args.learning_rate:g}; --warmup_steps "
                "leaves it at 0 in the first step), or the updates vanish in the weights' precision "
                "(--dtype float32)."
            )
        self.report["delta_norm"] = math.sqrt(sum(squared for squared, _ in changes))


def check_adapter(model: nn.Module, adapter_dir: str | os.PathLike[str], input_ids: Tensor) -> float:
    """Reload what was saved with plain peft (or transformers) and compare next-token log-probs with `model`.

    For one process that holds all weights; a second copy of the model lives while it runs. Works in the
    precision of `model`, without autocast. Not for quantised bases, which would reload unquantised.

    Args:
        model: the trained model, a `PeftModel` or a plain causal LM; it keeps its mode (train, eval).
        adapter_dir: folder that `save_model` wrote: an adapter, or a full model.
        input_ids: a few rows of token ids without padding, (B, T).

    Returns:
        Largest absolute difference of log-probs over all rows, positions and tokens.

    Raises:
        TrustError: if the difference is above the tolerance of the precision, or the saved adapter leaves
            every log-prob of the base model as it is.
    """
    dtype = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
    refuse_pickles(Path(adapter_dir))
    has_adapter = (Path(adapter_dir) / "adapter_config.json").is_file()
    loader: Any = AutoPeftModelForCausalLM if has_adapter else AutoModelForCausalLM
    saved = loader.from_pretrained(str(adapter_dir), dtype=dtype, **SAFETENSORS).to(next(model.parameters()).device)
    saved_BTV = _log_probs(saved, input_ids)
    difference = (saved_BTV - _log_probs(model, input_ids)).abs().max().item()
    if not difference <= _TOLERANCE[dtype]:  # NaN fails too
        raise TrustError(
            f"the model reloaded from {str(adapter_dir)!r} differs from the one in memory by "
            f"{difference:.3g} in log-prob, above {_TOLERANCE[dtype]:g} for {dtype}: the files are not "
            "those of this model. Save again with trainer.save_model(), and see that the base model named "
            "in adapter_config.json is the one that was trained."
        )
    if has_adapter:
        with saved.disable_adapter():
            effect = (saved_BTV - _log_probs(saved, input_ids)).abs().max().item()
        if effect == 0:
            _report_no_effect(saved, adapter_dir, dtype)
    return difference


def _report_no_effect(saved: nn.Module, adapter_dir: str | os.PathLike[str], dtype: torch.dtype) -> None:
    """Raise, but only warn of an adapter that is no more than too small to be seen in half precision."""
    matrices = [weight for name, weight in saved.named_parameters() if "lora_B" in name]
    largest = max((weight.abs().max().item() for weight in matrices), default=0.0)
    message = (
        f"the adapter in {str(adapter_dir)!r} does nothing: with it, the log-probs in {dtype} are exactly "
        f"those of the base model (largest LoRA B value: {largest:.3g}). Raise --learning_rate or train for "
        "longer."
    )
    if largest == 0 or dtype.itemsize >= 4:
        raise TrustError(message)
    logger.warning(message)


def _log_probs(model: nn.Module, input_ids_BT: Tensor) -> Tensor:
    """Next-token log-probs (B, T, V) in fp32, in evaluation mode."""
    ids_BT = input_ids_BT.to(next(model.parameters()).device)
    forward: Any = type(model).forward  # of the class: accelerate wraps the instance's in autocast
    with torch.no_grad(), evaluation_mode(model):
        logits_BTV = forward(model, input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits
    return logits_BTV.float().log_softmax(-1)


def _check_optimizer(weights: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    owned = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    missed = [name for name, weight in weights.items() if id(weight) not in owned]
    if missed:
        raise TrustError(
            f"the optimiser does not own {len(missed)} of {len(weights)} trainable tensors, which would "
            f"never change: {_some(missed)}. Build it after the model and its adapter are complete, or "
            "leave `optimizers` to the trainer."
        )


def _check_finite(norms: dict[str, float], step: int) -> None:
    bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
    if bad:
        raise TrustError(
            f"{len(bad)} of {len(norms)} gradients are not finite at step {step}: {_some(bad)}. Look for "
            "NaN in the base model's logits, or train in another precision (--bf16, --dtype float32)."
        )


def _check_lora_gradients(norms: dict[str, float], step: int) -> int:
    """Number of LoRA B matrices; every one has a gradient, save experts that no token may have chosen."""
    matrices = {name: norm for name, norm in norms.items() if "lora_B" in name}
    dead = [name for name, norm in matrices.items() if norm == 0 and ".experts." not in name]
    if dead:
        raise TrustError(
            f"{len(dead)} of {len(matrices)} LoRA B matrices have no gradient at step {step}, where others "
            f"do: {_some(dead)}. Either gradient checkpointing runs on inputs that need no gradient (set "
            "--gradient_checkpointing_kwargs '{\"use_reentrant\": false}' or call "
            "model.enable_input_require_grads()), or the forward pass does not reach these modules (leave "
            "them out of --lora_target_modules)."
        )
    return len(matrices)


def _some(names: list[str]) -> str:
    """The first five names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
