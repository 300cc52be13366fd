"""Answers of a policy to rows with a profile: prompt, sampling and extraction in one. No torch of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlft.reward_models.pairs import Answers, Ask
from rlft.reward_models.users import Item, Row
from rlft.rollouts.policy import GREEDY, Draw, Generation, Policy, Sampling, seed_of
from rlft.rollouts.tokens import prompt_ids

Prompt = Callable[[Row, Sequence[Item]], Any]
"""A row and the items shown -> a conversation, or a text; `ProfilePrompt(...).messages` is one."""


def policy_answers(
    policy: Policy,
    tokenizer: Any,
    prompt: Prompt,
    extract: Callable[[str], str | None],
    *,
    sampling: Sampling = GREEDY,
    max_new_tokens: int = 768,
    template_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Answers:
    """What `build_pairs` samples with.

    Args:
        policy: what is sampled.
        tokenizer: the policy's. Prompts are tokenised as `GRPOTrainer` does it.
        prompt: the prompt builder of training and evaluation.
        extract: from a completion's text to the answer, None if there is none.
        sampling: greedy by default, as in the paper's code.
        max_new_tokens: cap on a completion, thinking included.
        template_kwargs: settings of the chat template.
        seed: of the run; a draw's own comes of it, the row's id and the ask's name.

    Returns:
        A function from asks to answers.
    """

    def answers(asks: Sequence[Ask]) -> list[str | None]:
        draws = [
            Draw(prompt_ids(tokenizer, prompt(ask.row, ask.items), template_kwargs or {}), _seed(ask), max_new_tokens)
            for ask in asks
        ]
        return [extract(_text(tokenizer, generation)) for generation in policy.generate(draws, sampling)]

    def _seed(ask: Ask) -> int:
        return seed_of(seed, ask.row["id"], ask.name)

    return answers


def _text(tokenizer: Any, generation: Generation) -> str:
    ids = generation.ids[:-1] if generation.stopped else generation.ids
    return str(tokenizer.decode(ids, skip_special_tokens=True))
