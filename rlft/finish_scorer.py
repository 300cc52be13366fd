"""The reward model of a PrLM run: pairs by the untrained policy, contrastive training, audit (arXiv 2508.07342)."""

import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import tqdm
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from transformers.utils import cached_file

from rlft.arguments import PersonalArguments
from rlft.prepare_scorer import ScorerPlan, asked_by_checks, settings_of, try_prompts
from rlft.processes import each_its_share
from rlft.record.folder import write_whole
from rlft.record.jsonl import json_lines, to_json
from rlft.record.summary import summary_table
from rlft.reward_models import (
    build_pairs,
    policy_answers,
    save_scorer,
    scorer_config,
    split_by_user,
    train_scorer,
)
from rlft.reward_models.audit import audit_command, audit_text
from rlft.reward_models.folder import HELD_OUT
from rlft.reward_models.origin import MADE, read_origin, write_origin
from rlft.reward_models.pair_file import Pair
from rlft.reward_models.pairs import Answers, Ask, BuiltPairs
from rlft.reward_models.room import pairs_with_room
from rlft.reward_models.users import user_of
from rlft.rewards.personal import extract_answer
from rlft.rollouts.policy import Sampling
from rlft.rollouts.transformers_policy import policy_of
from rlft.trainers.prlm import SCORER_FOLDER
from rlft.trainers.prlm_drift import FreshPairs

PAIRS, COUNTS, AUDIT = "pairs.jsonl", "pairs.json", "audit.json"


def make_scorer(
    plan: ScorerPlan, model: str, model_init_kwargs: dict[str, Any], training: Any
) -> tuple[str, FreshPairs | None]:
    """Train the reward model, unless it is there, and audit it. Every process calls this.

    Args:
        plan: from `plan_scorer`.
        model: the untrained policy, a folder or Hub id.
        model_init_kwargs: of its `from_pretrained`.
        training: the `PrLMConfig`; a run that goes on from a checkpoint uses the reward model in its folder, which
            `plan_scorer` has seen to be the one that is wanted.

    Returns:
        Its folder, and what drift checks ask, None without them.

    Raises:
        ValueError: if too few pairs can be built, or a prompt of a drift check cannot.
        FloatingPointError: if it gives scores that are no numbers.
    """
    run = Path(training.output_dir)
    folder = plan.given or run / SCORER_FOLDER
    if plan.given is None and not training.resume_from_checkpoint:
        _train(plan, model, model_init_kwargs, training, run)
    if PartialState().is_main_process:
        _audit(plan, folder, run, training)
    PartialState().wait_for_everyone()
    return str(folder), _fresh(plan, folder) if training.drift_steps else None


def _train(plan: ScorerPlan, model: str, model_init_kwargs: dict[str, Any], training: Any, run: Path) -> None:
    started, recipe, main = time.perf_counter(), plan.arguments, PartialState().is_main_process
    policy = AutoModelForCausalLM.from_pretrained(model, device_map={"": training.device}, **model_init_kwargs)
    sampled = build_pairs(plan.rows, _spread(_answers(plan, policy, training), recipe), plan.chooser, plan.options)
    del policy
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    built = _with_room(plan, sampled)
    if main:
        write_whole(run / COUNTS, to_json(built.counts) + "\n")
        write_whole(run / PAIRS, json_lines(map(asdict, built.pairs)))
        counts = [(what.replace("_", " "), f"{count}") for what, count in built.counts.items() if count]
        print(f"pairs, {time.perf_counter() - started:.0f} s\n{summary_table(counts)}")  # noqa: T201
    pairs, held_out = _apart(built, recipe, training)
    started = time.perf_counter()
    with redirect_stdout(sys.stderr):  # its progress bar ends in a line of figures
        trainer = train_scorer(
            recipe.scorer_model or _files_of(model, model_init_kwargs.get("revision")),
            pairs,
            plan.spec,
            scorer_config(run / SCORER_FOLDER, **_settings(recipe, training)),
            loss=recipe.scorer_loss,
            peft_config=_adapter(recipe),
        )
    save_scorer(trainer, plan.spec, run / SCORER_FOLDER, pairs=pairs, loss=recipe.scorer_loss, held_out=held_out)
    trainer.accelerator.free_memory()
    if main:
        write_origin(run / SCORER_FOLDER, settings_of(recipe), pairs)
        print(f"reward model, {time.perf_counter() - started:.0f} s: {run / SCORER_FOLDER}")  # noqa: T201


def _answers(plan: ScorerPlan, model: Any, training: Any) -> Answers:
    return policy_answers(
        policy_of(model, plan.tokenizer, plan.arguments.pair_batch_size),
        plan.tokenizer,
        plan.prompt.messages,
        lambda text: extract_answer(text, training.answer_key, training.think_end),
        sampling=Sampling(plan.arguments.pair_temperature),
        max_new_tokens=training.max_completion_length,
        template_kwargs=plan.prompt.template_kwargs,
        seed=training.seed,
    )


def _spread(sample: Answers, recipe: PersonalArguments) -> Answers:
    """Each process draws its share, some batches at a time; all get all answers."""
    some = 16 * recipe.pair_batch_size

    def by_batches(asks: Sequence[Ask]) -> list[str | None]:
        starts = tqdm(range(0, len(asks), some), desc="answers for pairs", leave=False)
        return [answer for start in starts for answer in sample(asks[start : start + some])]

    return lambda asks: each_its_share(asks, by_batches)


def _with_room(plan: ScorerPlan, built: BuiltPairs) -> BuiltPairs:
    """Pairs that the reward model can read, the others counted."""
    pairs, unread = pairs_with_room(plan.text, built.pairs)
    counts = built.counts | {"query_too_long": plan.query_too_long} | unread
    return BuiltPairs(pairs, counts | {"pairs": len(pairs)})


def _files_of(model: str, revision: str | None) -> str:
    """The policy as a folder where another revision than the newest is wanted, which a reward model would start from.

    Its files lie in the Hub's cache, since the policy has just been loaded.
    """
    if revision in (None, "main") or Path(model).is_dir():
        return model
    return str(Path(str(cached_file(model, "config.json", revision=revision))).parent)


def _apart(built: BuiltPairs, recipe: PersonalArguments, training: Any) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train with, and pairs of two other users or more, whose profiles an audit can swap."""
    users = {user_of(asdict(pair)) for pair in built.pairs}
    if len(users) < 3:
        said = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in built.counts.items() if count)
        raise ValueError(
            f"the policy's answers gave pairs of {len(users)} users ({said}), and three or more are needed, to train "
            "with and to audit. Does it answer in the form that the prompt asks for? See --answer_key, --think_end, "
            "--max_completion_length, --scorer_max_length and --pair_rows."
        )
    share = max(recipe.audit_share, 2 / len(users))
    return split_by_user(built.pairs, share, training.seed)


def _settings(recipe: PersonalArguments, training: Any) -> dict[str, Any]:
    size = recipe.scorer_device_batch_size
    return {
        "learning_rate": recipe.scorer_learning_rate,
        "warmup_steps": recipe.scorer_warmup_steps,
        "num_train_epochs": recipe.scorer_epochs,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": recipe.scorer_batch_size // (size * training.world_size),
        "seed": training.seed,
        "bf16": training.bf16,
        "fp16": training.fp16,
        "use_cpu": training.use_cpu,
        "disable_tqdm": training.disable_tqdm,
        "logging_strategy": "no",
    }


def _adapter(recipe: PersonalArguments) -> LoraConfig | None:
    rank = recipe.scorer_lora_r
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="SEQ_CLS") if rank else None


def _audit(plan: ScorerPlan, folder: Path, run: Path, training: Any) -> None:
    if plan.given is not None and read_origin(folder) is None:
        print(f"{folder} has no {MADE}: keep the rows that it was trained on out of --dataset_name yourself")  # noqa: T201
    if not (folder / HELD_OUT).is_file():
        print(f"no audit: {folder} has no {HELD_OUT}; rlft rewards audit {folder} --pairs FILE makes one.")  # noqa: T201
        return
    wanted = {"folder": folder, "pairs": None, "task": plan.spec.task, "seed": 0, "device": training.device}
    audit = audit_command(SimpleNamespace(**wanted))
    write_whole(run / AUDIT, to_json(audit) + "\n")
    print(f"\naudit of {folder}, on users that it was not trained on\n{audit_text(audit)}\n")  # noqa: T201


def _fresh(plan: ScorerPlan, folder: Path) -> FreshPairs:
    """What drift checks ask, every prompt of it tried."""
    rows, options = asked_by_checks(plan, folder)
    try_prompts(plan, rows, options)
    if PartialState().is_main_process:
        if not (folder / HELD_OUT).is_file() and read_origin(folder) is None:
            print(f"drift checks ask about users that {folder} may have seen: it names none")  # noqa: T201
        if len(rows) < plan.arguments.drift_rows:
            print(  # noqa: T201
                f"drift checks ask {len(rows)} rows, fewer than --drift_rows {plan.arguments.drift_rows}: no more of "
                f"{len(plan.rows)} are of users that {folder} was not trained on. Raise --pair_rows or --audit_share."
            )
    return FreshPairs(rows, plan.prompt.messages, plan.chooser, options)
