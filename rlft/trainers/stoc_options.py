"""The knobs of STOC, as the part of `STOCConfig` that imports no torch (so that `--help` answers at once)."""

from dataclasses import dataclass
from importlib.util import find_spec

from rlft.em.options import option
from rlft.replay.filters import ReplayFilter
from rlft.replay.mixing import SHORT
from rlft.replay.scores import ATTENTION_SCORERS, SCORERS
from rlft.replay.seeds import RANKINGS
from rlft.rollouts.drawing import check_logprobs
from rlft.rollouts.policy import Sampling

REPLAY = ("self", "real", "none")
ANCHORS = ("none", "ewc", "l2")
WEIGHTINGS = ("mean", "value")
SAMPLERS = ("transformers", "continuous", "vllm")


@dataclass
class STOCOptions:
    """Where replay comes from, how it is written, sorted out and mixed, and what else holds old knowledge.

    Defaults are those of the paper's code on real data (arXiv 2605.10640) where it states them; each field's help says
    what it is.
    """

    alpha: float = option(0.8, "Share of NEW tokens in training; 1 - alpha is replay.")
    replay: str = option("self", "self (the model writes it, STOC), real (rows of the old data), or none.")
    short: str = option("error", "Too little replay for alpha: error, less (a smaller share), or repeat (items again).")

    scorer: str = option(
        "released", "Chooses seeds: released (the paper's code), fair, sinkless; prefix, random, bos as controls."
    )
    seeds_per_sample: int = option(3, "Seeds of a sample (K), from its first max_length tokens.")
    seed_width: int = option(10, "Tokens of a seed (w); the paper's synthetic setting has 3.")
    seed_rank: str = option("window", "A seed ranks by all its tokens (window), or by its first (token, as with w=3).")
    seed_samples: int = option(0, "Samples of the new data that give seeds, the first ones; 0: all.")
    attention_weighting: str = option("mean", "Attention as it is (mean), or times the size of what it moves (value).")
    eager_attention: bool = option(
        False, "Read attention from eager maps: for models whose kernels the streaming path does not know."
    )

    replay_samples: int = option(3, "Continuations of a seed (m).")
    replay_pool: float = option(
        0.0, "Write until there are this many times the replay tokens wanted; 0 writes all K x m."
    )
    replay_breadth: int = option(
        1, "Passes over the new data that one body of replay lasts: so many times the items, each read less often."
    )
    replay_max_length: int = option(256, "Tokens of a replay item, its seed included.")
    replay_temperature: float = option(1.0, "Temperature of continuations; 1 is the model itself.")
    replay_top_p: float = option(1.0, "Nucleus sampling of continuations; 1 is the model itself.")
    replay_repetition_penalty: float = option(1.05, "Repetition penalty of continuations; 1 is none.")
    stop_at_end: bool = option(True, "An item ends with its sample; false writes on, as the paper's synthetic setting.")
    keep_seeded_sample: bool = option(
        True, "False drops the sample that a seed began and keeps the ones after it; needs stop_at_end false."
    )
    sampler: str = option("transformers", "Writes the replay: transformers, continuous (CUDA), or vllm (in process).")
    sampler_batch_size: int = option(64, "Items in one batch of transformers.")
    sampler_memory: float = option(0.3, "With sampler=vllm: share of the GPU's memory for its engine.")
    shard_items: int = option(256, "Items in a shard, the unit in which killed writing goes on.")

    minhash_threshold: float | None = option(0.8, "Drop one of two items of this Jaccard index of 5-grams; null: off.")
    max_repetition: float | None = option(0.5, "Drop items with a larger share of repeated 4-grams; null: off.")
    max_overlap: float | None = option(None, "Drop items with a larger share of 8-grams of the new text; null: off.")
    min_perplexity: float | None = option(None, "Drop items that the model finds likelier than this; null: off.")
    max_perplexity: float | None = option(None, "Drop items that the model finds less likely than this; null: off.")
    drop_new_subjects: bool = option(
        False, "Drop items that name a new row's subject: what the model says of it is invented."
    )

    learn_after_end: bool = option(True, "Learn the first token of each sample; the released code does not.")
    freeze_layers: int = option(0, "Lower layers that are frozen, the embeddings with them.")
    anchor: str = option("none", "Pull weights to where they were: ewc (needs old data), l2, or none.")
    anchor_strength: float = option(0.0, "Weight of that penalty; rlft.replay.anchor says in what unit.")
    fisher_blocks: int = option(256, "Blocks of old data that EWC measures the importance of weights on.")

    def check_stoc(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: naming the option, its value and its rule.
        """
        for name, allowed in (
            ("replay", REPLAY),
            ("short", SHORT),
            ("scorer", SCORERS),
            ("seed_rank", RANKINGS),
            ("attention_weighting", WEIGHTINGS),
            ("sampler", SAMPLERS),
            ("anchor", ANCHORS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(allowed)}.")
        self._check_numbers()
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} is the share of NEW tokens and must be in (0, 1]; 1 takes no replay.")
        if (self.replay == "none") != (self.alpha == 1):
            raise ValueError(
                f"replay={self.replay!r} with alpha={self.alpha}: without replay every token is new, so set alpha=1; "
                "with it alpha is below 1."
            )
        if (self.anchor != "none") != (self.anchor_strength > 0):
            raise ValueError(f"anchor={self.anchor!r} with anchor_strength={self.anchor_strength}: give both or none.")
        if self.stop_at_end and not self.keep_seeded_sample:
            raise ValueError("keep_seeded_sample=false leaves nothing of an item that ends with it; stop_at_end=false.")
        if self.eager_attention and self.attention_weighting == "value":
            raise ValueError("attention_weighting='value' reads values, which eager maps do not hold; choose one.")
        self._check_sampler()
        self.filter()

    def _check_numbers(self) -> None:
        for name, least in (
            ("seeds_per_sample", 1),
            ("seed_width", 1),
            ("seed_samples", 0),
            ("replay_samples", 1),
            ("replay_breadth", 1),
            ("replay_pool", 0),
            ("replay_max_length", 2),
            ("sampler_batch_size", 1),
            ("shard_items", 1),
            ("freeze_layers", 0),
            ("anchor_strength", 0),
            ("fisher_blocks", 1),
        ):
            if not getattr(self, name) >= least:  # nor nan
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if not self.replay_temperature > 0:
            raise ValueError(
                f"replay_temperature={self.replay_temperature} writes one item m times; it must be above 0."
            )
        if 0 < self.replay_pool < 1:
            raise ValueError(f"replay_pool={self.replay_pool} writes less than is wanted; give 0 (all) or at least 1.")

    def _check_sampler(self) -> None:
        if self.sampler == "continuous":
            check_logprobs(self.sampling(), "processed")
        if self.sampler == "vllm" and find_spec("vllm") is None:
            raise ValueError("sampler='vllm' and vllm is not installed: pip install 'rlft[vllm]'.")
        if not 0 < self.sampler_memory < 1:
            raise ValueError(f"sampler_memory={self.sampler_memory} must be between 0 and 1.")

    @property
    def needs_old(self) -> bool:
        """Whether old data is read."""
        return self.replay == "real" or self.anchor == "ewc"

    @property
    def reads_attention(self) -> bool:
        """Whether seeds are chosen by attention."""
        return self.replay == "self" and self.scorer in ATTENTION_SCORERS

    def sampling(self) -> Sampling:
        """The distribution that replay is drawn from.

        Raises:
            ValueError: for values out of their range.
        """
        return Sampling(self.replay_temperature, self.replay_top_p, repetition_penalty=self.replay_repetition_penalty)

    def filter(self) -> ReplayFilter:
        """What sorts out replay.

        Raises:
            ValueError: for a threshold out of its range.
        """
        low, high = self.min_perplexity, self.max_perplexity
        band = None if low is None and high is None else (low or 0.0, float("inf") if high is None else high)
        return ReplayFilter(
            minhash_threshold=self.minhash_threshold,
            max_repetition=self.max_repetition,
            max_overlap=self.max_overlap,
            perplexity=band,
        )
