"""A toy of personal style: users have a marker word, and an answer of theirs begins with it. Tiny backbones for it."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, Qwen3ForSequenceClassification

from rlft.reward_models.pair_file import Pair
from rlft.reward_models.spec import ScorerSpec
from rlft.reward_models.training import scorer_config
from rlft.tiny.model import tiny_model
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.words import CONTROLS

MARKERS, BODY = ("m0", "m1", "m2", "m3"), ("x", "y", "z", "it's", "{", "}")
WORDS = (*MARKERS, "plain", *BODY, "ask", "about", "|", "a", "b")


def item(text: str, target: str | None = None, date: str | None = None) -> dict[str, Any]:
    return {"id": "0", "text": text, "target": target, "date": date}


def make_pairs(count: int, seed: int = 0, kinds: Sequence[str] = ("none", "swap")) -> list[Pair]:
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        own, other = draw.sample(MARKERS, 2)
        body = draw.choice("xyz")
        rejected = [f"{ {'none': 'plain', 'swap': other, 'corrupt': other}[kind] } {body}" for kind in kinds]
        profile = [item(f"{own} {draw.choice('xyz')}")]
        pairs.append(Pair(f"{seed}-{number}", own, "ask about x", profile, f"{own} {body}", rejected, list(kinds)))
    return pairs


def decoder(labels: int = 1) -> tuple[Any, Any]:
    """A tiny Qwen3 that scores its last token, and its tokenizer, which pads on the left as a policy's does."""
    tokenizer = word_tokenizer([*CONTROLS, *WORDS])
    body = tiny_model(tokenizer, hidden=32, layers=2)
    body.config.num_labels = labels
    return Qwen3ForSequenceClassification(body.config).eval(), tokenizer


def encoder() -> tuple[Any, Any]:
    """A tiny BERT and its tokenizer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,
        num_labels=1,
    )
    return BertForSequenceClassification(config).eval(), tokenizer


BACKBONES = {"encoder": encoder, "decoder": decoder}


def spec(form: str = "aware", **settings: Any) -> ScorerSpec:
    return ScorerSpec(form, "toy", **({"max_length": 32} | settings))


def config(folder: Path, **settings: Any) -> Any:
    """Quick and silent training on the CPU."""
    quick = {"use_cpu": True, "disable_tqdm": True, "logging_strategy": "no", "learning_rate": 3e-3}
    return scorer_config(folder, **(quick | settings))
