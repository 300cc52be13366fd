"""Before PrLM loads a model: refuse what cannot work, read rows, choose past items, build prompts, find the model."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, ScriptArguments

from rlft.arguments import PersonalArguments
from rlft.configure import ConfigurationError
from rlft.credit import load_credit
from rlft.data.personal import HarmlessChooser, PersonalRows, Wanted, harmless, held_out_split, lamp_rows, style_rows
from rlft.data.profile_prompt import ProfilePrompt
from rlft.evaluate.by_profiles import Measure, Setting
from rlft.evaluate.personal import Measured, personal_metrics
from rlft.evaluate.style import style_metrics
from rlft.preflight import check_batch
from rlft.prepare import _checkpoint, free_or_claimed_folder, model_init_kwargs_of, model_path, peft_config_of
from rlft.prepare_scorer import ScorerPlan, plan_scorer, rows_for_pairs
from rlft.record.summary import summary_table
from rlft.retrieval import RetrievalError
from rlft.retrieval.profiles import profile_chooser
from rlft.reward_models.harmless import Harmless
from rlft.reward_models.origin import without_seen
from rlft.reward_models.pairs import Chooser
from rlft.rewards import RewardError, load_rewards
from rlft.set_aside import set_aside
from rlft.tiny import tasks
from rlft.trainers.prlm_rewards import check_rows, prlm_rewards

Row = dict[str, Any]
SMOKE = {"train_rows": 64, "pair_rows": 96, "eval_rows": 32, "drift_rows": 16}
SMOKE_STEPS = 5


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
    if recipe.smoke:
        recipe = _shortened(recipe, data, model, training)
    with refusals():
        return _prepare(name, recipe, data, model, training, started)


@contextmanager
def refusals() -> Iterator[None]:
    """End a recipe in one line for settings, data or a reward model that cannot be used.

    Raises:
        ConfigurationError: in the place of errors about values, files, packages, past items and rewards.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError, RetrievalError, RewardError) as error:
        raise ConfigurationError(str(error)) from error


def _shortened(
    recipe: PersonalArguments, data: ScriptArguments, model: ModelConfig, training: Any
) -> PersonalArguments:
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
    load_credit(training.credit)
    _refuse_options(recipe, training)
    if training.scorer is None and not training.personalization_weight:
        training.drift_steps = 0  # there is no reward model to check
    found = {spec: profile_chooser(spec, training.seed) for spec in (recipe.retriever, *recipe.eval_retrievers)}
    rewards = None if recipe.reward_funcs is None else load_rewards(recipe.reward_funcs)
    rows = _rows(recipe, data, training)
    training.answer_key = rows.answer_key(training.answer_key)
    tokenizer = _tokenizer(model, training.trust_remote_code)
    broken = Harmless(tokenizer).broken
    rows = harmless(rows, broken)
    choosers = {spec: HarmlessChooser(one, broken) for spec, one in found.items()}
    chooser = choosers[recipe.retriever]
    prompt = _prompt(recipe, rows, tokenizer, training.chat_template_kwargs)
    train_rows = _train_rows(rows.train, chooser.choose(rows.train, recipe.profiles), prompt)
    counts = {**chooser.counts, "prompt cut": prompt.counts["cut"]}
    check_rows(train_rows, "the training set", rewards or _own_rewards(training), texts=("answer", "query"))
    training.resume_from_checkpoint = _checkpoint(training.resume_from_checkpoint, training.output_dir)
    scorer = plan_scorer(recipe, model, training, rows, prompt, chooser, tokenizer)
    measure = _measure(rows, training.think_end)
    measured = lambda: list(measure([""], rows.train[:1]))  # noqa: E731
    train_rows, dev_rows, places = set_aside(train_rows, recipe, training, measured)
    settings = _settings(recipe, rows.held_out, choosers, prompt)
    batch = check_batch(training, len(train_rows), training.world_size)
    peft_config = peft_config_of(model, training.trust_remote_code)
    training.output_dir = free_or_claimed_folder(name, training, bool(training.resume_from_checkpoint))
    if training.process_index == 0:
        print(f"run folder: {training.output_dir}\n{_table(rows, counts, settings, scorer)}\n{batch}")  # noqa: T201
    return PersonalPlan(
        model=model_path(model.model_name_or_path, training.seed),
        model_init_kwargs=model_init_kwargs_of(model),
        peft_config=peft_config,
        reward_funcs=rewards,
        train_rows=train_rows,
        dev_rows=dev_rows,
        dev=[rows.train[place] for place in places],
        held_out=rows.held_out,
        settings=settings,
        measure=measure,
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


def _rows(recipe: PersonalArguments, data: ScriptArguments, training: Any) -> PersonalRows:
    if data.dataset_name is None:
        raise ValueError("no rows: set --dataset_name to tiny/style, or to a folder of LaMP (with --task).")
    wanted = Wanted(recipe.train_rows, rows_for_pairs(recipe, training), recipe.eval_rows)
    if data.dataset_name in tasks.TASKS:
        rows = style_rows(data.dataset_name, wanted, max(recipe.profiles, *recipe.eval_profiles, 1))
    else:
        splits = data.dataset_train_split, held_out_split(data.dataset_name, data.dataset_test_split)
        if splits[1] != data.dataset_test_split and training.process_index == 0:
            print(f"{data.dataset_name} has no outputs of {data.dataset_test_split!r}: {splits[1]!r} is held out")  # noqa: T201
        rows = lamp_rows(data.dataset_name, recipe.task, splits, wanted)
    return rows if training.scorer is None else without_seen(rows, training.scorer)


def _tokenizer(model: ModelConfig, trust_remote_code: bool) -> Any:
    name = model.model_name_or_path
    if name is None:
        raise ValueError("no model: set --model_name_or_path to tiny/style, a folder, or a Hub id.")
    task = tasks.TASKS.get(name)
    if isinstance(task, tasks.StyleTask):
        return task.tokenizer()
    if task is not None:
        raise ValueError(
            f"--model_name_or_path {name} has never read past items; set tiny/style, a folder or a Hub id."
        )
    return AutoTokenizer.from_pretrained(name, revision=model.model_revision, trust_remote_code=trust_remote_code)


def _prompt(
    recipe: PersonalArguments, rows: PersonalRows, tokenizer: Any, template_kwargs: dict[str, Any] | None
) -> ProfilePrompt:
    return ProfilePrompt(
        rows.wording,
        tokenizer,
        max_tokens=recipe.prompt_tokens,
        system=recipe.system_prompt or None,
        over_budget=recipe.over_budget,
        template_kwargs=template_kwargs,
    )


def _train_rows(rows: Sequence[Row], shown: Sequence[Sequence[Any]], prompt: ProfilePrompt) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": prompt.messages(row, items),
                "answer": row["answer"],
                "query": row["query"],
                "profile_items": [dict(item) for item in items],
            }
            for row, items in zip(rows, shown, strict=True)
        ]
    )


def _own_rewards(training: Any) -> list[Any]:
    """PrLM's own without the reward model's, which is not there yet."""
    without = copy.copy(training)
    without.scorer, without.personalization_weight = None, 0.0
    return prlm_rewards(without)


def _settings(
    recipe: PersonalArguments, rows: Sequence[Row], choosers: Mapping[str, Chooser], prompt: ProfilePrompt
) -> list[Setting]:
    """That of training first, then every other pair of a chooser and a number of items."""
    if not rows:
        return []
    counts = dict.fromkeys([recipe.profiles, *recipe.eval_profiles])
    asked = [
        (spec if k and spec != "none" else "none", k if spec != "none" else 0) for spec in choosers for k in counts
    ]
    found = []
    for spec, k in dict.fromkeys(asked):
        shown: Sequence[Sequence[Any]] = choosers[spec].choose(rows, k) if k else [[] for _ in rows]
        prompts = [prompt.messages(row, items) for row, items in zip(rows, shown, strict=True)]
        found.append(Setting(spec, k, prompts))
    return found


def _measure(rows: PersonalRows, think_end: str | None) -> Measure:
    task = rows.lamp
    if task is None:
        return partial(style_metrics, think_end=think_end)

    def measure(completions: Sequence[str], of_rows: Sequence[Mapping[str, Any]]) -> dict[str, Measured]:
        return personal_metrics(task, completions, [row["gold"] for row in of_rows], think_end=think_end)

    return measure


def _form(scorer: ScorerPlan | None) -> str:
    if scorer is None:
        return "no reward model"
    return f"{scorer.spec.form} reward model" if scorer.given is None else f"reward model {scorer.given}"


def _table(
    rows: PersonalRows, counts: Mapping[str, int], settings: Sequence[Setting], scorer: ScorerPlan | None
) -> str:
    too_long = 0 if scorer is None else scorer.query_too_long
    shown = [
        ("rows to train on", f"{len(rows.train)}"),
        ("rows for pairs", f"{len(rows.pairs) - too_long}"),
        ("held-out rows", f"{len(rows.held_out)}"),
        *([("left out, pairs: query too long for the reward model", f"{too_long}")] if too_long else []),
        *((f"left out, {why}", f"{count}") for why, count in rows.left_out.items()),
        *((f"rows to train on, {what}", f"{count}") for what, count in counts.items() if count and what != "rows"),
    ]
    if settings:
        shown.append(("evaluated with", "; ".join(setting.name for setting in settings)))
    return summary_table(shown)
