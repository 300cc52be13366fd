"""The only place that touches TRL's private names: here those of `GRPOTrainer`, checked when this is imported.

TRL (1.15 to 1.16) has no public way to change advantages token by token, yet its loss accepts advantages of shape
(B, T) "to support subclasses". Private methods with a long stable history carry everything:

* `_generate_and_score_completions(inputs) -> dict`: rollouts, rewards and advantages of one generation batch;
* `_generate_single_turn(...) -> (completion_ids, ...)`: sampling, inside it;
* `_get_per_token_logps_and_entropies(...)`: every scoring forward, passed through unopened;
* `_compute_loss(model, inputs)`: the loss of a micro-batch, of which only the inputs are touched.

`AnnotatingGRPOTrainer` gives them public names. The loss itself is never replaced nor copied.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import trl
from torch import Tensor, nn
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

Rollouts = dict[str, Any]

_SEAMS: Mapping[str, tuple[str, ...]] = {
    "_generate_single_turn": (),
    "_generate_and_score_completions": ("inputs",),
    "_get_per_token_logps_and_entropies": ("model", "input_ids", "attention_mask", "logits_to_keep", "compute_entropy"),
    "_compute_loss": ("model", "inputs"),
}


def check_seams() -> None:
    """Verify that the private methods still exist with the arguments they are called by.

    Raises:
        ImportError: naming the seam that moved and the TRL version found.
    """
    for name, arguments in _SEAMS.items():
        method = getattr(GRPOTrainer, name, None)
        found = tuple(inspect.signature(method).parameters) if method else ()
        missing = [argument for argument in arguments if argument not in found]
        if method is None or missing:
            raise ImportError(
                f"TRL {trl.__version__}: GRPOTrainer.{name} {'lacks ' + ', '.join(missing) if method else 'is gone'}; "
                "rlft knows TRL 1.15 to 1.16: pip install 'trl>=1.15,<1.17'."
            )


_SCORING = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies)


class AnnotatingGRPOTrainer(GRPOTrainer):
    """A `GRPOTrainer` whose rollouts can be annotated before the loss sees them, and nothing else changed."""

    # TRL types these as optional, because its constructor fills them in; afterwards they are there.
    model: Any
    processing_class: Any
    num_generations: int

    def annotate(self, inputs: list[dict[str, Any]], rollouts: Rollouts) -> Rollouts:
        """Edit one generation batch in place and return it; called after rewards and advantages are known."""
        return rollouts

    def generation_stage(self) -> AbstractContextManager[Any]:
        """Open around the whole generation of a batch, rewards included."""
        return nullcontext()

    def scoring_forward(self, completion_length: int) -> AbstractContextManager[Any]:
        """Open around every scoring forward of completions padded to this length, in generation and in the loss."""
        return nullcontext()

    def sampling(self) -> AbstractContextManager[Callable[[list[list[int]]], None]]:
        """Open around the sampling of completions; yields what is called with their token ids, B lists."""
        return nullcontext(lambda completions: None)

    def loss_inputs(self, inputs: Rollouts) -> Rollouts:
        """The micro-batch that the loss is to see."""
        return inputs

    def _compute_loss(self, model: Any, inputs: Rollouts) -> Tensor:
        return super()._compute_loss(model, self.loss_inputs(inputs))

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with self.sampling() as sampled:
            turn = super()._generate_single_turn(*args, **kwargs)
        sampled(turn[0])
        return turn

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Rollouts:
        with self.generation_stage():
            rollouts = super()._generate_and_score_completions(inputs)
        return self.annotate(inputs, rollouts)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        length = _SCORING.bind(self, *args, **kwargs).arguments["logits_to_keep"]
        with self.scoring_forward(length):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)


def refuse_own_loss(trainer_class: type[GRPOTrainer]) -> None:
    """Refuse a trainer class whose loss is not TRL's `GRPOTrainer` loss.

    Raises:
        ValueError: e.g. for a class that also derives from `trl.experimental.gmpo.GMPOTrainer`, whose loss accepts
            advantages of shape (B,) only.
    """
    owners = [cls for cls in trainer_class.__mro__ if "_compute_loss" in vars(cls)]
    owner = next(cls for cls in owners if cls is not AnnotatingGRPOTrainer)  # which hands on to the next
    if owner is not GRPOTrainer:
        raise ValueError(
            f"{owner.__module__}.{owner.__name__} replaces the GRPO loss, and its loss takes one advantage per "
            "completion, so token credit would be lost or misread; use the loss_type options of GRPOTrainer instead."
        )


def rewards_of(trainer: Any, rows: int) -> Tensor:
    """Rewards of the batch just generated, by function, from TRL's own log.

    Args:
        trainer: the trainer, right after generation.
        rows: N, completions of the batch over all processes.

    Returns:
        (N, F) fp32 on the CPU, NaN where a function returned None.
    """
    logged = trainer._logs["rewards"]
    return torch.tensor([list(logged[name])[-rows:] for name in trainer.reward_func_names]).T


def advantages_of(trainer: Any, rows: int) -> Tensor:
    """Advantages (N,) of the batch just generated over all processes, fp32 on the CPU, as TRL computed them."""
    return torch.tensor(list(trainer._logs["advantages"])[-rows:])


def prompts_of(trainer: Any, rows: int) -> list[Any]:
    """Prompts (N) of the batch just generated over all processes, as TRL shows them to rewards."""
    return list(trainer._logs["prompt"])[-rows:]


def last_batch(trainer: Any) -> list[dict[str, Any]]:
    """The rows generated last, over all processes: prompt, completion, rewards by function, advantage."""
    logs = trainer._logs
    rewards = (dict(zip(logs["rewards"], row, strict=True)) for row in zip(*logs["rewards"].values(), strict=True))
    rows = zip(logs["prompt"], logs["completion"], rewards, logs["advantages"], strict=True)
    return [dict(zip(("prompt", "completion", "rewards", "advantage"), row, strict=True)) for row in rows]


def pad_and_stop_ids(trainer: Any) -> tuple[int, set[int]]:
    """The padding id, and every id that ends a completion (the tokenizer's and the generation config's)."""
    return trainer._tokenizer.pad_token_id, set(trainer.eos_token_ids)


def log_metric(trainer: Any, name: str, value: float) -> None:
    """Add one value to the training metric `name`; TRL averages and logs it with its own."""
    trainer._metrics["train"][name].append(value)


def token_entropies(trainer: Any, rollouts: Rollouts) -> Tensor:
    """Entropy (B, T), in nats at the sampling temperature, of the distribution each completion token came from."""
    ids_BS, mask_BS = prompt_and_completion(rollouts)
    with torch.no_grad():
        _, entropies, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            ids_BS,
            mask_BS,
            rollouts["completion_ids"].size(1),
            batch_size=trainer.args.per_device_train_batch_size,
            compute_entropy=True,
        )
    return entropies


def prompt_and_completion(rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """Input ids and attention mask, both (B, S), as TRL scores them.

    Raises:
        ValueError: for image prompts, whose states would be computed without the images.
    """
    if "pixel_values" in rollouts:
        raise ValueError(
            "credit that reads hidden states or entropies of image prompts needs them from TRL's own scoring forward, "
            "which a run with num_iterations=1 does not make; use --num_iterations 2 with shear, or --credit constant."
        )
    ids = torch.cat([rollouts["prompt_ids"], rollouts["completion_ids"]], 1)
    return ids, torch.cat([rollouts["prompt_mask"], rollouts["completion_mask"]], 1)


@contextmanager
def generation_model(trainer: Any) -> Iterator[nn.Module]:
    """The policy, unwrapped and gathered, in evaluation mode, ready for `generate`."""
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        with (
            torch.no_grad(),
            unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
        ):
            yield model
    finally:
        trainer.model.train(was_training)


check_seams()
