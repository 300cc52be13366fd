"""Contrastive pairs as rows and as a JSON Lines file, and the split by user. No torch.

{"id", "user_id", "query", "profile": [item, ...], "chosen", "rejected": [text, ...], "kinds": [kind, ...], "gold"}
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rlft.data.json_rows import iter_json_rows
from rlft.data.prompts import DataError
from rlft.record.jsonl import json_lines
from rlft.reward_models.users import user_of

KINDS = ("none", "swap", "corrupt")
"""What a rejected answer was made with: no profile, another user's, or the user's own with strangers' items in it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One answer made with the user's profile, and K answers that were not.

    Raises:
        ValueError: if an answer is empty, or `kinds` does not name the kind of each rejected one.
    """

    id: str
    user_id: str | None
    query: str
    profile: list[dict[str, Any]]
    """The items that the policy was shown for `chosen`, best first."""
    chosen: str
    rejected: list[str]
    kinds: list[str]
    gold: str | None = None

    def __post_init__(self) -> None:
        if not self.rejected or len(self.rejected) != len(self.kinds):
            raise ValueError(f"pair {self.id!r}: {len(self.rejected)} rejected answers, {len(self.kinds)} kinds.")
        if not all(answer.strip() for answer in (self.chosen, *self.rejected)):
            raise ValueError(f"pair {self.id!r} has an empty answer, which nothing can be learnt from; drop it.")
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"pair {self.id!r}: {sorted(unknown)} are none of {', '.join(KINDS)}.")


def write_pairs(pairs: Iterable[Pair], path: str | Path) -> None:
    """Write a file of pairs, one a line."""
    Path(path).write_text(json_lines(asdict(pair) for pair in pairs), encoding="ascii")


def read_pairs(path: str | Path) -> list[Pair]:
    """Pairs of a JSON Lines file.

    Raises:
        rlft.data.prompts.DataError: if the file is missing, malformed, or a row is no pair; names the line.
    """
    names = [field.name for field in fields(Pair)]
    pairs = []
    for place, row in iter_json_rows(Path(path)):
        if missing := [name for name in names if name not in row]:
            raise DataError(f"{place} lacks {', '.join(missing)}; a pair has {', '.join(names)}.")
        try:
            pairs.append(Pair(**{name: row[name] for name in names}))
        except (ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{place} is no pair: {error}") from error
    return pairs


def split_by_user(pairs: Sequence[Pair], share: float = 0.1, seed: int = 42) -> tuple[list[Pair], list[Pair]]:
    """Set the pairs of some users aside, so that the scorer is audited on users that it never saw.

    Args:
        pairs: N pairs.
        share: of the users that are set aside; at least one is.
        seed: of the choice.

    Returns:
        Pairs to train with, and pairs of the held-out users.

    Raises:
        ValueError: if `share` is not in (0, 1), or there are fewer than two users.
    """
    of_pair = [user_of(asdict(pair)) for pair in pairs]
    users = sorted(set(of_pair))
    if not 0 < share < 1 or len(users) < 2:
        raise ValueError(
            f"share={share} of {len(users)} users: give a share in (0, 1), and pairs of two users or more."
        )
    random.Random(seed).shuffle(users)
    held = set(users[: min(max(1, round(share * len(users))), len(users) - 1)])
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, user in zip(pairs, of_pair, strict=True):
        sides[user in held].append(pair)
    return sides
