"""Before PrLM loads a model: refuse what cannot work, read rows, choose past items, build prompts, find the model."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, ScriptArguments

from rlft.arguments import PersonalArguments
from rlft.checks import MISSING, Checks, refusals
from rlft.credit import load_credit, needs
from rlft.data.personal import PersonalRows
from rlft.evaluate.by_profiles import Measure, Setting
from rlft.preflight import check_batch
from rlft.prepare import (
    check_room,
    free_or_claimed_folder,
    inspect_model,
    inspect_rewards,
    model_init_kwargs_of,
    model_path,
)
from rlft.prepare_personal import Shown, evaluation_settings, measure_of, personal_rows, shown_rows
from rlft.prepare_scorer import ScorerPlan, plan_scorer
from rlft.record.summary import summary_table
from rlft.resume.find import asks_to_resume, look_ahead
from rlft.retrieval.profiles import profile_chooser
from rlft.set_aside import set_aside
from rlft.tiny import tasks
from rlft.trainers.prlm_rewards import check_rows, prlm_rewards

Row = dict[str, Any]
SMOKE = {"train_rows": 64, "pair_rows": 96, "eval_rows": 32, "drift_rows": 16}
SMOKE_STEPS = 5
TOO_LONG = "pairs: query too long for the reward model"
TRAINED, TEXTS = "the training set", ("answer", "query")


@dataclass
class PersonalPlan:
    """What `prepare_prlm` found: everything a reward model, a `PrLMTrainer` and its evaluation are built from."""

    model: str
    model_init_kwargs: dict[str, Any]
    peft_config: Any
    reward_funcs: list[Any] | None
    """Beside the reward model's; None for PrLM's own."""
    train_rows: Dataset
    dev_rows: Dataset | None
    dev: list[Row]
    """What `dev_rows` were made of."""
    held_out: list[Row]
    left_out: dict[str, int]  # by reason
    settings: list[Setting]
    measure: Measure
    scorer: ScorerPlan | None
    arguments: PersonalArguments
    configuration: dict[str, Any]
    title: str
    smoke: bool
    started: float


def prepare_prlm(
    name: str, recipe: PersonalArguments, data: ScriptArguments, model: ModelConfig, training: Any
) -> PersonalPlan:
    """Check everything that can be checked without a model, then find the model.

    Args:
        name: the recipe's name; a run without `--output_dir` goes to the first free `runs/<name>-<n>`.
        recipe, data, model, training: the parsed arguments; `training` is a `PrLMConfig`, which gets the answer's key
            of the task, and is edited for `--smoke`.

    Returns:
        The plan.

    Raises:
        ConfigurationError: whatever is wrong, in one message.
    """
    started = time.perf_counter()
    if recipe.torch_threads:
        torch.set_num_threads(recipe.torch_threads)
    disable_progress_bar()  # a bar for each of the many small loads of weights
    recipe = shortened_personal(recipe, data, model, training)
    with refusals():
        return _prepare(name, recipe, data, model, training, started)


def shortened_personal(
    recipe: PersonalArguments, data: ScriptArguments, model: ModelConfig, training: Any
) -> PersonalArguments:
    """The recipe as `--smoke` runs it, for which `data`, `model` and `training` are edited; without, as it is."""
    if not recipe.smoke:
        return recipe
    if model.model_name_or_path == data.dataset_name in tasks.SMOKE:
        model.model_name_or_path = data.dataset_name = tasks.SMOKE[str(data.dataset_name)]
    training.max_steps = min(training.max_steps, SMOKE_STEPS) if training.max_steps > 0 else SMOKE_STEPS
    training.warmup_steps, training.logging_steps = 0, 1
    training.drift_steps = min(training.drift_steps, 2)
    fewer: dict[str, Any] = {option: min(getattr(recipe, option), most) for option, most in SMOKE.items()}
    return replace(recipe, scorer_epochs=1.0, **fewer)


def _prepare(
    name: str, recipe: PersonalArguments, data: ScriptArguments, model: ModelConfig, training: Any, started: float
) -> PersonalPlan:
    checks = Checks()
    resumes = asks_to_resume(training.resume_from_checkpoint)
    training.resume_from_checkpoint = look_ahead(training.resume_from_checkpoint, training.output_dir)
    found = inspect_personal(recipe, data, model, training, checks)
    rows, scorer = found.rows, found.scorer
    training.output_dir = free_or_claimed_folder(name, training, resumes)
    if training.process_index == 0:
        print("\n".join([f"run folder: {training.output_dir}", found.table, *checks.notes()]))  # noqa: T201
    return PersonalPlan(
        model=model_path(model.model_name_or_path, training.seed),
        model_init_kwargs=model_init_kwargs_of(model),
        peft_config=found.peft_config,
        reward_funcs=found.reward_funcs,
        train_rows=found.train_rows,
        dev_rows=found.dev_rows,
        dev=found.dev,
        held_out=rows.held_out,
        left_out=_left_out(rows, scorer),
        settings=found.settings,
        measure=found.measure,
        scorer=scorer,
        arguments=recipe,
        configuration={
            "recipe": asdict(recipe),
            "data": asdict(data),
            "model": asdict(model),
            "training": training.to_dict(),
        },
        title=f"{name}, {_form(scorer)}, on {data.dataset_name}",
        smoke=recipe.smoke,
        started=started,
    )


@dataclass
class PersonalInputs:
    """What `inspect_personal` found; `MISSING` stands for what was refused."""

    reward_funcs: list[Any] | None
    scored: Any
    """The rewards of the run that are there already: `reward_funcs`, or PrLM's own without the reward model's."""
    rows: Any
    train_rows: Any
    dev_rows: Any
    dev: Any
    """What `dev_rows` were made of."""
    measure: Any
    scorer: Any
    settings: Any
    tokenizer: Any
    config: Any
    peft_config: Any
    table: Any


def inspect_personal(
    recipe: PersonalArguments, data: ScriptArguments, model: ModelConfig, training: Any, checks: Checks
) -> PersonalInputs:
    """Find rewards, rows, past items, prompts and the reward model, and check them; no folder is claimed.

    Args:
        recipe, data, model, training: the parsed arguments, shortened for `--smoke`; `training` gets the answer's key.
        checks: runs the steps.

    Raises:
        one of `rlft.checks.REFUSALS`, unless `checks` goes on.
    """
    checks.of("credit", lambda spec: needs(load_credit(spec)), training.credit)
    checks.of("options", _refuse_options, recipe, training)
    if training.scorer is None and not training.personalization_weight:
        training.drift_steps = 0  # there is no reward model to check
    specs = (recipe.retriever, *recipe.eval_retrievers)
    choosers = [checks.of("retriever", profile_chooser, spec, training.seed) for spec in specs]
    rewards = None if recipe.reward_funcs is None else inspect_rewards(recipe.reward_funcs, checks)
    rows = checks.of("data", personal_rows, recipe, data, training)
    checks.of("model", _refuse_model, model)
    tokenizer, config, peft_config = inspect_model(model, training, checks)
    shown = checks.of("prompts", shown_rows, recipe, training, rows, tokenizer, *choosers)
    train_rows = MISSING if shown is MISSING else shown.train_rows
    scored = rewards or checks.of("reward", _own_rewards, training)
    for reward in scored:
        checks.of("columns", lambda one, given: check_rows(given, TRAINED, [one], texts=TEXTS), reward, train_rows)
    checks.of("prompts", partial(check_room, training), train_rows, tokenizer, config)
    scorer = checks.of("reward model", _scorer, recipe, model, training, shown, tokenizer)
    settings = checks.of("evaluation", _settings, recipe, shown)
    kept = checks.of("dev rows", _without_dev, recipe, training, shown)
    table = checks.of("batch", _tables, training, shown, kept[0], settings, scorer)
    return PersonalInputs(
        reward_funcs=rewards,
        scored=scored,
        rows=MISSING if shown is MISSING else shown.rows,
        train_rows=kept[0],
        dev_rows=kept[1],
        dev=kept[2],
        measure=kept[3],
        scorer=scorer,
        settings=settings,
        tokenizer=tokenizer,
        config=config,
        peft_config=peft_config,
        table=table,
    )


def _without_dev(
    recipe: PersonalArguments, training: Any, shown: Shown
) -> tuple[Dataset, Dataset | None, list[Row], Measure]:
    """The training rows without the dev rows; those; what they were made of; and what measures them."""
    rows = shown.rows
    measure = measure_of(rows, training.think_end)
    measured = lambda: list(measure([""], rows.train[:1]))  # noqa: E731
    train_rows, dev_rows, places = set_aside(shown.train_rows, recipe, training, measured)
    return train_rows, dev_rows, [rows.train[place] for place in places], measure


def _scorer(
    recipe: PersonalArguments, model: ModelConfig, training: Any, shown: Shown, tokenizer: Any
) -> ScorerPlan | None:
    chooser = shown.choosers[recipe.retriever]
    return plan_scorer(recipe, model, training, shown.rows, shown.prompt, chooser, tokenizer)


def _settings(recipe: PersonalArguments, shown: Shown) -> list[Setting]:
    return evaluation_settings(recipe, shown.rows.held_out, shown.choosers, shown.prompt)


def _tables(
    training: Any, shown: Shown, train_rows: Dataset, settings: Sequence[Setting], scorer: ScorerPlan | None
) -> str:
    batch = check_batch(training, len(train_rows), training.world_size)
    return f"{_table(shown.rows, shown.counts, settings, scorer)}\n{batch}"


def _refuse_options(recipe: PersonalArguments, training: Any) -> None:
    if recipe.profiles < 0 or any(k < 0 for k in recipe.eval_profiles):
        raise ValueError(
            f"--profiles {recipe.profiles} and --eval_profiles {recipe.eval_profiles} count past items, none below 0."
        )
    if min(recipe.pair_temperature, recipe.eval_temperature) < 0:
        raise ValueError(
            f"--pair_temperature {recipe.pair_temperature} and --eval_temperature {recipe.eval_temperature} are at "
            "least 0, which is greedy."
        )


def _refuse_model(model: ModelConfig) -> None:
    name = model.model_name_or_path
    if name is None:
        raise ValueError("no model: set --model_name_or_path to tiny/style, a folder, or a Hub id.")
    task = tasks.TASKS.get(name)
    if task is not None and not isinstance(task, tasks.StyleTask):
        raise ValueError(
            f"--model_name_or_path {name} has never read past items; set tiny/style, a folder or a Hub id."
        )


def _own_rewards(training: Any) -> list[Any]:
    """PrLM's own without the reward model's, which is not there yet."""
    without = copy.copy(training)
    without.scorer, without.personalization_weight = None, 0.0
    return prlm_rewards(without)


def _form(scorer: ScorerPlan | None) -> str:
    if scorer is None:
        return "no reward model"
    return f"{scorer.spec.form} reward model" if scorer.given is None else f"reward model {scorer.given}"


def _left_out(rows: PersonalRows, scorer: ScorerPlan | None) -> dict[str, int]:
    too_long = 0 if scorer is None else scorer.query_too_long
    return ({TOO_LONG: too_long} if too_long else {}) | rows.left_out


def _table(
    rows: PersonalRows, counts: Mapping[str, int], settings: Sequence[Setting], scorer: ScorerPlan | None
) -> str:
    left_out = _left_out(rows, scorer)
    shown = [
        ("rows to train on", f"{len(rows.train)}"),
        ("rows for pairs", f"{len(rows.pairs) - left_out.get(TOO_LONG, 0)}"),
        ("held-out rows", f"{len(rows.held_out)}"),
        *((f"left out, {why}", f"{count}") for why, count in left_out.items()),
        *((f"rows to train on, {what}", f"{count}") for what, count in counts.items() if count and what != "rows"),
    ]
    if settings:
        shown.append(("evaluated with", "; ".join(setting.name for setting in settings)))
    return summary_table(shown)
