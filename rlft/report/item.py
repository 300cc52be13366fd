"""What the page shows of a rollout, whichever method sampled it."""

from collections.abc import Sequence
from dataclasses import dataclass

PROMPT, TRAINED, ENVIRONMENT, MASKED, LEFT_OUT = "prompt", "trained", "environment", "masked", "left out"
MOST_TOKENS, MOST_CHARACTERS = 6000, 200
"""Of one rollout, and of one of its tokens; the middle of what is longer is left out, which the page says."""
_PIECE = 100


@dataclass(frozen=True)
class Part:
    """A run of tokens with one role.

    Attributes:
        role: `prompt`, `trained`, `environment` (written by a tool or a search), `masked` (the model's own, left out of
            the loss), or `left out` of the page.
        label: what it is in its method's words, such as `search`; may be empty.
        texts: T token texts.
        weights: T credit weights; None where the method gives none to tokens.
    """

    role: str
    label: str
    texts: Sequence[str]
    weights: Sequence[float] | None = None


@dataclass(frozen=True)
class Item:
    """One rollout.

    Attributes:
        facts: (label, value) in the order in which they are read: rewards, weight, how it ended.
        parts: what it is made of.
        outcome: True if correct, False if wrong, None where that is not known.
    """

    facts: Sequence[tuple[str, str]]
    parts: Sequence[Part]
    outcome: bool | None = None


@dataclass(frozen=True)
class ItemGroup:
    """Rollouts that belong together.

    Attributes:
        where: which part of the run it is from, such as `step 3`; groups are chosen by it.
        name: of the group within that.
        prompt: what was asked, before every rollout.
        items: the rollouts.
        facts: about all of them.
    """

    where: str
    name: str
    prompt: Sequence[Part]
    items: Sequence[Item]
    facts: Sequence[tuple[str, str]] = ()


def plain(role: str, text: str, label: str = "") -> Part:
    """A part of text whose tokens are not known, in pieces."""
    return Part(role, label, [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)])


def shortened(parts: Sequence[Part]) -> list[Part]:
    """The parts without the middle of what is too long for a page."""
    parts = [
        Part(part.role, part.label, [_cut(text) for text in part.texts], part.weights) for part in parts if part.texts
    ]
    surplus = sum(len(part.texts) for part in parts) - MOST_TOKENS
    if surplus <= 0:
        return parts
    head, tail = MOST_TOKENS * 3 // 4, MOST_TOKENS * 3 // 4 + surplus
    missing = sum(len(text) for part in _between(parts, head, tail) for text in part.texts)
    gap = plain(LEFT_OUT, f"{missing:,} characters are left out here")
    return [*_between(parts, 0, head), gap, *_between(parts, tail, tail + MOST_TOKENS)]


def runs_of_roles(
    texts: Sequence[str], weights: Sequence[float] | None, roles: Sequence[str], label: str = ""
) -> list[Part]:
    """Tokens as parts, a part for every stretch of one role.

    Args:
        texts: T token texts.
        weights: T weights, or None.
        roles: T roles.
        label: of all parts.
    """
    edges = [place for place in range(len(texts)) if place == 0 or roles[place] != roles[place - 1]]
    return [
        Part(roles[low], label, texts[low:high], None if weights is None else weights[low:high])
        for low, high in zip(edges, [*edges[1:], len(texts)], strict=True)
    ]


def _between(parts: Sequence[Part], low: int, high: int) -> list[Part]:
    """Tokens `low` up to `high`, counted over all parts."""
    kept, place = [], 0
    for part in parts:
        cut = slice(max(low - place, 0), max(high - place, 0))
        weights = None if part.weights is None else part.weights[cut]
        kept.append(Part(part.role, part.label, part.texts[cut], weights))
        place += len(part.texts)
    return [part for part in kept if part.texts]


def _cut(text: str) -> str:
    surplus = len(text) - MOST_CHARACTERS
    return text if surplus <= 0 else f"{text[:150]} … {surplus:,} characters left out … {text[-50:]}"
