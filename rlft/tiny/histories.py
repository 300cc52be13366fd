"""User histories: people with a style of writing, their past items, and requests that their style should answer.

A style is an opener and an ending, each one of 12 marker words, 144 users in all: with fewer, a tiny policy remembers
the combinations instead of reading the history. What is written about is three words; the gold answer's content says
nothing about style, so that content and style can be measured apart. Users with habits also have a length and an order
of their own: how many of the words they use, and in which order.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

from rlft.tiny.words import ENDINGS, FILLERS, OPENERS, TOPICS
from rlft.tiny.world import World

TRAIN_USERS = 108
"""Users of the train split; the 36 others are held out."""
CONTENT = 3
"""Content words in an item and in a request."""
LENGTHS = (3, 4, 5)
"""Habits of length: content words of a text, the first ones of what it is about."""
ORDERS = ("asked", "rising", "falling")
"""Habits of order: as the words were given, by the alphabet, or against it."""


@dataclass(frozen=True, slots=True)
class User:
    """A person of the world, the marker words that open and end what they write, and their habits."""

    name: str
    opener: str
    ending: str
    length: int = CONTENT
    """One of `LENGTHS`."""
    order: str = ORDERS[0]
    """One of `ORDERS`."""

    def write(self, words: Sequence[str]) -> str:
        """These words in the user's style: `hello sami gora tule bye`, or `hello gora sami tule bye` if rising."""
        kept = list(words[: self.length])
        if self.order != ORDERS[0]:
            kept.sort(reverse=self.order == "falling")
        return " ".join([self.opener, *kept, self.ending])


def users(world: World, split: str | None = None, *, habits: bool = False) -> list[User]:
    """The 144 users of a world with at least as many people, one for each style; no style is in both splits.

    Args:
        world: gives the names; its seed decides who has which style.
        split: `train`, `test`, or None for all.
        habits: give users all lengths with all orders, each of the nine to as many users of either split; otherwise
            everyone writes three words as they were given.

    Raises:
        ValueError: if the world has too few people, or the split is not known.
    """
    styles = [(opener, ending) for opener in OPENERS for ending in ENDINGS]
    if len(world.people) < len(styles):
        raise ValueError(f"{len(world.people)} people for {len(styles)} users: make the world larger.")
    if split not in (None, "train", "test"):
        raise ValueError(f"no split {split!r}, only train and test.")
    random.Random(f"users {world.seed}").shuffle(styles)
    ways = list(product(LENGTHS, ORDERS)) if habits else [(CONTENT, ORDERS[0])]
    everyone = [User(name, *style, *way) for name, style, way in zip(world.people, styles, cycle(ways), strict=False)]
    return {"train": everyone[:TRAIN_USERS], "test": everyone[TRAIN_USERS:]}.get(str(split), everyone)


def histories(world: World, count: int, seed: int, split: str | None = None, *, items: int = 3) -> list[dict[str, Any]]:
    """Requests of users who have written before.

    Args:
        world, split: as in `users`.
        count: how many rows; a user may have several.
        seed: of the users and the words.
        items: past items in each history.

    Returns:
        Rows `{id, user, profile, question, golden_answers, opener, ending}`, such as `{"id": "3", "user": "desu niva",
        "profile": ["hello sami gora tule bye", ...], "question": "about pora also vadi then misa",
        "golden_answers": ["hello pora vadi misa bye"], "opener": "hello", "ending": "bye"}`.
    """
    rng = random.Random(f"histories {seed} {split}")
    writers = users(world, split)
    rows = []
    for number in range(count):
        user = rng.choice(writers)
        words = rng.sample(TOPICS, CONTENT)
        rows.append(
            {
                "id": str(number),
                "user": user.name,
                "profile": [user.write(rng.sample(TOPICS, CONTENT)) for _ in range(items)],
                "question": asked(words, rng),
                "golden_answers": [user.write(words)],
                "opener": user.opener,
                "ending": user.ending,
            }
        )
    return rows


def asked(words: Sequence[str], rng: random.Random) -> str:
    """A request to write about these words, each after a filler: `about pora also vadi then misa`."""
    return " ".join(f"{rng.choice(FILLERS)} {word}" for word in words)
