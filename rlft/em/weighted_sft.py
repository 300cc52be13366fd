"""Supervised fine-tuning with a weight per token: the M-step of EXSEARCH (arXiv 2505.20128, eq. 5) and DRO.

    loss = sum_rt w_rt * -log p(token_rt) / (c * sum_r m_r)      r rows, t trained tokens of the *global* batch

Both sums run over every micro-batch of the accumulation and every process, so the loss does not depend on how the
batch is cut. m_r is what row r counts: its trained tokens, or its `mass` (1 in the rows of EM).
c is the mean weight, sum |w| / sum m, of the whole training set, not of the batch: a batch of light rows makes a small
step, as eq. 5 wants, and only ratios of weights matter. TRL's own loss is executed: weights are multiplied to the
log-probabilities with a factor that turns TRL's division by its count of tokens into the one above. Weights of 1 give
plain SFT bit for bit.

Shapes: B rows of a micro-batch, T tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from trl import SFTConfig

from rlft.compat.sft import ColumnsSFTTrainer, WeighedModel
from rlft.em.weighted_rows import IGNORED, WeightedCollator, check_rows
from rlft.resume.trainer import Resumable


class WeightedSFTTrainer(Resumable, ColumnsSFTTrainer):
    """`trl.SFTTrainer` on rows `{input_ids, labels, weights}`: lists of equal length, one weight a token.

    A weight belongs to the token it stands on, as a label; where the label is -100 it is ignored. Weights may be
    negative; only their ratios matter. A column `mass` says what each row counts in the normaliser. The evaluation loss
    is the mean over evaluation batches of each one's weighted mean. DeepSpeed rounds the weights to the precision it
    trains in.

    Args:
        model: as for `SFTTrainer`.
        args: an `SFTConfig`; `max_length` refuses longer rows instead of cutting them.
        train_dataset: a `datasets.Dataset` of such rows.
        eval_dataset: None, another, or a dict of them.
        **kwargs: everything else `SFTTrainer` takes, but `data_collator`, `formatting_func` and `compute_loss_func`.

    Raises:
        ValueError: for rows that cannot be trained on as they are and for options that would go round the weights;
            during training, for a global batch whose weights are all 0.
        TypeError: for a dataset of another type.
    """

    args: Any  # an SFTConfig
    extra_columns = ("weights", "mass")

    def __init__(
        self,
        model: Any,
        args: SFTConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **kwargs: Any,
    ):
        args = args or SFTConfig(output_dir="weighted-sft")
        _refuse_options(model, args, kwargs)
        self.rows_to_train: Any = train_dataset
        self.mean_weight = check_rows(train_dataset, "train_dataset", args.max_length)
        for name, dataset in _named(eval_dataset).items():
            check_rows(dataset, name, args.max_length)
        super().__init__(model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        _refuse_set_up(self)
        plain: Any = self.data_collator
        self.data_collator = WeightedCollator(**{field.name: getattr(plain, field.name) for field in fields(plain)})

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As `SFTTrainer.evaluate`, after a look at the rows of a dataset that is new."""
        if not isinstance(eval_dataset, str):
            for name, dataset in _named(eval_dataset).items():
                check_rows(dataset, name, self.args.max_length)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of one optimiser step, their weights rescaled by what the global batch counts.

        Raises:
            ValueError: if no weight is left to train with.
        """
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, num_items
        self._silence_repeated(batches[-1])
        totals_3 = torch.stack([_totals(batch) for batch in batches]).sum(0)
        if self.accelerator.num_processes > 1:
            totals_3 = self.accelerator.gather(totals_3.to(device)).reshape(-1, 3).sum(0).cpu()
        tokens, mass, weight = totals_3.tolist()
        if not weight * mass:
            raise ValueError(
                f"the weights of step {self.state.global_step + 1} are all 0 ({tokens:.0f} tokens): there is nothing "
                "to learn, and a step would still move the model by its momentum. Leave rows of weight 0 out."
            )
        for batch in batches:
            batch["weights"] = batch["weights"] * (tokens / mass / self.mean_weight)
        return batches, num_items

    def _silence_repeated(self, batch: dict[str, Tensor]) -> None:
        """Give weight 0 to the rows that accelerate repeats where an epoch's last batch does not fill every process."""
        state, processes, rows = self.accelerator.gradient_state, self.accelerator.num_processes, len(batch["weights"])
        left = len(self.rows_to_train) % (rows * processes)
        if processes > 1 and left and state.end_of_dataloader and not self.args.dataloader_drop_last:
            repeated = max(left - rows * self.accelerator.process_index, 0)
            batch["weights"][repeated:] = 0
            batch["mass"][repeated:] = 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss of weighed log-probabilities."""
        if num_items_in_batch is None:  # evaluation, where a batch stands for itself
            tokens, _, weight = _totals(inputs).tolist()
            inputs["weights"] = inputs["weights"] * (tokens / weight if weight else 0.0)
        inputs.pop("mass")
        weighed = WeighedModel(model, inputs.pop("weights"))
        loss = super().compute_loss(weighed, inputs, return_outputs, num_items_in_batch)
        if not weighed.weighed:
            raise RuntimeError("SFTTrainer.compute_loss went round the weights; rlft knows TRL 1.15 to 1.16.")
        return loss


def _totals(batch: Mapping[str, Tensor]) -> Tensor:
    """(3,) float64 on the CPU: predicted tokens of a micro-batch, its rows' masses, and the sum of their |weights|."""
    predicted = batch["labels"][:, 1:] != IGNORED
    weights = batch["weights"][:, 1:][predicted].cpu().double()
    return torch.stack(
        [torch.tensor(float(weights.numel()), dtype=torch.float64), batch["mass"].sum().cpu(), weights.abs().sum()]
    )


def _named(eval_dataset: Any) -> dict[str, Any]:
    if eval_dataset is None:
        return {}
    if isinstance(eval_dataset, dict):
        return {f"eval_dataset[{name!r}]": dataset for name, dataset in eval_dataset.items()}
    return {"eval_dataset": eval_dataset}


def _refuse_options(model: Any, args: SFTConfig, kwargs: Mapping[str, Any]) -> None:
    """What would go round the weights, or make rows of its own."""
    wrong = {
        "packing=True": args.packing or args.eval_packing,
        "padding_free=True": args.padding_free,
        f"loss_type={args.loss_type!r}": args.loss_type != "nll",
        f"label_smoothing_factor={args.label_smoothing_factor}": args.label_smoothing_factor > 0,
        "assistant_only_loss=True": args.assistant_only_loss,
        "completion_only_loss=True": args.completion_only_loss,
        "average_tokens_across_devices=False": not args.average_tokens_across_devices,
        **{name: kwargs.get(name) is not None for name in ("data_collator", "formatting_func", "compute_loss_func")},
    }
    if found := [name for name, present in wrong.items() if present]:
        raise ValueError(
            f"WeightedSFTTrainer cannot take {', '.join(found)}: its rows are tokens with labels and weights, and "
            "their loss is the weighted mean of -log p. Leave the option out."
        )
    for holder in (kwargs.get("peft_config"), getattr(model, "active_peft_config", None)):
        if getattr(holder, "is_prompt_learning", False):
            raise ValueError("a prompt-learning adapter adds tokens that have no weight; use LoRA or the like.")


def _refuse_set_up(trainer: Any) -> None:
    parallel = trainer.accelerator.parallelism_config
    if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled or parallel.tp_enabled):
        raise ValueError(
            "context, sequence and tensor parallelism spread rows in ways that their weights do not follow; set "
            "cp_size, sp_size and tp_size 1."
        )
    if not trainer.model_accepts_loss_kwargs:
        raise ValueError(
            f"{type(trainer.model).__name__}.forward takes no **kwargs, so the Trainer averages micro-batches instead "
            "of tokens, and the loss would depend on the accumulation."
        )
