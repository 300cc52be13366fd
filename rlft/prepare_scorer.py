"""Before a PrLM run loads a model: can its reward model be trained on these rows, or used as it is?"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rlft.arguments import PersonalArguments
from rlft.data.personal import PersonalRows
from rlft.data.profile_prompt import ProfilePrompt
from rlft.retrieval.profiles import ProfileChooser
from rlft.reward_models import PairOptions, ScorerSpec, read_scorer_folder
from rlft.reward_models.folder import check_tokenizer
from rlft.reward_models.training import LOSSES
from rlft.reward_models.users import user_of
from rlft.rewards.rouge_scores import rouge_scorer
from rlft.tiny import style

_SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")


@dataclass(frozen=True)
class ScorerPlan:
    """Where the reward model comes from, and what it is shown."""

    given: Path | None
    """Folder of one that is there; None to train one."""
    rows: list[dict[str, Any]]
    """That pairs are built from; none of them is trained on with rewards."""
    prompt: ProfilePrompt
    chooser: ProfileChooser
    tokenizer: Any
    """The policy's."""
    spec: ScorerSpec
    options: PairOptions
    arguments: PersonalArguments


def rows_for_pairs(recipe: PersonalArguments, training: Any) -> int:
    """How many rows are set aside for pairs: none if the reward model has no weight and is not checked."""
    if training.scorer is None and training.personalization_weight:
        return recipe.pair_rows
    return recipe.drift_rows if training.drift_steps else 0


def plan_scorer(
    recipe: PersonalArguments,
    training: Any,
    rows: PersonalRows,
    prompt: ProfilePrompt,
    chooser: ProfileChooser,
    tokenizer: Any,
) -> ScorerPlan | None:
    """Check, without a model, that a reward model can be trained or used.

    Args:
        recipe, training: the parsed arguments.
        rows: `pairs` are read.
        prompt, chooser, tokenizer: of the policy.

    Returns:
        The plan; None for a run without a reward model.

    Raises:
        ScorerError: for a folder of another task or tokenizer, or one that is incomplete.
        ValueError: for options or rows that no pairs can be built with.
    """
    if training.scorer is None and not training.personalization_weight:
        if training.drift_steps:
            raise ValueError(
                f"--drift_steps {training.drift_steps} checks a reward model, and with --personalization_weight 0 "
                "none is trained: give one with --scorer, or leave the checks out."
            )
        return None
    given = None if training.scorer is None else Path(training.scorer)
    if given is not None:
        check_tokenizer(read_scorer_folder(given, rows.name), _tokenizer_of(given))
    else:
        _refuse_training(recipe, training)
    if rows.pairs:
        _refuse_rows(rows.pairs, recipe, prompt, chooser)
    wording: dict[str, str] = {"query": "{query}\n"} if rows.lamp else style.WORDING
    spec = ScorerSpec(
        recipe.scorer_form,
        rows.name,
        max_length=recipe.scorer_max_length,
        temperature=recipe.scorer_temperature,
        **wording,
    )
    margin = {} if recipe.pair_margin is None else {"metric": _rouge, "margin": recipe.pair_margin}
    options = PairOptions(
        k=recipe.profiles,
        negatives=tuple(recipe.negatives),
        max_length_ratio=recipe.pair_length_ratio,
        seed=training.seed,
        **margin,
    )
    return ScorerPlan(given, rows.pairs, prompt, chooser, tokenizer, spec, options, recipe)


def _tokenizer_of(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].strip(" :.")
        raise ValueError(
            f"{folder}: the reward model's tokenizer cannot be read ({reason}); put its own files back, or train the "
            "reward model again."
        ) from error


def _refuse_training(recipe: PersonalArguments, training: Any) -> None:
    sharded = [name for name in _SHARDED if os.environ.get(name, "").lower() in ("1", "true")]
    if sharded:
        raise ValueError(
            f"{sharded[0]} shards every model of this run, and a reward model is trained whole: train it in a run "
            "without (--accelerate_config single_gpu or multi_gpu), and give its folder with --scorer."
        )
    if recipe.scorer_loss not in LOSSES or (recipe.scorer_loss == "bt" and recipe.scorer_temperature != 1):
        raise ValueError(
            f"--scorer_loss {recipe.scorer_loss} with --scorer_temperature {recipe.scorer_temperature:g}: the loss is "
            f"one of {', '.join(LOSSES)}, and bt has no temperature but 1."
        )
    together = recipe.scorer_device_batch_size * training.world_size
    if min(recipe.scorer_batch_size, recipe.scorer_device_batch_size) < 1 or recipe.scorer_batch_size % together:
        raise ValueError(
            f"--scorer_batch_size {recipe.scorer_batch_size} must be a multiple of --scorer_device_batch_size "
            f"{recipe.scorer_device_batch_size} x {training.world_size} processes."
        )


def _refuse_rows(
    rows: Sequence[dict[str, Any]], recipe: PersonalArguments, prompt: ProfilePrompt, chooser: ProfileChooser
) -> None:
    """Choose and build once, so that what cannot be chosen or shown is seen before a model is loaded."""
    users = {user_of(row) for row in rows if row["profile"]}
    if len(users) < 3:
        raise ValueError(
            f"{len(rows)} rows for pairs are of {len(users)} users with past items; three or more are needed, to train "
            "with and to audit. Raise --pair_rows, or give more data."
        )
    shown = chooser.choose(rows, recipe.profiles)
    if not any(shown):
        raise ValueError(
            f"--retriever {recipe.retriever} with --profiles {recipe.profiles} shows no past items, and pairs are "
            "answers with some against answers without; choose another one, or train without a reward model: "
            "--personalization_weight 0."
        )
    for row, items in zip(rows, shown, strict=True):
        prompt.messages(row, items)


def _rouge(answer: str, gold: str) -> float:
    """Mean F1 of ROUGE-1, -2 and -L; not a number where the gold text has no words."""
    found = rouge_scorer()(answer, gold)
    return math.nan if found is None else sum(found) / len(found)
