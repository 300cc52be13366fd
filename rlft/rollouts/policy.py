"""How text is sampled: what a rollout asks (`Draw`, `Sampling`) and what a sampler answers (`Generation`).

A policy works on token ids and on many prompts at once. Every draw carries a seed of its own, so that what is sampled
depends on the weights, the prompt and the seed, and not on what else was in the batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Sampling:
    """The distribution that is sampled from. The defaults are the model's own: p(z | x) undistorted."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    repetition_penalty: float = 1.0
    """Logits of ids that stand in the prompt or in what was written are divided by it where positive, multiplied where
    negative (CTRL, arXiv 1909.05858, section 4.1). 1 leaves them as they are."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.repetition_penalty <= 0:
            raise ValueError(
                f"{self}: temperature must be >= 0 (0 is greedy), top_p in (0, 1], top_k >= 0 (0 keeps all), "
                "repetition_penalty > 0 (1 is none)."
            )


GREEDY = Sampling(temperature=0.0)


class Grammar(Protocol):
    """Which texts a draw may give, token by token."""

    def allowed(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids that may come next.

        Args:
            ids: of the draw so far, all of them allowed when they were chosen, up to where the text is over.

        Returns:
            None of them twice; empty where the text is over: nothing that follows belongs to it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Draw:
    """One generation that is wanted."""

    prompt_ids: list[int]
    seed: int
    max_new_tokens: int
    grammar: Grammar | None = None
    """Sample among the ids that it allows alone; None to sample among all. Draws may share one."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What a policy wrote for one draw."""

    ids: list[int]
    """Up to and including the stop token, if one was reached. Never a padding token."""
    logprobs: list[float]
    """Per id, of log_softmax(logits / temperature) before the repetition penalty, top-p and top-k (at temperature 1
    when greedy). Under a grammar the softmax is over the ids it allows at that place: the logits of all others count as
    minus infinity."""
    stopped: bool
    """True if a stop token ended it, False if `max_new_tokens` did."""


class Policy(Protocol):
    """Anything that continues token ids."""

    def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
        """One generation per draw, in order; the same draw gives the same generation in any company."""
        ...


def seed_of(*parts: object) -> int:
    """A 63-bit seed from what names a draw, such as (run seed, round, question id, sample, turn)."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
