"""Before a PrLM run loads a model: can its reward model be trained on these rows, or used as it is?"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft.arguments import PersonalArguments
from rlft.data.personal import PersonalRows
from rlft.data.profile_prompt import ProfilePrompt
from rlft.reward_models import PairOptions, ScorerSpec, build_pairs, read_pairs
from rlft.reward_models.encode import ScorerText
from rlft.reward_models.folder import HELD_OUT, SCORER
from rlft.reward_models.origin import changes, read_origin
from rlft.reward_models.pairs import Ask, Chooser
from rlft.reward_models.room import backbone_text, folder_text, misfits
from rlft.reward_models.training import LOSSES
from rlft.reward_models.users import user_of
from rlft.rewards.rouge_scores import rouge_scorer
from rlft.tiny import style, tasks
from rlft.tiny.model import tiny_model
from rlft.trainers.prlm import SCORER_FOLDER

Row = dict[str, Any]

_SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
_LEAST_LENGTH = 16  # a question, an answer and their marks
_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "audit_share": ("between 0 and 1", lambda value: 0 < value < 1),
    "pair_batch_size": ("at least 1", lambda value: value >= 1),
    "scorer_learning_rate": ("above 0 and finite", lambda value: 0 < value < math.inf),
    "scorer_warmup_steps": ("at least 0", lambda value: value >= 0),
    "scorer_epochs": ("above 0 and finite", lambda value: 0 < value < math.inf),
    "scorer_max_length": (f"at least {_LEAST_LENGTH}", lambda value: value >= _LEAST_LENGTH),
    "scorer_lora_r": ("at least 0, which is no adapter", lambda value: value >= 0),
}
_SETTINGS = (
    "negatives",
    "pair_rows",
    "pair_temperature",
    "pair_margin",
    "pair_length_ratio",
    "audit_share",
    "scorer_model",
    "scorer_loss",
    "scorer_learning_rate",
    "scorer_warmup_steps",
    "scorer_epochs",
    "scorer_batch_size",
    "scorer_lora_r",
)


@dataclass(frozen=True)
class ScorerPlan:
    """Where the reward model comes from, and what it is shown."""

    given: Path | None
    """Folder of one that is there; None to train one, or to go on with that of the run folder."""
    rows: list[Row]
    """That pairs are built from and drift checks ask; none of them is trained on with rewards."""
    query_too_long: int
    """Rows left out of these: their query alone has no room in the reward model."""
    prompt: ProfilePrompt
    chooser: Chooser
    tokenizer: Any
    """The policy's."""
    text: ScorerText
    """How the reward model reads."""
    spec: ScorerSpec
    options: PairOptions
    arguments: PersonalArguments


def rows_for_pairs(recipe: PersonalArguments, training: Any) -> int:
    """How many rows are set aside for pairs: none if no reward model is trained, and none checked.

    For a given one as many as for one to be trained: those of the users it was not trained on are but a share.
    """
    wanted = training.personalization_weight if training.scorer is None else training.drift_steps
    return recipe.pair_rows if wanted else 0


def settings_of(recipe: PersonalArguments) -> dict[str, Any]:
    """The options that a reward model comes of, beside what stands in its spec."""
    return {name: getattr(recipe, name) for name in _SETTINGS}


def plan_scorer(
    recipe: PersonalArguments,
    policy: Any,
    training: Any,
    rows: PersonalRows,
    prompt: ProfilePrompt,
    chooser: Chooser,
    tokenizer: Any,
) -> ScorerPlan | None:
    """Check, without a model, that a reward model can be trained or used.

    Args:
        recipe, policy, training: the parsed arguments; `policy` is TRL's `ModelConfig`.
        rows: `pairs` are read.
        prompt, chooser, tokenizer: of the policy.

    Returns:
        The plan; None for a run without a reward model.

    Raises:
        ScorerError: for a folder of another task or tokenizer, or one that is incomplete.
        ValueError: for options or rows that no pairs can be built with, or a run to go on with whose reward model is
            missing or another one.
        ImportError: if `--pair_margin` is set and ROUGE is not installed.
    """
    if training.scorer is None and not training.personalization_weight:
        return None
    if training.drift_steps and recipe.drift_rows < 2:
        raise ValueError(f"--drift_rows {recipe.drift_rows} must be at least 2: a drift check needs two users.")
    given = None if training.scorer is None else Path(training.scorer)
    spec = _spec(recipe, rows)
    if given is not None:
        text = folder_text(given, rows.name)
    else:
        _refuse_training(recipe, training)
        if training.resume_from_checkpoint:
            _refuse_another(recipe, training, spec)
        text = _text(recipe, policy, training, tokenizer, spec)
    flaws = misfits(text, [row["query"] for row in rows.pairs], [[] for _ in rows.pairs], ["a" for _ in rows.pairs])
    fitting = [row for row, flaw in zip(rows.pairs, flaws, strict=True) if flaw is None]
    left_out = len(rows.pairs) - len(fitting)
    if given is None:
        _refuse_rows(fitting, left_out, recipe)
    plan = ScorerPlan(
        given, fitting, left_out, prompt, chooser, tokenizer, text, spec, _options(recipe, training), recipe
    )
    if given is None:
        try_prompts(plan, plan.rows, plan.options)
    elif training.drift_steps:
        try_prompts(plan, *asked_by_checks(plan, given))
    return plan


def asked_by_checks(plan: ScorerPlan, folder: Path) -> tuple[list[Row], PairOptions]:
    """Rows that drift checks ask, and which answers to them they compare.

    The rows are of users that the reward model was not trained on; of any, if its folder says nothing of users.

    Raises:
        ValueError: if there are no two such users.
    """
    held_out = read_pairs(folder / HELD_OUT) if (folder / HELD_OUT).is_file() else []
    ids, users = {pair.id for pair in held_out}, {pair.user_id for pair in held_out} - {None}
    origin, rows = read_origin(folder), plan.rows
    if held_out or origin is not None:
        new = set() if origin is None else {user_of(row) for row in rows} - origin.users
        rows = [row for row in rows if str(row["id"]) in ids or user_of(row) in users | new]
    if len({user_of(row) for row in rows}) < 2:
        raise ValueError(
            f"{len(rows)} of {len(plan.rows)} rows for drift checks are of users that {folder} was not trained on, and "
            "two such users are needed: give the --train_rows and --pair_rows of the run that made it, other data, or "
            "--drift_steps 0."
        )
    return rows[: plan.arguments.drift_rows], PairOptions(k=plan.arguments.profiles, negatives=("none", "swap"))


def try_prompts(plan: ScorerPlan, rows: Sequence[Row], options: PairOptions) -> None:
    """Choose the items and build the prompts of all answers that pairs are made of, without a model.

    Raises:
        ValueError: if one cannot be built, or no row shows past items.
    """

    def answers(asks: Sequence[Ask]) -> list[None]:
        for ask in asks:
            plan.prompt.messages(ask.row, ask.items)
        return [None] * len(asks)

    if build_pairs(rows, answers, plan.chooser, options).counts["empty_profile"] == len(rows):
        raise ValueError(_no_items(plan.arguments))


def _spec(recipe: PersonalArguments, rows: PersonalRows) -> ScorerSpec:
    wording: dict[str, str] = {"query": "{query}\n"} if rows.lamp else style.WORDING
    return ScorerSpec(
        recipe.scorer_form,
        rows.name,
        max_length=recipe.scorer_max_length,
        temperature=recipe.scorer_temperature,
        **wording,
    )


def _options(recipe: PersonalArguments, training: Any) -> PairOptions:
    margin: dict[str, Any] = {}
    if recipe.pair_margin is not None:
        rouge_scorer()  # raises where its package is missing
        margin = {"metric": _rouge, "margin": recipe.pair_margin}
    return PairOptions(
        k=recipe.profiles,
        negatives=tuple(recipe.negatives),
        max_length_ratio=recipe.pair_length_ratio,
        seed=training.seed,
        **margin,
    )


def _text(recipe: PersonalArguments, policy: Any, training: Any, tokenizer: Any, spec: ScorerSpec) -> ScorerText:
    """How a reward model to be trained reads: a model of its own, or a copy of the policy."""
    name, own = recipe.scorer_model, policy.model_name_or_path
    if name is not None:
        return backbone_text(name, spec)
    config = tiny_model(tokenizer).config if own in tasks.TASKS else None
    options = {"revision": policy.model_revision, "trust_remote_code": training.trust_remote_code}
    return backbone_text(own, spec, config=config, tokenizer=tokenizer, **options)


def _refuse_training(recipe: PersonalArguments, training: Any) -> None:
    sharded = [name for name in _SHARDED if os.environ.get(name, "").lower() in ("1", "true")]
    if sharded:
        raise ValueError(
            f"{sharded[0]} shards every model of this run, and a reward model is trained whole: train it in a run "
            "without (--accelerate_config single_gpu or multi_gpu), and give its folder with --scorer."
        )
    wrong = [
        f"--{name} {getattr(recipe, name)} must be {rule}"
        for name, (rule, holds) in _RULES.items()
        if not holds(getattr(recipe, name))
    ]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}.")
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


def _refuse_another(recipe: PersonalArguments, training: Any, spec: ScorerSpec) -> None:
    """A checkpoint goes on with the reward model that it was trained with."""
    folder, wanted = Path(training.output_dir or "") / SCORER_FOLDER, training.resume_from_checkpoint
    if not (folder / SCORER).is_file():
        raise ValueError(
            f"--resume_from_checkpoint {wanted}: there is no reward model in {folder}, and a new one would be another "
            "than the checkpoint's. Set --output_dir to the run of the checkpoint, or give its reward model with "
            "--scorer."
        )
    changed = changes(folder, spec, settings_of(recipe))
    if changed:
        raise ValueError(
            f"--resume_from_checkpoint {wanted}: {folder} was made with other settings: {'; '.join(changed)}. Set them "
            f"as they were, start afresh in another --output_dir, or take it as it is: --scorer {folder}."
        )


def _refuse_rows(rows: Sequence[Row], left_out: int, recipe: PersonalArguments) -> None:
    if not recipe.profiles:
        raise ValueError(_no_items(recipe))
    users = {user_of(row) for row in rows if row["profile"]}
    if len(users) < 3:
        room = f" ({left_out} more have too long a query for --scorer_max_length {recipe.scorer_max_length})"
        raise ValueError(
            f"{len(rows)} rows for pairs{room if left_out else ''} are of {len(users)} users with past items; three or "
            "more are needed, to train with and to audit. Raise --pair_rows, or give more data."
        )


def _no_items(recipe: PersonalArguments) -> str:
    return (
        f"--retriever {recipe.retriever} with --profiles {recipe.profiles} shows no past items, and pairs are answers "
        "with some against answers without; choose another one, or train without a reward model: "
        "--personalization_weight 0."
    )


def _rouge(answer: str, gold: str) -> float:
    """Mean F1 of ROUGE-1, -2 and -L; not a number where the gold text has no words."""
    found = rouge_scorer()(answer, gold)
    return math.nan if found is None else sum(found) / len(found)
