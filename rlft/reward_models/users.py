"""Who a row's user is, and whose profile can stand in for theirs. No torch."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Item = Mapping[str, Any]
"""A past item of a user: `id`, `text`, `target` and `date`, the last two None where the task has none."""


def user_of(row: Row) -> str:
    """A name for the row's user: `user_id`, or where the data has none (LaMP's user split) the profile's content."""
    if row.get("user_id") is not None:
        return str(row["user_id"])
    texts = "\x1f".join(sorted(_texts(row)))
    return "profile-" + hashlib.blake2b(texts.encode(), digest_size=8).hexdigest()


def other_user(rows: Sequence[Row], index: int, draw: random.Random) -> int:
    """A row of another user that has a profile.

    Without user ids, two rows whose profiles share a text count as one user's.

    Args:
        rows: N rows with `user_id` and `profile`.
        index: the row for which a stranger is wanted.
        draw: the random stream.

    Returns:
        Its place among the rows.

    Raises:
        ValueError: if there is none.
    """
    start = draw.randrange(len(rows))
    for step in range(len(rows)):
        place = (start + step) % len(rows)
        if rows[place]["profile"] and not _same_user(rows[index], rows[place]):
            return place
    raise ValueError(
        f"row {rows[index].get('id')!r}: none of the {len(rows)} rows is another user's with a profile, so no answer "
        "or score with another user's profile can be made; give rows of two users at least."
    )


def _same_user(one: Row, other: Row) -> bool:
    if one.get("user_id") is not None and other.get("user_id") is not None:
        return bool(one["user_id"] == other["user_id"])
    return not _texts(one).isdisjoint(_texts(other))


def _texts(row: Row) -> set[str]:
    return {str(item["text"]) for item in row["profile"]}
