"""Small causal LMs with random weights whose attention is far from uniform."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

VOCABULARY, WINDOW = 97, 7
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_EXPERTS = {"num_experts_per_tok": 1, "moe_intermediate_size": 16}

STREAMED: dict[str, Any] = {
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=8),
    "llama": lambda: LlamaConfig(**_GROUPED),
    "gpt_neox": lambda: GPTNeoXConfig(**_SIZES),
    "gpt2": lambda: _gpt2(),
    "gpt2_scaled_by_layer": lambda: _gpt2(scale_attn_by_inverse_layer_idx=True),
    "opt": lambda: _opt(),
    "mistral_window": lambda: MistralConfig(**_GROUPED, sliding_window=WINDOW),
    "qwen2_window_in_some_layers": lambda: Qwen2Config(
        **_GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
}
EAGER_ONLY: dict[str, Any] = {
    "gemma2": lambda: Gemma2Config(**_GROUPED, head_dim=8, sliding_window=WINDOW),
    "gpt_oss": lambda: GptOssConfig(
        **_GROUPED, head_dim=8, sliding_window=WINDOW, num_local_experts=2, num_experts_per_tok=1
    ),
    "qwen3_next": lambda: Qwen3NextConfig(
        **_GROUPED | {"num_hidden_layers": 4},
        **_EXPERTS,
        head_dim=8,
        num_experts=2,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
}


def model_of(config: Any) -> Any:
    """A model in fp32 on the CPU, in evaluation mode."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def mamba() -> Any:
    """No attention at all."""
    return model_of(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2))


def ids_of(texts: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Random ids (B, T)."""
    return torch.randint(1, VOCABULARY, (texts, tokens), generator=torch.Generator().manual_seed(seed))


def _gpt2(**options: Any) -> GPT2Config:
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
    return GPT2Config(**sizes, initializer_range=0.3, **options)


def _opt() -> OPTConfig:
    return OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=128,
        init_std=0.3,
    )
