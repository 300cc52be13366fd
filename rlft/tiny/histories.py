"""User histories: people with a style of writing, their past items, and requests that their style should answer.

A style is an opener and an ending, each one of 12 marker words, 144 users in all: with fewer, a tiny policy remembers
the combinations instead of reading the history. What is written about is three words; the gold answer's content says
nothing about style, so that content and style can be measured apart.
"""

import random
from dataclasses import dataclass
from typing import Any

from rlft.tiny.words import ENDINGS, FILLERS, OPENERS, TOPICS
from rlft.tiny.world import World

TRAIN_USERS = 108
"""Users of the train split; the 36 others are held out."""
CONTENT = 3
"""Content words in an item and in a request."""


@dataclass(frozen=True, slots=True)
class User:
    """A person of the world and the marker words that open and end what they write."""

    name: str
    opener: str
    ending: str

    def write(self, words: list[str]) -> str:
        """These words in the user's style: `hello sami gora tule bye`."""
        return " ".join([self.opener, *words, self.ending])


def users(world: World, split: str | None = None) -> list[User]:
    """The 144 users of a world with at least as many people, one for each style; no style is in both splits.

    Args:
        world: gives the names; its seed decides who has which style.
        split: `train`, `test`, or None for all.

    Raises:
        ValueError: if the world has too few people, or the split is not known.
    """
    styles = [(opener, ending) for opener in OPENERS for ending in ENDINGS]
    if len(world.people) < len(styles):
        raise ValueError(f"{len(world.people)} people for {len(styles)} users: make the world larger.")
    if split not in (None, "train", "test"):
        raise ValueError(f"no split {split!r}, only train and test.")
    random.Random(f"users {world.seed}").shuffle(styles)
    everyone = [User(name, *style) for name, style in zip(world.people, styles, strict=False)]
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
                "question": " ".join(f"{rng.choice(FILLERS)} {word}" for word in words),
                "golden_answers": [user.write(words)],
                "opener": user.opener,
                "ending": user.ending,
            }
        )
    return rows
