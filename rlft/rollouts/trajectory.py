"""What a rollout leaves: a prompt, and after it segments of token ids, each the model's or the environment's.

Tokens in, tokens out: the ids of a segment are those that were sampled or fed. Model text is decoded for parsing and
for people, never tokenised a second time, so the ids of the segments in order are exactly what training sees.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class FinishReason(StrEnum):
    """Why a trajectory ended."""

    STOP = "stop"
    """The model ended it."""
    HOPS = "hops"
    """No further search was possible, by the cap on searches or for want of room; the answer was asked for."""
    REPEAT = "repeat"
    """The model asked a query that it had asked before; the answer was asked for."""
    MALFORMED = "malformed"
    """A turn held no action that could be read; the answer was asked for."""
    LENGTH = "length"
    """A token cap cut it before its answer: it can be neither scored nor trained on."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens by one author."""

    ids: list[int]
    trainable: bool
    """True for what the model wrote (and for a gold answer put in its place); False for the environment's text."""
    label: str
    """What it is: `act`, `search`, `request`, `answer`, ..."""
    logprobs: list[float] | None = None
    """Log-probability of each id under the distribution it was sampled from, before top-p and top-k; None if fed."""

    def __post_init__(self) -> None:
        if self.logprobs is not None and len(self.logprobs) != len(self.ids):
            raise ValueError(f"segment {self.label!r}: {len(self.logprobs)} log-probs for {len(self.ids)} tokens.")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One rollout of one prompt."""

    prompt_ids: list[int]
    segments: list[Segment]
    finish: FinishReason
    fields: dict[str, Any] = field(default_factory=dict)
    """JSON-able facts for metrics and people: `queries`, `passage_ids`, `facts`, `answer`, ..."""
    branches: list["Trajectory"] = field(default_factory=list)
    """Calls of the model outside the main conversation (a choice among passages); they ride on its weight."""

    @property
    def completion_ids(self) -> list[int]:
        """Everything after the prompt."""
        return [token for segment in self.segments for token in segment.ids]

    @property
    def trainable_mask(self) -> list[int]:
        """1 on the completion's trainable tokens, 0 on the environment's."""
        return [int(segment.trainable) for segment in self.segments for _ in segment.ids]

    @property
    def logprobs(self) -> list[float]:
        """Log-probability per completion token; 0.0 where the token was fed."""
        return [value for segment in self.segments for value in segment.logprobs or [0.0] * len(segment.ids)]
