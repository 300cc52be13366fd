"""Profiles of LaMP: the past items of a user as `{id, text, target, date}`, newest first where they have dates.

An item without its text, or without the user's own answer, is left out and counted as `item: ...`; an item with fields
of another task, or with a date that is none, is an error.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from rlft.data.lamp_sources import text_of
from rlft.data.lamp_tasks import LampTask
from rlft.data.prompts import DataError, listed

Item = dict[str, str | None]
Histories = dict[str, list[Item]]
"""History of each `user_id` that was read."""


def date_key(date: str) -> tuple[int, ...]:
    """What a date is sorted by: `2016-03-07` gives (2016, 3, 7), a bare year (2016,).

    Raises:
        ValueError: if it is not of numbers joined by `-`.
    """
    if not re.fullmatch(r"\d+(-\d+)*", date):
        raise ValueError(f"the date {date!r} is not of numbers joined by '-'")
    return tuple(int(number) for number in date.split("-"))


@dataclass(frozen=True)
class ProfileReader:
    """Reads the profiles of one task."""

    task: LampTask
    histories: Histories
    """Added to; rows of one user share the list that stands here, with the ids of the user's first question."""
    rejected: Counter[str]
    """Items left out by reason, added to; those of a user's history once, however many rows repeat it."""

    def read(self, items: list[Any], user: str | None, place: str) -> list[Item]:
        """The profile of a question.

        Args:
            items: as published.
            user: `user_id`, None where there is none.
            place: file, line and question, for errors.

        Raises:
            DataError: on a malformed item or date, or if the user has another history already.
        """
        left_out: Counter[str] = Counter()
        profile = self._items(items, place, left_out)
        known = profile if user is None else self.histories.setdefault(user, profile)
        if known is profile:
            self.rejected.update(left_out)
        elif _contents(known) != _contents(profile):
            raise DataError(
                f"{place}: user {user!r} has {len(profile)} usable items here and another history, of {len(known)}, in "
                "an earlier question; a user has one history. Are these files of one release?"
            )
        return known

    def _items(self, items: list[Any], place: str, left_out: Counter[str]) -> list[Item]:
        found: dict[str | None, Item] = {}
        for number, published in enumerate(items):
            item, reason = self._item(published, f"{place}, item {number}")
            if not reason and item["id"] in found:
                reason = "duplicate id"
            if reason:
                left_out[f"item: {reason}"] += 1
            else:
                found[item["id"]] = item
        return _newest_first(list(found.values()), place)

    def _item(self, item: Any, place: str) -> tuple[Item, str]:
        """An item, and why it is left out, or the empty text."""
        fields = [self.task.text, *([self.task.target] if self.task.target else [])]
        if not isinstance(item, dict) or not {"id", *fields} <= item.keys() or item["id"] is None:
            seen = listed(item) if isinstance(item, dict) else f"the {type(item).__name__} {str(item)[:40]!r}"
            raise DataError(
                f"{place}: an item of LaMP-{self.task.number} ({self.task.name}) has {listed(['id', *fields])}, here "
                f"is {seen}; is the file of another task?"
            )
        texts = [text_of(item[field], f"{place}, {field!r}") for field in fields]
        date = item.get("date")
        read: Item = {
            "id": str(item["id"]),
            "text": texts[0],
            "target": texts[1] if self.task.target else None,
            "date": None if date in (None, "") else str(date).strip(),
        }
        return read, f"no {fields[texts.index('')]}" if "" in texts else ""


def _contents(profile: list[Item]) -> Counter[tuple[str | None, ...]]:
    """What a history is, in whatever order; without the ids, which LaMP makes of the question's id and a number."""
    return Counter((item["text"], item["target"], item["date"]) for item in profile)


def _newest_first(profile: list[Item], place: str) -> list[Item]:
    """Sorted by date; of equal dates the later one in the file comes first, as in LaMP's own code."""
    dates = [item["date"] for item in profile if item["date"] is not None]
    if not dates:
        return profile
    if len(dates) < len(profile):
        raise DataError(
            f"{place}: {len(dates)} of {len(profile)} items have a date; either all have one, or none. Fill them in, "
            "or leave these items out."
        )
    try:
        return sorted(profile, key=lambda item: date_key(str(item["date"])))[::-1]
    except ValueError as error:
        raise DataError(f"{place}: {error}; write it as 2016-05-01 or 2016, or leave all dates out.") from error
