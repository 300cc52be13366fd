"""A tiny Qwen3 built from a config: 0.35 M parameters, random weights, nothing downloaded."""

import torch
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM


def tiny_model(
    tokenizer: PreTrainedTokenizerBase,
    *,
    hidden: int = 96,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    feed_forward: int | None = None,
    seed: int = 0,
) -> Qwen3ForCausalLM:
    """Build a random Qwen3 with the tokenizer's vocabulary.

    `initializer_range=0.06` is on purpose: at this width the usual 0.02 leaves training stuck for hundreds of steps.

    Args:
        tokenizer: gives the vocabulary size and the pad and end ids.
        hidden: model width, a multiple of twice `heads`.
        layers: number of decoder layers.
        heads: query heads.
        kv_heads: key and value heads, a divisor of `heads`.
        feed_forward: width of the feed-forward layers; 3 x `hidden` if not given.
        seed: seed of the weights.

    Returns:
        The model in fp32 on the CPU.
    """
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=hidden // heads,
            intermediate_size=feed_forward or 3 * hidden,
            max_position_embeddings=512,
            initializer_range=0.06,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
