"""Before a model is loaded: refuse what cannot work, claim the run folder, find plug-ins, data and the model."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import AutoConfig
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig, ScriptArguments, get_peft_config, get_quantization_config

from rlft.arguments import RecipeArguments
from rlft.configure import ConfigurationError
from rlft.credit import load_credit
from rlft.data.prompts import load_prompts
from rlft.disk import claim_writable
from rlft.evaluate.metrics import METRICS
from rlft.plugins import resolve
from rlft.preflight import check_adapter_targets, check_batch
from rlft.rewards import RewardError, check_columns, checked, load_rewards
from rlft.rewards.loading import ready_made
from rlft.tiny import tasks
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

SMOKE_STEPS, SMOKE_ROWS = 5, 32


@dataclass
class Plan:
    """What `prepare` found: everything a trainer and its evaluation are built from."""

    model: str
    model_init_kwargs: dict[str, Any]
    peft_config: Any
    reward_funcs: list[Callable[..., Any]]
    train_rows: Dataset
    held_out: Dataset
    metric: Callable[..., Any]
    configuration: dict[str, Any]
    title: str
    smoke: bool
    started: float


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
    if recipe.smoke:
        recipe = replace(recipe, eval_rows=min(recipe.eval_rows, SMOKE_ROWS))
        if model.model_name_or_path == data.dataset_name in tasks.SMOKE:
            model.model_name_or_path = data.dataset_name = tasks.SMOKE[str(data.dataset_name)]
        training.max_steps = min(training.max_steps, SMOKE_STEPS) if training.max_steps > 0 else SMOKE_STEPS
        training.warmup_steps, training.logging_steps = 0, 1
    try:
        return _prepare(name, recipe, data, model, training, started)
    except (ValueError, OSError, RewardError) as error:
        raise ConfigurationError(str(error)) from error


def _prepare(
    name: str, recipe: RecipeArguments, data: ScriptArguments, model: ModelConfig, training: Any, started: float
) -> Plan:
    rewards = load_rewards(recipe.reward_funcs)
    metric = resolve(recipe.eval_metric, kind="metric", names=METRICS | ready_made())
    load_credit(training.credit)
    train_rows, held_out = load_prompts(
        data.dataset_name,
        config=data.dataset_config,
        train_split=data.dataset_train_split,
        test_split=data.dataset_test_split,
        prompt_column=recipe.prompt_column,
        answer_column=recipe.answer_column,
        system_prompt=recipe.system_prompt,
        held_out=recipe.eval_rows,
    )
    check_columns([*rewards, metric], train_rows.column_names)
    table = check_batch(training, len(train_rows), training.world_size)
    peft_config = peft_config_of(model, training.trust_remote_code)
    training.resume_from_checkpoint = _checkpoint(training.resume_from_checkpoint, training.output_dir)
    training.output_dir = free_or_claimed_folder(name, training, bool(training.resume_from_checkpoint))
    if training.process_index == 0:
        print(f"run folder: {training.output_dir}\n{table}")  # noqa: T201
        if recipe.smoke:
            print(f"smoke: {training.max_steps} steps of {data.dataset_name}, {len(held_out)} held-out rows")  # noqa: T201
    return Plan(
        model=model_path(model.model_name_or_path, training.seed),
        model_init_kwargs=model_init_kwargs_of(model),
        peft_config=peft_config,
        reward_funcs=rewards,
        train_rows=train_rows,
        held_out=held_out,
        metric=checked(metric, timeout=training.reward_timeout),
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
        if chosen[0] in (None, "trainer_output"):
            chosen = [_free_folder(name)]
        claim_writable(chosen[0], resume)
    if PartialState().num_processes > 1:
        broadcast_object_list(chosen)
    return str(chosen[0])


def _free_folder(name: str) -> str:
    """The first `runs/<name>-<n>` that does not exist, made at once so that no other run takes it."""
    number = 1
    while True:
        folder = Path(f"runs/{name}-{number}")
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
    check_adapter_targets(str(model.model_name_or_path), _config_of(model, trust_remote_code), lora.target_modules)
    return lora


def _config_of(model: ModelConfig, trust_remote_code: bool) -> Any:
    name = _known(model.model_name_or_path)
    if name in tasks.TASKS:
        return tiny_model(char_tokenizer()).config
    return AutoConfig.from_pretrained(name, revision=model.model_revision, trust_remote_code=trust_remote_code)


def _checkpoint(wanted: str | bool | None, output_dir: str | None) -> str | None:
    """The checkpoint to go on from: `true` means the last one in the run folder, and so does a run folder."""
    if str(wanted).lower() in ("none", "false", ""):
        return None
    folder = output_dir if str(wanted).lower() == "true" else str(wanted)
    if folder is None or not Path(folder).is_dir():
        raise ValueError(f"--resume_from_checkpoint {wanted}: no folder {folder}; set --output_dir to that run.")
    found = folder if (Path(folder) / "trainer_state.json").is_file() else get_last_checkpoint(folder)
    if found is None:
        raise ValueError(
            f"--resume_from_checkpoint {wanted}: {folder} holds no checkpoint (a run writes them with "
            "--save_strategy steps --save_steps N); start afresh in another --output_dir."
        )
    return found


def model_path(name: str | None, seed: int) -> str:
    """Folder or Hub id of the model; an embedded task's model is warmed up first."""
    known = _known(name)
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
    return {key: value for key, value in wanted.items() if value is not None}
