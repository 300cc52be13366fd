"""Completions of a model on disk for rows with a `prompt`, several samples each, without a trainer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlft.rollouts.policy import Draw, Policy, Sampling, seed_of
from rlft.rollouts.tokens import prompt_ids
from rlft.rollouts.transformers_policy import policy_of


@dataclass(frozen=True)
class Asking:
    """How prompts are put to a model, and how it answers."""

    max_new_tokens: int = 512
    temperature: float = 1.0
    """Of the samples."""
    samples: int = 1
    """For each row, beside the greedy completion; 0 for none."""
    batch_size: int = 64
    seed: int = 0
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Of the chat template, such as `{"enable_thinking": False}`."""

    def __post_init__(self) -> None:
        if self.samples < 0 or self.max_new_tokens < 1 or self.temperature <= 0:
            raise ValueError(
                f"samples={self.samples}, max_new_tokens={self.max_new_tokens}, temperature={self.temperature}: the "
                "samples must be 0 or more, the tokens 1 or more, and the temperature above 0 (--samples 0 is greedy "
                "alone)."
            )


@dataclass(frozen=True)
class Answer:
    """One completion."""

    text: str
    stopped: bool
    """False if `max_new_tokens` cut it."""


def ask(model: Any, tokenizer: Any, prompts: Sequence[Any], asking: Asking) -> dict[str, list[list[Answer]]]:
    """Completions of every prompt.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompts: texts, which are tokenised as they are, or conversations, which the chat template renders.
        asking: how.

    Returns:
        `greedy`: one completion a prompt; `sampled`: `asking.samples` of them, left out where that is 0.

    Raises:
        ValueError: for a prompt that is too long for the model, or a conversation without a chat template.
    """
    policy = policy_of(model, tokenizer, asking.batch_size)
    ids = [prompt_ids(tokenizer, prompt, asking.template_kwargs) for prompt in prompts]
    found = {"greedy": _sampled(policy, tokenizer, ids, asking, Sampling(temperature=0.0), 1)}
    if asking.samples:
        sampling = Sampling(temperature=asking.temperature)
        found["sampled"] = _sampled(policy, tokenizer, ids, asking, sampling, asking.samples)
    return found


def _sampled(
    policy: Policy,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    asking: Asking,
    sampling: Sampling,
    samples: int,
) -> list[list[Answer]]:
    draws = [
        Draw(ids, seed_of(asking.seed, row, sample), asking.max_new_tokens)
        for row, ids in enumerate(prompts)
        for sample in range(samples)
    ]
    answers = [
        Answer(tokenizer.decode(one.ids, skip_special_tokens=True), one.stopped)
        for one in policy.generate(draws, sampling)
    ]
    return [answers[start : start + samples] for start in range(0, len(answers), samples)]
