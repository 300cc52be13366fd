"""Contrastive training of a scorer on TRL's `RewardTrainer` (PrLM, arXiv 2508.07342; Bradley-Terry or InfoNCE).

bt         -log sigmoid(s+ - s-), TRL's loss untouched, one row for each rejected answer: the paper's form
infonce    one row for each chosen answer, against all its rejected ones (`info_nce.py`)
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from trl import RewardConfig, RewardTrainer

from rlft.reward_models.encode import Encoded, ScorerText, TooLong, is_encoder
from rlft.reward_models.folder import HELD_OUT, ScorerError, write_scorer_json
from rlft.reward_models.forward import padded
from rlft.reward_models.info_nce import InfoNCETrainer
from rlft.reward_models.pair_file import Pair, write_pairs
from rlft.reward_models.scorer import check_model
from rlft.reward_models.spec import ScorerSpec

LOSSES = ("bt", "infonce")


def scorer_config(output_dir: str | Path, **settings: Any) -> RewardConfig:
    """TRL's configuration with PrLM's settings: AdamW at 5e-5, 64 pairs a step, 3 epochs, linear decay, no
    warm-up, dropout as the backbone has it.

    Args:
        output_dir: of the trainer; the scorer's folder is `save_scorer`'s.
        **settings: fields of `RewardConfig` that are to differ.
    """
    ours: dict[str, Any] = {
        "learning_rate": 5e-5,
        "per_device_train_batch_size": 64,
        "num_train_epochs": 3,
        "seed": 42,
        "disable_dropout": False,
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "max_length": None,
        "save_strategy": "no",
        "report_to": "none",
    }
    return RewardConfig(output_dir=str(output_dir), **(ours | settings))


def train_scorer(
    model: Any,
    pairs: Sequence[Pair],
    spec: ScorerSpec,
    args: RewardConfig,
    *,
    tokenizer: Any = None,
    loss: str = "bt",
    held_out: Sequence[Pair] = (),
    peft_config: Any = None,
    callbacks: Sequence[Any] | None = None,
) -> RewardTrainer:
    """Train a scorer.

    Args:
        model: backbone: a folder or Hub id (BERT type, or a decoder, whose head starts at random), or a
            sequence-classification model with one output.
        pairs: to train with.
        spec: what the scorer reads; `temperature` is InfoNCE's.
        args: TRL's; `scorer_config` makes one.
        tokenizer: the backbone's; None loads it from where the model comes from. A copy is used.
        loss: `bt` or `infonce`.
        held_out: pairs of other users, for TRL's evaluation.
        peft_config: of an adapter, which must keep the head: `modules_to_save=["score"]` for a decoder.
        callbacks: of the trainer.

    Returns:
        The trainer, trained; `save_scorer` writes its folder.

    Raises:
        ScorerError: for options that do not go together, an adapter without the head, a model or tokenizer that cannot
            be a scorer's, or pairs that are too long, before anything is trained.
    """
    _refuse_options(pairs, spec, args, loss, peft_config)
    tokenizer = _padding_tokenizer(tokenizer, model)
    if isinstance(model, str | Path):
        model = _backbone(model, args.seed)
    check_model(model, tokenizer, spec)
    text = ScorerText(tokenizer, spec, is_encoder(model, tokenizer))
    types = text.encoder and "token_type_ids" in tokenizer.model_input_names
    trainer_class: Any = RewardTrainer
    extra: dict[str, Any] = {}
    if loss == "infonce":
        trainer_class, extra = InfoNCETrainer, {"temperature": spec.temperature}
    trainer: RewardTrainer = trainer_class(
        model=model,
        args=args,
        train_dataset=pair_rows(pairs, text, loss),
        eval_dataset=pair_rows(held_out, text, loss) if held_out else None,
        processing_class=tokenizer,
        data_collator=PairCollator(tokenizer.pad_token_id, types, counted=loss == "infonce"),
        peft_config=peft_config,
        callbacks=list(callbacks or []),
        **extra,
    )
    trainer.train()
    return trainer


def save_scorer(
    trainer: RewardTrainer,
    spec: ScorerSpec,
    folder: str | Path,
    *,
    pairs: Sequence[Pair],
    loss: str = "bt",
    held_out: Sequence[Pair] = (),
) -> None:
    """Write a scorer's folder: weights as safetensors, tokenizer, `scorer.json` and the held-out pairs.

    Every process calls this.

    Args:
        trainer: from `train_scorer`.
        spec: what it was trained with.
        folder: made if it is not there.
        pairs: it was trained with; their number and kinds are written down.
        loss: it was trained with.
        held_out: of users that it was not trained on, for `rlft rewards audit`.
    """
    folder = Path(folder)
    trainer.save_model(str(folder))
    if not trainer.is_world_process_zero():
        return
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle
    kinds = Counter(kind for pair in pairs for kind in pair.kinds)
    trained = {"loss": loss, "pairs": len(pairs), "negatives": dict(kinds)}
    write_scorer_json(folder, spec, trainer.processing_class, trained)
    if held_out:
        write_pairs(held_out, folder / HELD_OUT)


def pair_rows(pairs: Sequence[Pair], text: ScorerText, loss: str) -> Dataset:
    """Pairs as the trainer's rows `{chosen_ids, chosen_types, rejected_ids, rejected_types}`.

    The last two are lists of K lists: one negative a row for `bt`, all of a pair for `infonce`.

    Raises:
        ScorerError: naming how many pairs are too long, and the first.
    """
    rows, too_long = [], []
    for pair in pairs:
        try:
            chosen, *rejected = (
                text.encode(text.texts(pair.query, pair.profile, answer)) for answer in (pair.chosen, *pair.rejected)
            )
        except TooLong as error:
            too_long.append(f"pair {pair.id!r}: {error}")
            continue
        rows += [_row(chosen, rejected)] if loss == "infonce" else [_row(chosen, [one]) for one in rejected]
    if too_long:
        raise ScorerError(f"{len(too_long)} of {len(pairs)} pairs are too long. {too_long[0]}")
    return Dataset.from_list(rows)


@dataclass
class PairCollator:
    """Batches of `pair_rows`: all chosen answers, then all rejected ones, padded on the right."""

    pad_id: int
    types: bool
    """Whether the model takes `token_type_ids`."""
    counted: bool
    """Whether to add `negatives` (B,), how many of the rejected answers are each pair's."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """One batch."""
        ids = [row["chosen_ids"] for row in rows] + [one for row in rows for one in row["rejected_ids"]]
        types = [row["chosen_types"] for row in rows] + [one for row in rows for one in row["rejected_types"]]
        batch = padded(ids, self.pad_id, types if self.types else None)
        if self.counted:
            batch["negatives"] = torch.tensor([len(row["rejected_ids"]) for row in rows])
        return batch


def _row(chosen: Encoded, rejected: Sequence[Encoded]) -> dict[str, Any]:
    return {
        "chosen_ids": chosen.ids,
        "chosen_types": chosen.types,
        "rejected_ids": [one.ids for one in rejected],
        "rejected_types": [one.types for one in rejected],
    }


def _padding_tokenizer(tokenizer: Any, model: Any) -> Any:
    """A copy that pads on the right; of the backbone's own if none is given."""
    if tokenizer is None:
        source = model if isinstance(model, str | Path) else model.name_or_path
        tokenizer = AutoTokenizer.from_pretrained(str(source))
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def _backbone(source: str | Path, seed: int) -> Any:
    """The model in fp32, its head drawn from the seed; a folder by its full path, which an adapter then names."""
    set_seed(seed)
    place = str(Path(source).resolve()) if Path(source).is_dir() else str(source)
    return AutoModelForSequenceClassification.from_pretrained(
        place, num_labels=1, dtype=torch.float32, use_safetensors=True
    )


def _refuse_options(pairs: Sequence[Pair], spec: ScorerSpec, args: RewardConfig, loss: str, peft_config: Any) -> None:
    if loss not in LOSSES:
        raise ScorerError(f"loss={loss!r} is none of {', '.join(LOSSES)}.")
    if not pairs:
        raise ScorerError("there are no pairs to train with; the counts of build_pairs say why rows were dropped.")
    if loss == "bt" and spec.temperature != 1:
        raise ScorerError(
            f"temperature={spec.temperature} is InfoNCE's; Bradley-Terry has none: set it 1, or loss='infonce'."
        )
    if loss == "infonce" and args.center_rewards_coefficient is not None:
        raise ScorerError(
            "center_rewards_coefficient would centre the negatives' soft maximum; leave it out of infonce."
        )
    if args.remove_unused_columns:
        raise ScorerError(
            "remove_unused_columns=True would take the negatives away; set it False (scorer_config does)."
        )
    if getattr(peft_config, "is_prompt_learning", False):
        raise ScorerError("a prompt-learning adapter puts tokens of its own before the text; use LoRA or the like.")
    kept = set(getattr(peft_config, "modules_to_save", None) or ()) & {"score", "classifier"}
    if peft_config is not None and not kept and peft_config.task_type != "SEQ_CLS":
        raise ScorerError(
            "the adapter does not keep the head, which would stay as it was drawn; set modules_to_save=['score'] "
            "(decoder) or ['classifier'] (encoder), or task_type='SEQ_CLS'."
        )
