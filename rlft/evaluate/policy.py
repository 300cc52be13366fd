"""Accuracy of the policy under training on held-out rows, sampled and greedy, on any number of processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object, tqdm
from transformers import GenerationConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlft.compat import generation_model

Row = dict[str, Any]
Metric = Callable[..., Sequence[float | None]]
Value = TypeVar("Value")


def sample_completions(trainer: Any, prompts: Sequence[Any], *, temperature: float, seed: int = 0) -> list[Any]:
    """One completion a prompt from the trainer's current policy, with `transformers` generate.

    Args:
        trainer: a `GRPOTrainer`: model, tokenizer, `max_completion_length` and `per_device_eval_batch_size` are read.
        prompts: strings, or conversations (then completions are conversations too), which the chat template renders
            with the settings of training.
        temperature: 0 is greedy; otherwise plain sampling at this temperature.
        seed: of the sampling; the training run's own random state is left as it was.

    Returns:
        Completions in the order of the prompts.
    """
    completions: list[Any] = []
    batch_size = trainer.args.per_device_eval_batch_size
    with _own_random_state(seed), generation_model(trainer) as model:
        for start in tqdm(range(0, len(prompts), batch_size), desc="evaluate", leave=False):
            completions += _generate(trainer, model, prompts[start : start + batch_size], temperature)
    return completions


def for_each_prompt(
    trainer: Any,
    prompts: Sequence[Any],
    of: Callable[[list[int], list[Any]], Iterable[Value]],
    *,
    temperature: float,
    seed: int,
) -> list[Value]:
    """A value for each prompt, from one completion; every process must call this, and asks its share.

    Args:
        trainer, temperature: as for `sample_completions`.
        prompts: N, one or more.
        of: (places of prompts, their completions) -> values.
        seed: of the sampling in the first process; the others count on from it.

    Returns:
        N values, the same on every process.
    """
    rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
    share = -(-len(prompts) // world)  # the same number on every process: sharded models generate in step
    mine = [place % len(prompts) for place in range(rank * share, (rank + 1) * share)]
    completions = sample_completions(
        trainer, [prompts[place] for place in mine], temperature=temperature, seed=seed + rank
    )
    gathered = dict(gather_object(list(zip(mine, of(mine, completions), strict=True))))
    return [gathered[place] for place in range(len(prompts))]


def evaluate_policy(
    trainer: Any,
    rows: Sequence[Row],
    metric: Metric,
    *,
    temperature: float,
    seed: int = 0,
) -> float:
    """Mean of `metric` over held-out rows.

    Args:
        trainer: a `GRPOTrainer`; every process must call this.
        rows: held-out rows with `prompt` and the columns the metric reads.
        metric: `f(completions, prompts, **columns) -> values`; None (does not apply) is left out of the mean.
        temperature: 0 is greedy.
        seed: of the sampling.

    Returns:
        The mean, the same on every process.

    Raises:
        ValueError: if there are no rows, or the metric applies to none.
    """
    if not rows:
        raise ValueError("there are no held-out rows to evaluate on; raise --eval_rows or give an evaluation split.")
    prompts = [row["prompt"] for row in rows]

    def scores(places: list[int], completions: list[Any]) -> Sequence[float | None]:
        columns = {name: [rows[place][name] for place in places] for name in rows[0] if name != "prompt"}
        return metric(completions=completions, prompts=[prompts[place] for place in places], **columns)

    values = for_each_prompt(trainer, prompts, scores, temperature=temperature, seed=seed)
    scored = [float(value) for value in values if value is not None]
    if not scored:
        raise ValueError(
            f"the metric gave None for all {len(rows)} held-out rows; set --eval_metric to one that applies."
        )
    return sum(scored) / len(scored)


class HeldOut(TrainerCallback):
    """Evaluates the policy when training begins, and whenever asked.

    Args:
        trainer: a `GRPOTrainer`.
        rows: held-out rows.
        metric: the task metric.

    Attributes:
        results: `{"before": {"sampled": ..., "greedy": ...}, ...}`, filled as they become known.
    """

    def __init__(self, trainer: Any, rows: Sequence[Row], metric: Metric):
        self.trainer, self.rows, self.metric = trainer, rows, metric
        self.results: dict[str, dict[str, float]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Accuracy before the first step; a run that goes on from a checkpoint has logged it."""
        if not state.global_step:
            self.evaluate("before")
            return
        logged = {name: value for row in state.log_history for name, value in row.items()}
        self.results["before"] = {
            how: logged.get(f"accuracy/before_{how}", float("nan")) for how in ("sampled", "greedy")
        }

    def evaluate(self, when: str) -> None:
        """Accuracy now, sampled at the training temperature and greedy, into `results` and the log."""
        temperatures = {"sampled": self.trainer.args.temperature, "greedy": 0.0}
        self.results[when] = {
            how: evaluate_policy(self.trainer, self.rows, self.metric, temperature=temperature)
            for how, temperature in temperatures.items()
        }
        self.trainer.log({f"accuracy/{when}_{how}": value for how, value in self.results[when].items()})


def _generate(trainer: Any, model: Any, prompts: Sequence[Any], temperature: float) -> list[Any]:
    tokenizer = trainer.processing_class
    conversations = not isinstance(prompts[0], str)
    render = {"tokenize": False, "add_generation_prompt": True, **trainer.chat_template_kwargs}
    texts = [tokenizer.apply_chat_template(prompt, **render) for prompt in prompts] if conversations else list(prompts)
    inputs = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=not conversations
    ).to(trainer.accelerator.device)
    config = GenerationConfig(
        max_new_tokens=trainer.args.max_completion_length,
        do_sample=temperature > 0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
        **({"temperature": temperature, "top_k": 0} if temperature > 0 else {}),
    )
    # What a call leaves open, generate takes from the model's own defaults (top_p, repetition_penalty, ...): none here.
    own, model.generation_config = model.generation_config, config
    try:
        output = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    finally:
        model.generation_config = own
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].size(1) :], skip_special_tokens=True)
    return [[{"role": "assistant", "content": text}] for text in texts] if conversations else texts


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
