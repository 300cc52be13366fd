"""What each recipe trains, in the terms in which it is looked at: inputs, rewards, prompts, and work on one device.

A method's modules are imported when it is asked for: together they take longer to import than all checks.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rlft.check.memory import Load
from rlft.check.probes import spellings
from rlft.check.recipes import Parsed
from rlft.checks import MISSING, Checks
from rlft.tiny import tasks

QUESTIONS = 256
"""Questions of each split that are tried as a run tries all of them."""


@dataclass
class Subject:
    """A run before it starts; `MISSING` stands for what was refused."""

    inputs: Any
    """With `tokenizer`, `config`, `peft_config` and `table`."""
    load: Callable[[int], Load] | None
    """The longest prompt in tokens -> the work of one device; None if it is not known."""
    samples: int = 0
    """Completions of the whole run."""
    sample_tokens: int = 0
    """Longest of them."""
    steps: int = 0
    """Optimiser steps of the run, or of one round of it."""
    prompts: Any = MISSING
    """Texts or conversations, of methods with a data set of prompts."""
    rewards: Sequence[Any] = ()
    weights: Sequence[float] | None = None
    rows: Any = MISSING
    """To try rewards on."""
    forms: Sequence[str] = field(default_factory=spellings)
    models: int = 1
    """That are trained and kept: arms, or the two of a pair."""
    template: bool = False
    """Whether a chat template writes what the model reads."""
    template_kwargs: dict[str, Any] | None = None


def subject_of(parsed: Parsed, checks: Checks) -> Subject:
    """Find and check a recipe's inputs, as its run does; `parsed` is shortened for `--smoke`."""
    return _OF[parsed.name](parsed, checks)


def _shortened(run: Parsed, shorten: Callable[..., Any]) -> tuple[Any, Any, Any, Any]:
    """The arguments as `--smoke` runs them, if it is given."""
    run.recipe = shorten(run.recipe, run.data, run.model, run.training)
    return run.recipe, run.data, run.model, run.training


def _shear(run: Parsed, checks: Checks) -> Subject:
    from rlft.prepare import inspect_prompts, shortened

    found = inspect_prompts(*_shortened(run, shortened), checks)
    rewards = [reward for reward in found.reward_funcs if reward is not MISSING]
    weights = run.training.reward_weights
    if len(rewards) < len(found.reward_funcs) or (weights and len(weights) != len(rewards)):
        weights = None  # refused already
    return _grpo(run, checks, found, rewards, weights)


def _prlm(run: Parsed, checks: Checks) -> Subject:
    from rlft.prepare_prlm import inspect_personal, shortened_personal
    from rlft.trainers.prlm_rewards import weights_of

    found = inspect_personal(*_shortened(run, shortened_personal), checks)
    rewards = [reward for reward in found.scored if reward is not MISSING]
    weights = checks.of("reward", weights_of, rewards, run.training)
    subject = _grpo(run, checks, found, rewards, None if weights is MISSING else weights)
    subject.forms = spellings(run.training.think_end, run.training.answer_key)
    return subject


def _grpo(run: Parsed, checks: Checks, found: Any, rewards: list[Any], weights: Any) -> Subject:
    args, rows = run.training, found.train_rows
    known = args is not checks.lacking and rows is not MISSING
    subject = Subject(found, partial(_grpo_load, run) if known else None, rewards=rewards, weights=weights, rows=rows)
    subject.template_kwargs = args.chat_template_kwargs
    if rows is not MISSING:
        subject.prompts = rows["prompt"]
        subject.template = not isinstance(subject.prompts[0], str)
    if known:
        subject.steps = _steps(args, len(rows) * args.num_generations)
        subject.sample_tokens = args.max_completion_length
        subject.samples = subject.steps * _rows_a_step(args) // args.num_iterations
    return subject


def _grpo_load(run: Parsed, prompt: int) -> Load:
    args = run.training
    tokens = prompt + args.max_completion_length
    sampled = 0 if args.use_vllm else args.per_device_train_batch_size * args.steps_per_generation
    return _load(run, tokens, sampled, tokens, reference=args.beta > 0)


def _exsearch(run: Parsed, checks: Checks) -> Subject:
    from rlft import ExSearchTrainer
    from rlft.prepare_em import shortened
    from rlft.prepare_search import WARM_UP, inspect_search

    found = inspect_search(*_shortened(run, shortened), checks)

    def trainer(inputs: Any, base: str, **common: Any) -> Any:
        return ExSearchTrainer(base, retriever=inputs.retriever, warm_up_dataset=inputs.warm_ups[WARM_UP], **common)

    checks.of("questions", partial(_try, run, trainer), run.training, found, *_parts(found))
    return _em(run, checks, found)


def _dro(run: Parsed, checks: Checks) -> Subject:
    from rlft import DROTrainer
    from rlft.prepare_lists import inspect_lists, shortened_lists

    found = inspect_lists(*_shortened(run, shortened_lists), checks)

    def trainer(inputs: Any, base: str, **common: Any) -> Any:
        shown = {role: rows for role, rows in inputs.warm_ups.items() if rows is not None}
        selector = run.recipe.selector_model if run.recipe.selector_model not in tasks.TASKS else None
        return DROTrainer(base, retriever=inputs.retriever, selector_model=selector, warm_up_datasets=shown, **common)

    checks.of("questions", partial(_try, run, trainer), run.training, found, *_parts(found))
    return _em(run, checks, found, models=2)


def _parts(found: Any) -> list[Any]:
    return [found.splits, found.retriever, found.tokenizer, found.config, found.peft_config, *found.warm_ups.values()]


def _try(run: Parsed, trainer: Callable[..., Any], training: Any, found: Any, *_: Any) -> None:
    """Build the trainer, which checks questions, room and demonstrations and loads no weights."""
    rows = {name: _first(getattr(found.splits, name)) for name in ("train", "dev")}
    with _base(run, found) as base:
        trainer(
            found, base, args=training, train_dataset=rows["train"], eval_dataset=rows["dev"],
            peft_config=found.peft_config,
        )  # fmt: skip


def _first(rows: Any) -> Any:
    return rows.select(range(min(len(rows), QUESTIONS)))


@contextmanager
def _base(run: Parsed, found: Any) -> Iterator[str]:
    """Name of the base; of an embedded one, a folder with its configuration and tokenizer alone."""
    name = str(run.model.model_name_or_path)
    if name not in tasks.TASKS:
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        for part in (found.config, found.tokenizer):
            part.save_pretrained(folder)
        yield folder


def _em(run: Parsed, checks: Checks, found: Any, models: int = 1) -> Subject:
    from rlft.prepare_em import questions_per_round

    args = run.training
    if args is checks.lacking or found.splits is MISSING:
        return Subject(found, None, template=True)
    samples = questions_per_round(args, found.splits.train) * args.num_generations
    sampled = args.sampler_batch_size if args.sampler == "transformers" else 0

    def load(_: int) -> Load:
        return _load(run, args.max_tokens, sampled, args.max_tokens)

    settings: dict[str, Any] = {"template": True, "template_kwargs": args.template_settings(), "models": models}
    return Subject(found, load, samples * args.num_rounds, args.max_tokens, _steps(args, samples), **settings)


def _stoc(run: Parsed, checks: Checks) -> Subject:
    from rlft.prepare_continual import inspect_stoc
    from rlft.prepare_stoc import shortened_stoc

    args, found = run.training, inspect_stoc(*_shortened(run, shortened_stoc), checks)
    if args is checks.lacking:
        return Subject(found, None)
    sampled = args.sampler_batch_size if args.replay == "self" and args.sampler == "transformers" else 0

    def load(_: int) -> Load:
        return _load(run, args.max_length, sampled, args.replay_max_length)

    steps = args.max_steps
    if steps < 1 and found.new is not MISSING:
        steps = _steps(args, sum(len(one["ids"]) for one in found.new) // args.max_length)
    return Subject(found, load, steps=max(steps, 1), models=1 if found.arms is MISSING else len(found.arms))


def _load(run: Parsed, tokens: int, sampled: int, sampled_tokens: int, *, reference: bool = False) -> Load:
    args, model = run.training, run.model
    half = model.dtype in ("bfloat16", "float16")
    return Load(
        rows=args.per_device_train_batch_size,
        tokens=tokens,
        sampled=sampled,
        sampled_tokens=sampled_tokens,
        weight_bytes=2 if half else 4,
        compute_bytes=2 if half or args.bf16 or args.fp16 else 4,
        optimiser=str(getattr(args.optim, "value", args.optim)),
        quantised=0.5 if model.load_in_4bit else 1.0 if model.load_in_8bit else None,
        checkpointing=bool(args.gradient_checkpointing),
        reference=reference,
    )


def _steps(args: Any, rows: int) -> int:
    """Optimiser steps over so many rows an epoch."""
    return args.max_steps if args.max_steps > 0 else max(1, int(args.num_train_epochs * rows) // _rows_a_step(args))


def _rows_a_step(args: Any) -> int:
    return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size)


_OF: dict[str, Callable[[Parsed, Checks], Subject]] = {
    "shear": _shear,
    "prlm": _prlm,
    "exsearch": _exsearch,
    "dro": _dro,
    "stoc": _stoc,
}
