"""A word tokenizer made in memory: words are split at blanks, one token each, and decoding joins them with blanks.

Text of the toy world comes back as it was: `decode(encode(text)) == text`. A word outside the vocabulary becomes
`<|unk|>`; nothing that the world writes does.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlft.tiny.words import CONTROLS, SEARCH_WORDS

PAD, UNK, END, USER, ASSISTANT = CONTROLS

# The generation block tells `return_assistant_tokens_mask` which tokens are the model's: a turn's words and its end.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|a|> {% generation %}"
    "{{ message['content'] }} <|end|>{% endgeneration %}{% else %}<|u|> {{ message['content'] }} <|end|>{% endif %}"
    "{{ ' ' if not loop.last or add_generation_prompt else '' }}{% endfor %}"
    "{% if add_generation_prompt %}<|a|>{% endif %}"
)


def word_tokenizer(words: Sequence[str] = SEARCH_WORDS, template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a vocabulary.

    Args:
        words: the vocabulary, control tokens first; a word's place is its token id.
        template: of conversations; as it comes, it renders `<|u|> text <|end|> <|a|> text <|end|>`.

    Returns:
        A left-padding fast tokenizer; `eos_token` is `<|end|>`.

    Raises:
        ValueError: if a word occurs twice or holds a blank, or the control tokens do not come first.
    """
    if len(set(words)) != len(words) or any(len(word.split()) != 1 for word in words):
        raise ValueError(f"{len(words)} words, {len(set(words))} different: give each word once, without blanks.")
    if tuple(words[: len(CONTROLS)]) != CONTROLS:
        raise ValueError(f"a vocabulary starts with {' '.join(CONTROLS)}, not with {' '.join(words[: len(CONTROLS)])}.")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=template,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
