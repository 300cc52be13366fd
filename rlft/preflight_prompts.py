"""Checks of a tokenizer and of prompts, made before a model is loaded.

A prompt is never cut. One that leaves no room for a completion is refused, named and counted, before anything starts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlft.preflight import PreflightError

_OF_TEMPLATE = 256
"""More bytes than a template adds to a message; only bounds which prompts have to be tokenised."""


def check_tokenizer(tokenizer: Any, name: str) -> str | None:
    """Refuse a tokenizer that cannot end a completion.

    Args:
        tokenizer: of the model.
        name: of the model, for messages.

    Returns:
        A warning if it has no token of its own for padding, else None.

    Raises:
        PreflightError: if it has no end token, or its padding token is not in the vocabulary of the model.
    """
    save = "save both with tokenizer.save_pretrained(FOLDER) and model.save_pretrained(FOLDER), and give FOLDER as"
    if tokenizer.eos_token_id is None:
        lacks = "neither an end token nor a pad token" if tokenizer.pad_token_id is None else "no end token"
        raise PreflightError(
            f"the tokenizer of {name} has {lacks}, so no completion could end and no batch be padded: set "
            f"tokenizer.eos_token and tokenizer.pad_token to tokens of its vocabulary, {save} --model_name_or_path."
        )
    if tokenizer.pad_token_id is None:
        return (
            f"the tokenizer of {name} has no pad token. Its end token {tokenizer.eos_token!r} pads, which is safe: "
            "what is learnt is told by lengths, never by token values, so ends are still learnt. For another one set "
            f"tokenizer.pad_token, {save} --model_name_or_path."
        )
    return None


def stop_ids(tokenizer: Any, generation_config: Any) -> dict[int, list[str]]:
    """Tokens at which a completion ends, each with who says so: the tokenizer, the generation configuration, or both.

    Args:
        tokenizer: of the model.
        generation_config: of the model; None where it has none.

    Returns:
        token id -> names of those that hold it.
    """
    own = getattr(generation_config, "eos_token_id", None)
    listed = [] if own is None else [own] if isinstance(own, int) else list(own)
    found: dict[int, list[str]] = {}
    for name, ids in (("tokenizer", [tokenizer.eos_token_id]), ("generation config", listed)):
        for token in ids:
            if token is not None:
                found.setdefault(token, []).append(name)
    return found


def positions_of(config: Any) -> int | None:
    """Longest sequence that a model was made for; None if its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def prompt_lengths(prompts: Sequence[Any], tokenizer: Any, template_kwargs: Mapping[str, Any] | None) -> list[int]:
    """Tokens of each prompt, as TRL tokenises it.

    Args:
        prompts: texts, or conversations.
        tokenizer: with a chat template if they are conversations.
        template_kwargs: settings of the chat template.

    Raises:
        PreflightError: for conversations without a chat template.
    """
    texts, added = list(prompts), True
    if prompts and not isinstance(prompts[0], str):
        if not tokenizer.chat_template:
            raise PreflightError(
                "prompts are conversations and the tokenizer has no chat template to write them with: take an "
                "instruction-tuned model, set tokenizer.chat_template, or leave --system_prompt out and give texts."
            )
        render = {"tokenize": False, "add_generation_prompt": True, **(template_kwargs or {})}
        texts, added = [tokenizer.apply_chat_template(prompt, **render) for prompt in prompts], False
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=added)["input_ids"]] if texts else []


def check_prompts(
    prompts: Sequence[Any],
    tokenizer: Any,
    positions: int | None,
    longest_completion: int,
    template_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Refuse prompts that leave no room for the longest completion. Only prompts that may be too long are tokenised.

    Args:
        prompts: N texts or conversations.
        tokenizer: of the model.
        positions: longest sequence of the model; None lets all pass.
        longest_completion: tokens.
        template_kwargs: settings of the chat template.

    Raises:
        PreflightError: with the number of them, the longest and its row; or as `prompt_lengths`.
    """
    prompt_lengths(prompts[:1], tokenizer, template_kwargs)
    if positions is None:
        return
    room = positions - longest_completion
    if room < 1:
        raise PreflightError(
            f"--max_completion_length {longest_completion} leaves no room for a prompt: the model has {positions} "
            "positions. Lower it."
        )
    suspects = [place for place, prompt in enumerate(prompts) if _bytes_of(prompt) > room]
    lengths = prompt_lengths([prompts[place] for place in suspects], tokenizer, template_kwargs)
    over = [(length, place) for length, place in zip(lengths, suspects, strict=True) if length > room]
    if over:
        length, place = max(over)
        raise PreflightError(
            f"{len(over)} of {len(prompts)} prompts are too long: the model has {positions} positions, less "
            f"--max_completion_length {longest_completion} leaves {room} for a prompt, and row {place} has {length}. "
            "Prompts are never cut: leave these rows out, or lower --max_completion_length."
        )


def _bytes_of(prompt: Any) -> int:
    """At least as many as the prompt's tokens: a token of a text covers a byte of it or more."""
    if isinstance(prompt, str):
        return len(prompt.encode()) + 1
    return sum(len(text.encode()) + _OF_TEMPLATE for text in _contents(prompt)) + 8 * _OF_TEMPLATE


def _contents(conversation: Iterable[Mapping[str, Any]]) -> list[str]:
    return [str(message.get("content") or "") for message in conversation]
