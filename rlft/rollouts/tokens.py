"""What a tokenizer makes of prompts and pads with, as TRL has it. No torch."""

from collections.abc import Mapping
from typing import Any


def prompt_ids(tokenizer: Any, prompt: Any, template_kwargs: Mapping[str, Any]) -> list[int]:
    """Ids of a prompt: of a text as it is, of a conversation as the chat template writes it."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return list(
        tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=False, **template_kwargs
        )
    )


def pad_id_of(tokenizer: Any) -> Any:
    """The id that pads: the tokenizer's own, else its end's."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
