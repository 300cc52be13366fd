"""Tokenizers with the chat templates that are met in the field, and a tiny random model."""

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.search_text import MARKERS
from rlft.tiny.tokenizer import char_tokenizer
from rlft.tiny.word_tokenizer import word_tokenizer

QWEN = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen, a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role == 'user' or message.role == 'assistant' %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\n' + system }}"
    "{{- '<|eot_id|>' }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "qwen": (QWEN, ["<|im_start|>", "<|im_end|>"], {"eos_token": "<|im_end|>"}),
    "llama": (
        LLAMA,
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"],
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    ),
    "mistral": (MISTRAL, ["<s>", "</s>", "[INST]", "[/INST]"], {"bos_token": "<s>", "eos_token": "</s>"}),
    "mistral-plain": (MISTRAL, ["<s>", "</s>"], {"bos_token": "<s>", "eos_token": "</s>"}),
}


def with_template(
    tokenizer: PreTrainedTokenizerFast, template: str, special: Sequence[str], named: dict[str, str]
) -> PreTrainedTokenizerFast:
    """`tokenizer` with a template's special tokens; one with a beginning of sequence puts it before every text."""
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(token, special=True) for token in special]})
    tokenizer.add_special_tokens(named)
    tokenizer.chat_template = template
    if bos := named.get("bos_token"):
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
        )
        assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def char_with(name: str) -> PreTrainedTokenizerFast:
    """The character tokenizer with the chat template of that name."""
    return with_template(char_tokenizer(), *TEMPLATES[name])


@pytest.fixture(params=[*TEMPLATES, "tiny"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return char_tokenizer() if request.param == "tiny" else char_with(request.param)


@pytest.fixture(scope="session")
def words() -> Any:
    return word_tokenizer()


@pytest.fixture(scope="session")
def chars() -> Any:
    return char_tokenizer()


@pytest.fixture(scope="session")
def frame(chars: Any) -> ChatFrame:
    """Characters, the tiny template, and the markers of the search loop."""
    return ChatFrame(chars, markers=MARKERS)
