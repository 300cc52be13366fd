"""Before a model is loaded: refuse what cannot work, claim the run folder, find plug-ins, data and the model."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer
from trl import ModelConfig, ScriptArguments, get_peft_config, get_quantization_config

from rlft.arguments import RecipeArguments
from rlft.checks import MISSING, Checks, refusals
from rlft.credit import load_credit, needs
from rlft.data.prompts import Prompts, load_prompts
from rlft.disk import claim_writable
from rlft.evaluate.metrics import METRICS
from rlft.plugins import resolve
from rlft.preflight import check_adapter_targets, check_batch
from rlft.preflight_prompts import check_prompts, check_tokenizer, positions_of
from rlft.resume.find import asks_to_resume, look_ahead
from rlft.rewards import check_columns, checked, load_rewards
from rlft.rewards.loading import ready_made, refuse_same_names
from rlft.saved import SAFETENSORS, refuse_pickles
from rlft.set_aside import set_aside
from rlft.tiny import tasks
from rlft.tiny.skeleton import skeleton

SMOKE_STEPS, SMOKE_ROWS = 5, 32
DEV = "greedy_accuracy"
"""Metric of the dev rows."""
RUNS, UNNAMED = "runs", (None, "trainer_output")
"""Where runs go without `--output_dir`, and its values then: TRL names a folder by itself."""


@dataclass
class Plan:
    """What `prepare` found: everything a trainer and its evaluation are built from."""

    model: str
    model_init_kwargs: dict[str, Any]
    peft_config: Any
    reward_funcs: list[Callable[..., Any]]
    train_rows: Dataset
    dev_rows: Dataset | None
    held_out: Dataset
    left_out: dict[str, int]
    """Rows of the data that are not used, by reason."""
    metric: Callable[..., Any]
    configuration: dict[str, Any]
    title: str
    smoke: bool
    started: float


@dataclass
class PromptInputs:
    """What `inspect_prompts` found; `MISSING` stands for what was refused."""

    reward_funcs: list[Any]
    metric: Any
    train_rows: Any
    dev_rows: Any
    held_out: Any
    left_out: Any
    tokenizer: Any
    config: Any
    peft_config: Any
    table: Any


def prepare(name: str, recipe: RecipeArguments, data: ScriptArguments, model: ModelConfig, training: Any) -> Plan:
    """Check everything that can be checked without a model, then find the model.

    Args:
        name: the recipe's name; a run without `--output_dir` goes to the first free `runs/<name>-<n>`.
        recipe, data, model, training: the parsed arguments; `training` is a `SHEARConfig`, edited for `--smoke`.

    Returns:
        The plan.

    Raises:
        ConfigurationError: whatever is wrong, in one message.
    """
    started = time.perf_counter()
    if recipe.torch_threads:
        torch.set_num_threads(recipe.torch_threads)
    recipe = shortened(recipe, data, model, training)
    with refusals():
        return _prepare(name, recipe, data, model, training, started)


def shortened(recipe: RecipeArguments, data: ScriptArguments, model: ModelConfig, training: Any) -> RecipeArguments:
    """The recipe as `--smoke` runs it, for which `data`, `model` and `training` are edited; without, as it is."""
    if not recipe.smoke:
        return recipe
    if model.model_name_or_path == data.dataset_name in tasks.SMOKE:
        model.model_name_or_path = data.dataset_name = tasks.SMOKE[str(data.dataset_name)]
    training.max_steps = min(training.max_steps, SMOKE_STEPS) if training.max_steps > 0 else SMOKE_STEPS
    training.warmup_steps, training.logging_steps = 0, 1
    return replace(recipe, eval_rows=min(recipe.eval_rows, SMOKE_ROWS))


def inspect_prompts(
    recipe: RecipeArguments, data: ScriptArguments, model: ModelConfig, training: Any, checks: Checks
) -> PromptInputs:
    """Find plug-ins, rows, tokenizer and adapter, and check them; nothing is written and no model loaded.

    Args:
        recipe, data, model, training: the parsed arguments, shortened for `--smoke`.
        checks: runs the steps.

    Returns:
        What was found.

    Raises:
        one of `rlft.checks.REFUSALS`, unless `checks` goes on.
    """
    rewards = inspect_rewards(recipe.reward_funcs, checks)
    checks.of("reward", _refuse_weights, training.reward_weights, rewards)
    metric = checks.of("metric", resolve, recipe.eval_metric, kind="metric", names=METRICS | ready_made())
    checks.of("credit", lambda spec: needs(load_credit(spec)), training.credit)
    splits = checks.of("data", _rows, recipe, data)
    for scorer in (*rewards, metric):
        checks.of("columns", lambda fn, rows: check_columns([fn], rows.column_names), scorer, splits[0])
    kept = checks.of("dev rows", lambda rows: set_aside(rows, recipe, training, lambda: [DEV]), splits[0])
    table = checks.of("batch", lambda rows, args: check_batch(args, len(rows), args.world_size), kept[0], training)
    tokenizer, config, peft_config = inspect_model(model, training, checks)
    checks.of("prompts", partial(check_room, training), splits[0], tokenizer, config)
    checks.of("prompts", partial(check_room, training), splits[1], tokenizer, config)
    train_rows, dev_rows, held_out, left_out = kept[0], kept[1], splits[1], splits[2]
    return PromptInputs(
        rewards, metric, train_rows, dev_rows, held_out, left_out, tokenizer, config, peft_config, table
    )


def inspect_rewards(specs: Sequence[str], checks: Checks) -> list[Any]:
    """The reward functions, `MISSING` for one that cannot be loaded."""
    rewards = [checks.of("reward", load_rewards, [spec])[0] for spec in specs]
    checks.of("reward", refuse_same_names, [reward for reward in rewards if reward is not MISSING])
    return rewards


def inspect_model(model: ModelConfig, training: Any, checks: Checks) -> tuple[Any, Any, Any]:
    """(tokenizer, configuration, LoRA configuration) of the model that is trained, checked."""
    trust = training.trust_remote_code
    config = checks.of("model", config_of, model, trust)
    tokenizer = checks.of("tokenizer", tokenizer_of, model, trust)
    checks.warn("tokenizer", checks.of("tokenizer", check_tokenizer, tokenizer, str(model.model_name_or_path)))
    return tokenizer, config, checks.of("adapter", peft_config_of, model, trust)


def _refuse_weights(weights: Sequence[float] | None, rewards: Sequence[Any]) -> None:
    if weights is not None and len(weights) != len(rewards):
        raise ValueError(f"--reward_weights {weights} for {len(rewards)} --reward_funcs; give one for each.")


def check_room(training: Any, rows: Dataset, tokenizer: Any, config: Any) -> None:
    """Refuse rows whose prompt leaves no room for a completion, as `check_prompts`."""
    template = training.chat_template_kwargs
    check_prompts(rows["prompt"], tokenizer, positions_of(config), training.max_completion_length, template)


def _rows(recipe: RecipeArguments, data: ScriptArguments) -> Prompts:
    return load_prompts(
        data.dataset_name,
        config=data.dataset_config,
        train_split=data.dataset_train_split,
        test_split=data.dataset_test_split,
        prompt_column=recipe.prompt_column,
        answer_column=recipe.answer_column,
        system_prompt=recipe.system_prompt,
        held_out=recipe.eval_rows,
    )


def _prepare(
    name: str, recipe: RecipeArguments, data: ScriptArguments, model: ModelConfig, training: Any, started: float
) -> Plan:
    checks = Checks()
    found = inspect_prompts(recipe, data, model, training, checks)
    resumes = asks_to_resume(training.resume_from_checkpoint)
    training.resume_from_checkpoint = look_ahead(training.resume_from_checkpoint, training.output_dir)
    training.output_dir = free_or_claimed_folder(name, training, resumes)
    if training.process_index == 0:
        print("\n".join([f"run folder: {training.output_dir}", found.table, *checks.notes()]))  # noqa: T201
        if recipe.smoke:
            print(f"smoke: {training.max_steps} steps of {data.dataset_name}, {len(found.held_out)} held-out rows")  # noqa: T201
    return Plan(
        model=model_path(model.model_name_or_path, training.seed),
        model_init_kwargs=model_init_kwargs_of(model),
        peft_config=found.peft_config,
        reward_funcs=found.reward_funcs,
        train_rows=found.train_rows,
        dev_rows=found.dev_rows,
        held_out=found.held_out,
        left_out=found.left_out,
        metric=checked(found.metric, timeout=training.reward_timeout),
        configuration={
            "recipe": asdict(recipe),
            "data": asdict(data),
            "model": asdict(model),
            "training": training.to_dict(),
        },
        title=f"{name}, credit {training.credit}, on {data.dataset_name}",
        smoke=recipe.smoke,
        started=started,
    )


def free_or_claimed_folder(name: str, training: Any, resume: bool) -> str:
    """The run folder, claimed by the main process and known to all; a free one of `runs/` if none is named."""
    chosen = [training.output_dir]
    if training.process_index == 0:
        if chosen[0] in UNNAMED:
            chosen = [_free_folder(name)]
        claim_writable(chosen[0], resume)
    if PartialState().num_processes > 1:
        broadcast_object_list(chosen)
    return str(chosen[0])


def _free_folder(name: str) -> str:
    """The first `runs/<name>-<n>` that does not exist, made at once so that no other run takes it."""
    number = 1
    while True:
        folder = Path(f"{RUNS}/{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return str(folder)


def peft_config_of(model: ModelConfig, trust_remote_code: bool) -> Any:
    """The LoRA configuration, its targets checked against the model's modules; None without `--use_peft`."""
    lora: Any = get_peft_config(model)
    if lora is None:
        return None
    if isinstance(lora.target_modules, str) and lora.target_modules.isidentifier():
        lora.target_modules = {lora.target_modules}  # one module's name, which PEFT would take for a regular expression
    check_adapter_targets(str(model.model_name_or_path), config_of(model, trust_remote_code), lora.target_modules)
    return lora


def config_of(model: ModelConfig, trust_remote_code: bool) -> Any:
    """The model's configuration; an embedded model's without its warm-up."""
    name = _known(model.model_name_or_path)
    if name in tasks.TASKS:
        return skeleton(name)[0].config
    return AutoConfig.from_pretrained(name, revision=model.model_revision, trust_remote_code=trust_remote_code)


def tokenizer_of(model: ModelConfig, trust_remote_code: bool) -> Any:
    """The model's tokenizer; an embedded model's without its warm-up."""
    name = _known(model.model_name_or_path)
    if name in tasks.TASKS:
        return skeleton(name)[1]
    return AutoTokenizer.from_pretrained(name, revision=model.model_revision, trust_remote_code=trust_remote_code)


def model_path(name: str | None, seed: int) -> str:
    """Folder or Hub id of the model; an embedded task's model is warmed up first.

    Raises:
        ValueError: if there is none, or it would be read from a pickle.
    """
    known = _known(name)
    refuse_pickles(known)
    return str(tasks.warm_start(known, seed)) if known in tasks.TASKS else known


def _known(name: str | None) -> str:
    if name is None:
        raise ValueError("no model: set --model_name_or_path to tiny/addition, a folder, or a Hub id.")
    tasks.refuse_unknown(name)
    return name


def model_init_kwargs_of(model: ModelConfig) -> dict[str, Any]:
    """What `from_pretrained` is told."""
    wanted = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        "quantization_config": get_quantization_config(model),
    }
    return SAFETENSORS | {key: value for key, value in wanted.items() if value is not None}
