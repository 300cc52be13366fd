"""New text and replay in exact shares of tokens.

STOC (arXiv 2605.10640), step 6: alpha is the share of NEW tokens, 1 - alpha that of replay. The released code of the
real-data experiments mixes one to one whatever alpha is, and that of the synthetic ones draws replay with replacement.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlft.replay.items import Item, refuse_items

SHORT = ("error", "less", "repeat")
"""What to do where the pool has too few tokens: refuse, mix what there is, or take items again."""


@dataclass(frozen=True)
class MixReport:
    """What a mix is made of. Counts; `shares` and `str()` give them as shares."""

    alpha: float
    """The share of new tokens that was asked for."""
    new_items: int
    new_tokens: int
    replay_items: int
    replay_tokens: int
    replay_wanted: int
    """Replay tokens that make alpha exact."""
    replay_distinct: int
    """Replay items that differ in their tokens."""
    cut_tokens: int
    """Tokens cut off the last replay item."""
    pool_items: int
    pool_tokens: int

    @property
    def repeats(self) -> int:
        """Replay items that say again what another one says, token by token."""
        return self.replay_items - self.replay_distinct

    @property
    def missing_tokens(self) -> int:
        """Replay tokens wanted that the pool did not have."""
        return self.replay_wanted - self.replay_tokens

    @property
    def shares(self) -> dict[str, float]:
        """Shares of new text and of replay, of all tokens and of all items."""
        tokens, items = self.new_tokens + self.replay_tokens, self.new_items + self.replay_items
        return {
            "new_of_tokens": self.new_tokens / tokens,
            "replay_of_tokens": self.replay_tokens / tokens,
            "new_of_items": self.new_items / items,
            "replay_of_items": self.replay_items / items,
        }

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for a manifest."""
        return {**asdict(self), "repeats": self.repeats, "missing_tokens": self.missing_tokens, **self.shares}

    def __str__(self) -> str:
        shares = self.shares
        lines = [
            f"new text: {self.new_tokens:,} tokens ({shares['new_of_tokens']:.2%}; asked for: alpha = {self.alpha:g}) "
            f"in {self.new_items:,} items ({shares['new_of_items']:.1%})",
            f"replay: {self.replay_tokens:,} tokens ({shares['replay_of_tokens']:.2%}) in {self.replay_items:,} items "
            f"({shares['replay_of_items']:.1%}), {self.replay_distinct:,} distinct, {self.repeats:,} repeats, the last "
            f"cut by {self.cut_tokens:,}; drawn from {self.pool_items:,} items of {self.pool_tokens:,} tokens",
        ]
        if self.missing_tokens:
            lines.append(
                f"replay is short: {self.missing_tokens:,} of the {self.replay_wanted:,} tokens wanted are missing"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Mixed:
    """Rows to train on, and what they are made of."""

    rows: list[dict[str, Any]]
    """The items with a `source`, `new` or `replay`, in random order. The `text` of an item that was cut is None."""
    report: MixReport


def mix(new: Sequence[Item], replay: Sequence[Item], alpha: float, *, seed: int, short: str = "error") -> Mixed:
    """All new text with as much replay as makes `alpha` of the tokens new.

    Replay items are drawn at random without replacement, round(N_new (1 - alpha) / alpha) tokens of them, the last one
    cut to fit. What is drawn depends on the seed and on the items, not on the order in which they are given.

    Args:
        new: rows with `id` and `ids`. Tokens are counted as they stand: let `ids` end with the end token where the
            training does.
        replay: rows of the same kind: written by the model, or kept from old data.
        alpha: share of new tokens, in (0, 1]; 1 takes no replay.
        seed: of the draw and of the order of rows.
        short: one of `SHORT`, for a pool of too few tokens. `repeat` takes the whole pool before any item again.

    Raises:
        ValueError: for alpha out of its range, no new items, rows that `refuse_items` refuses or that hold no token, an
            empty pool, and a pool too small under `short="error"`.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha={alpha} is the share of new tokens and must be in (0, 1]; 1 takes no replay.")
    if short not in SHORT:
        raise ValueError(f"short={short!r} is none of {', '.join(SHORT)}.")
    new, pool = _in_order(new, "new text"), _in_order(replay, "replay")
    if not new:
        raise ValueError("there is no new text to mix.")
    new_tokens, pool_tokens = _tokens(new), _tokens(pool)
    wanted = round(new_tokens * (1 - alpha) / alpha)
    if wanted > pool_tokens:
        _refuse_short(wanted, pool, pool_tokens, alpha, short)
    chance = np.random.default_rng(seed)
    drawn = _draw(pool, min(wanted, pool_tokens) if short == "less" else wanted, chance)
    rows = [_row(item, len(item["ids"]), "new") for item in new] + [_row(item, size, "replay") for item, size in drawn]
    report = MixReport(
        alpha=alpha,
        new_items=len(new),
        new_tokens=new_tokens,
        replay_items=len(drawn),
        replay_tokens=sum(size for _, size in drawn),
        replay_wanted=wanted,
        replay_distinct=len({tuple(item["ids"][:size]) for item, size in drawn}),
        cut_tokens=sum(len(item["ids"]) - size for item, size in drawn),
        pool_items=len(pool),
        pool_tokens=pool_tokens,
    )
    return Mixed([rows[place] for place in chance.permutation(len(rows))], report)


def _in_order(items: Sequence[Item], what: str) -> list[Item]:
    refuse_items(items, what)
    blank = [item["id"] for item in items if not len(item["ids"])]
    if blank:
        raise ValueError(f"{what}: {len(blank)} items hold no token, such as {blank[0]!r}; leave them out.")
    return sorted(items, key=lambda item: item["id"])


def _tokens(items: Sequence[Item]) -> int:
    return sum(len(item["ids"]) for item in items)


def _refuse_short(wanted: int, pool: list[Item], pool_tokens: int, alpha: float, short: str) -> None:
    if not pool:
        raise ValueError(f"alpha={alpha} wants {wanted:,} tokens of replay and there is none; alpha=1 trains without.")
    if short == "error":
        raise ValueError(
            f"alpha={alpha} wants {wanted:,} tokens of replay, and the pool of {len(pool):,} items has "
            f"{pool_tokens:,}. Generate more, filter less, raise alpha, or say short=less (a smaller share) or "
            "short=repeat (items again)."
        )


def _draw(pool: list[Item], wanted: int, chance: np.random.Generator) -> list[tuple[Item, int]]:
    """Items and how many of their tokens to take: one random order of the pool after another."""
    drawn: list[tuple[Item, int]] = []
    while wanted:
        for place in chance.permutation(len(pool)):
            size = min(len(pool[place]["ids"]), wanted)
            drawn.append((pool[place], size))
            wanted -= size
            if not wanted:
                break
    return drawn


def _row(item: Item, size: int, source: str) -> dict[str, Any]:
    row = {**item, "source": source}
    if size == len(item["ids"]):
        return row
    return row | {name: list(item[name][:size]) for name in ("ids", "labels") if item.get(name)} | {"text": None}
