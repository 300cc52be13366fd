"""A character tokenizer made in memory: one token a printable character, one a marker tag.

Characters keep a tiny model honest (no token hides a digit), and one token per marker keeps completions short.
Markers such as `<think>` are *not* special tokens, so that decoding with `skip_special_tokens=True`, as TRL does
before it calls a reward, leaves them in the text.
"""

import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNK, START, END = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
MARKERS = ("<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>")
CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " \n"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def char_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: 97 characters, 6 markers, pad, unknown, and the two chat control tokens.

    Returns:
        A left-padding fast tokenizer with a chat template; `eos_token` is `<|im_end|>`.
    """
    vocabulary = [PAD, UNK, START, END, *CHARACTERS]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
