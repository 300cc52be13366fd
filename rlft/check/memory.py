"""An estimate of the memory that a run takes on one device, part by part, before anything is loaded.

    weights       P x bytes of the dtype; linear layers x 1/2 in 4 bit, x 1 in 8 bit
    adapter       A x 4 (2 on a quantised base)
    reference     P x bytes again, where beta > 0 and there is no adapter to switch off
    optimiser     states of it for every trainable parameter: AdamW has 2 x 4 bytes
    gradients     trainable parameters x their bytes
    activations   B x T x L x (5H + 2Q + 2K + 4F) x bytes; checkpointed B x T x (L x H + one such layer) x bytes
    logits        min(B x T, 4096) x min(V, 32768) x 4: TRL's fused output head makes them in tiles and never whole
    KV cache      2 x L x K x S x T' x bytes, of S sequences sampled together

P parameters, A of the adapter, B rows of T tokens in one forward, L layers of width H with Q query and K key features
and F feed-forward features, V vocabulary, S sequences of T' tokens. Sampling and learning take turns: the peak is what
always stays (weights, adapter, reference, optimiser) plus the larger of the KV cache and learning's three. Attention
is taken to be fused; nothing is sharded. The allocator's own share, 10 to 20 %, comes on top.
"""

from dataclasses import dataclass

from rlft.check.size import Size

TILE_TOKENS, TILE_VOCABULARY = 4096, 32_768
"""The tile in which TRL's fused head makes logits (trl.kernels.chunked_logprob, trl.trainer.utils)."""
_STATES = {"adamw_8bit": 2, "paged_adamw_8bit": 2, "adamw_bnb_8bit": 2, "paged_adamw": 8, "adafactor": 0, "sgd": 0}
"""Bytes of optimiser state a parameter; every other one is counted like AdamW."""
KNOBS = {
    "weights": "--dtype bfloat16, --load_in_4bit true, or a smaller model",
    "adapter": "a smaller --lora_r",
    "reference": "--beta 0, or an adapter (--use_peft true), which needs no copy of the model",
    "optimiser": "--use_peft true, --optim adamw_8bit, or FSDP over more devices",
    "gradients": "--use_peft true, or FSDP over more devices",
    "activations": "--gradient_checkpointing true, or a smaller --per_device_train_batch_size with more "
    "--gradient_accumulation_steps",
    "logits": "a smaller --per_device_train_batch_size with more --gradient_accumulation_steps",
    "KV cache": "fewer sequences at once (--steps_per_generation, --sampler_batch_size), shorter ones, or vLLM",
}


@dataclass(frozen=True)
class Load:
    """What one device works on at once."""

    rows: int
    """B, in one forward and backward."""
    tokens: int
    """T, the longest row."""
    sampled: int
    """S, sequences sampled together; 0 where another engine samples."""
    sampled_tokens: int
    """T', the longest of them."""
    weight_bytes: int
    """Of one parameter of the base."""
    compute_bytes: int
    """Of one activation."""
    optimiser: str = "adamw_torch"
    quantised: float | None = None
    """Bytes of a parameter in a quantised linear layer."""
    checkpointing: bool = False
    reference: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes by part."""

    always: dict[str, int]
    learning: dict[str, int]
    sampling: dict[str, int]

    @property
    def peak(self) -> int:
        """What stays, and the larger of the two phases."""
        return sum(self.always.values()) + max(sum(self.learning.values()), sum(self.sampling.values()))

    def largest(self) -> str:
        """The largest part of the peak."""
        phase = max(self.learning, self.sampling, key=lambda parts: sum(parts.values()))
        parts = self.always | phase
        return max(parts, key=lambda name: parts[name])


def memory_of(size: Size, load: Load) -> Memory:
    """Estimate a run's memory; the module's docstring has the formulas."""
    small = size.quantised if load.quantised is not None else 0
    adapter_bytes = 4 if load.quantised is None else 2
    trainable_bytes = adapter_bytes if size.adapter else load.weight_bytes
    weights = (size.parameters - small) * load.weight_bytes + int(small * (load.quantised or 0))
    always = {
        "weights": weights,
        "adapter": size.adapter * adapter_bytes,
        "reference": weights if load.reference and not size.adapter else 0,
        "optimiser": size.trainable * _STATES.get(load.optimiser, 2 * trainable_bytes),
    }
    learning = {
        "gradients": size.trainable * trainable_bytes,
        "activations": activation_bytes(size, load),
        "logits": min(load.rows * load.tokens, TILE_TOKENS) * min(size.vocabulary, TILE_VOCABULARY) * 4,
    }
    cache = cache_bytes(size, load.sampled, load.sampled_tokens, load.compute_bytes)
    return Memory(_present(always), learning, {"KV cache": cache})


def activation_bytes(size: Size, load: Load) -> int:
    """Of what a forward keeps for its backward."""
    layer = 5 * size.hidden + 2 * size.queries + 2 * size.keys + 4 * size.feed_forward
    kept = size.layers * size.hidden + layer if load.checkpointing else size.layers * layer
    return load.rows * load.tokens * kept * load.compute_bytes


def cache_bytes(size: Size, sequences: int, tokens: int, each: int) -> int:
    """Of the keys and values of so many sequences."""
    return 2 * size.layers * size.keys * sequences * tokens * each


def logits_bytes(size: Size, rows: int, tokens: int, each: int) -> int:
    """Of logits (B, T, V) made whole."""
    return rows * tokens * size.vocabulary * each


def _present(parts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in parts.items() if count}
