"""What every sampling backend does before and after it samples: refuse bad draws, cut at the stop token."""

from collections.abc import Sequence, Set
from typing import Literal

from rlft.rollouts.policy import Draw, Generation, Sampling

ENGINE_MIN_TEMPERATURE = 0.01
"""vLLM's smallest; below it vLLM samples at this one, and other engines greedily."""

LogprobsAre = Literal["raw", "scaled", "processed"]
"""What an engine's log-probabilities are of: the logits before temperature, after temperature and before penalty, top-p
and top-k (what `Generation` promises), or after all."""


def check_draws(draws: Sequence[Draw], *, vocab_size: int | None = None, max_length: int | None = None) -> None:
    """Refuse draws that the model cannot continue, before anything is sampled.

    Args:
        draws: what is wanted.
        vocab_size: number of token ids that the model knows; None where only the server knows.
        max_length: tokens of prompt and continuation together that it has positions for; None for no limit.

    Raises:
        ValueError: for an empty prompt, a `max_new_tokens` below 1, a continuation that would run past the model's
            positions, or an id outside the vocabulary; the message names the draw.
    """
    for index, draw in enumerate(draws):
        length, cap = len(draw.prompt_ids), draw.max_new_tokens
        if length == 0:
            raise ValueError(f"draw {index} has a prompt without tokens; a model needs at least one to continue.")
        if cap < 1:
            raise ValueError(f"draw {index} has max_new_tokens={cap}; it must be at least 1.")
        if max_length is not None and length + cap > max_length:
            raise ValueError(
                f"draw {index}: {length} prompt tokens and max_new_tokens={cap} make {length + cap}, and the model "
                f"has positions for {max_length}; lower max_new_tokens, or shorten the prompt (fewer or shorter "
                "passages, fewer turns)."
            )
        if vocab_size is not None and not 0 <= min(draw.prompt_ids) <= max(draw.prompt_ids) < vocab_size:
            raise ValueError(
                f"draw {index} has token ids from {min(draw.prompt_ids)} to {max(draw.prompt_ids)}, and the model "
                f"knows 0 to {vocab_size - 1}; use the tokenizer that belongs to the model, or resize its embeddings."
            )


def refuse_grammars(draws: Sequence[Draw], policy: object) -> None:
    """Refuse draws under a grammar, for a sampler whose engine does not ask anybody which ids may come next.

    Raises:
        ValueError: naming the option that asks for it and the sampler that can.
    """
    index = next((index for index, draw in enumerate(draws) if draw.grammar is not None), None)
    if index is not None:
        raise ValueError(
            f"draw {index} is held to a grammar (constrained=True), and {type(policy).__name__} cannot keep to one; "
            "set constrained=False, or sample with TransformersPolicy (sampler=transformers)."
        )


def check_logprobs(sampling: Sampling, given: LogprobsAre) -> None:
    """Refuse a sampling for which an engine's log-probabilities are not those that `Generation` promises.

    Args:
        sampling: what is asked for.
        given: what the engine's numbers are of.

    Raises:
        ValueError: naming the two that do not fit together, or a temperature that engines change silently.
    """
    temperature = sampling.temperature
    if 0 < temperature < ENGINE_MIN_TEMPERATURE:
        raise ValueError(
            f"temperature={temperature}; engines turn one below {ENGINE_MIN_TEMPERATURE} into another without a word. "
            f"Use 0 for greedy, or at least {ENGINE_MIN_TEMPERATURE}."
        )
    if given == "raw" and temperature not in (0.0, 1.0):
        raise ValueError(
            f"temperature={temperature}, and this engine gives log-probabilities before temperature; sample at "
            "temperature 0 or 1, or start vLLM with logprobs_mode=processed_logprobs."
        )
    if given == "processed" and sampling.repetition_penalty != 1:
        raise ValueError(
            f"repetition_penalty={sampling.repetition_penalty}, and this engine gives log-probabilities after it; "
            "sample with repetition_penalty=1, or with a vLLM that was started with logprobs_mode=raw_logprobs."
        )
    if given == "processed" and temperature > 0 and (sampling.top_p < 1 or sampling.top_k > 0):
        raise ValueError(
            f"top_p={sampling.top_p}, top_k={sampling.top_k}, and this engine gives log-probabilities after top-p and "
            "top-k; sample with top_p=1 and top_k=0, or at temperature 1 with a vLLM that was started with "
            "logprobs_mode=raw_logprobs."
        )


def generation_of(draw: Draw, ids: list[int], logprobs: list[float], stop_ids: Set[int]) -> Generation:
    """Cut what an engine wrote at the first stop token and at the draw's cap.

    Args:
        draw: what was asked for.
        ids: at least the ids of the continuation; anything may follow.
        logprobs: one per id.
        stop_ids: ids that end a continuation.

    Returns:
        The generation, its stop token included.

    Raises:
        RuntimeError: if the engine ended it neither at a stop token nor at the cap.
    """
    if len(ids) != len(logprobs):
        raise RuntimeError(f"the engine gave {len(logprobs)} log-probabilities for {len(ids)} tokens.")
    cap = draw.max_new_tokens
    end = next((index + 1 for index, token in enumerate(ids[:cap]) if token in stop_ids), None)
    if end is None and len(ids) < cap:
        raise RuntimeError(
            f"the engine ended a continuation after {len(ids)} of {cap} tokens, at {ids[-1:]}, which is none of the "
            f"stop ids {sorted(stop_ids)}: give the policy every id that ends a continuation there, and an engine "
            "whose context holds prompt and continuation."
        )
    return Generation(ids[: end or cap], logprobs[: end or cap], stopped=end is not None)
