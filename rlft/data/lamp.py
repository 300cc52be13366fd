"""Rows of LaMP from the published files, user split and time split, for all seven tasks.

    {split}_questions.json   [{"id", "input", "profile": [{"id", ...}, ...]}, ...]
    {split}_outputs.json     {"task": "LaMP_4", "golds": [{"id", "output"}, ...]}

The time split has `user_id` in a question and `date` in an item. Questions are decoded one at a time: in memory stand
the text of the file and the rows that are kept, no others, and the rows of one `user_id` share one history.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rlft.data.json_rows import iter_json_rows
from rlft.data.lamp_profiles import Histories, ProfileReader
from rlft.data.lamp_sources import lamp_files, read_golds
from rlft.data.lamp_tasks import LAMP_2_NEWS, LAMP_TASKS, LampTask
from rlft.data.prompts import DataError, listed

Row = dict[str, Any]
Places = Iterator[tuple[str, Row]]


class LampRows(NamedTuple):
    """What was read."""

    rows: list[Row]
    """`{id, user_id, task, input, query, profile, gold}`; a profile has items `{id, text, target, date}`, newest first
    where they have dates. None stands for what the files do not have: `user_id`, `target`, `date`, `gold`."""
    rejected: dict[str, int]
    """How many were left out, by reason: questions, `item: ...` for items of a profile, `output: ...` for outputs."""
    task: LampTask
    """The task that was read; of number 2 this tells the movie version from the news version."""


class _Rejected(Exception):
    """A question that is left out; the message is the reason."""


def read_lamp(
    path: str | Path, task: int, split: str, *, limit: int | None = None, histories: Histories | None = None
) -> LampRows:
    """Rows of one split.

    Args:
        path: a folder (`LaMP_4_time`) with the files of the split, also in a folder of the split's name, or one file of
            questions; the outputs lie beside it.
        task: 1 to 7.
        split: `train`, `dev`, or `test`, which may go without outputs: `gold` is then None.
        limit: rows wanted, the first ones; None takes all.
        histories: histories by `user_id`, added to. Give the same dictionary for train and dev, so that a user who is
            in both is refused unless the two histories are the same.

    Raises:
        DataError: on missing files, a file of another task, a malformed question, item or date, a user with two
            histories, or if no row is left (with the reasons).
    """
    if task not in LAMP_TASKS:
        raise DataError(f"LaMP has no task {task!r}; it is one of {listed(LAMP_TASKS)}.")
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; it counts rows, or is None for all.")
    questions, outputs = lamp_files(Path(path), split)
    golds = read_golds(outputs, split, task)
    form, source = _recognise(task, _questions(questions))
    rejected: Counter[str] = Counter()
    profiles = ProfileReader(form, {} if histories is None else histories, rejected)
    rows: dict[str, Row] = {}
    unasked = set(golds or ())
    for place, question in source:
        unasked.discard(str(question.get("id")))
        try:
            row = _row(question, place, profiles, golds)
            if row["id"] in rows:
                raise _Rejected("duplicate id")
            rows[row["id"]] = row
        except _Rejected as reason:
            rejected[str(reason)] += 1
        if len(rows) == limit:
            break
    else:
        rejected.update({"output: no question of its id": len(unasked)} if unasked else {})
    if not rows:
        why = ", ".join(f"{count} {reason}" for reason, count in rejected.items()) or "no questions were read"
        hint = " The texts of LaMP-6 come from the Avocado corpus: put them in first." if task == 6 else ""
        raise DataError(f"{questions}: no row of LaMP-{task} ({form.name}) can be used ({why}).{hint}")
    return LampRows(list(rows.values()), dict(rejected), form)


def _questions(path: Path) -> Places:
    """Questions with their places, by number because published files are one line."""
    for number, (place, question) in enumerate(chain.from_iterable(map(_unwrapped, iter_json_rows(path)))):
        yield f"{place}, question {number}", question


def _unwrapped(found: tuple[str, Row]) -> list[tuple[str, Row]]:
    """LaMP's script for emails writes the questions of `test` in the form of outputs."""
    place, row = found
    inside = row.get("golds")
    if "input" in row or not isinstance(inside, list) or not all(isinstance(one, dict) for one in inside):
        return [found]
    return [(place, question) for question in inside]


def _recognise(task: int, rows: Places) -> tuple[LampTask, Places]:
    """The version of a task: only number 2 has two, told apart by the first item that there is."""
    if task != LAMP_2_NEWS.number:
        return LAMP_TASKS[task], rows
    head = []
    for place, row in rows:
        head.append((place, row))
        items = row.get("profile")
        if isinstance(items, list) and items:
            news = isinstance(items[0], dict) and LAMP_2_NEWS.target in items[0]
            return LAMP_2_NEWS if news else LAMP_TASKS[task], chain(head, rows)
    return LAMP_TASKS[task], iter(head)


def _row(question: Row, place: str, profiles: ProfileReader, golds: dict[str, str] | None) -> Row:
    items, text = question.get("profile"), question.get("input")
    if question.get("id") is None or not isinstance(text, str) or not isinstance(items, list):
        raise DataError(
            f"{place}: a question has 'id', 'input' (a text) and 'profile' (a list), here is {listed(question)}."
        )
    task, name, user = profiles.task, str(question["id"]), question.get("user_id")
    try:
        query = task.query_of(text)
    except ValueError as reason:
        raise _Rejected(str(reason)) from reason
    user = None if user is None else str(user)
    return {
        "id": name,
        "user_id": user,
        "task": task.number,
        "input": text,
        "query": query,
        "gold": None if golds is None else _gold(name, golds, task),
        "profile": profiles.read(items, user, place),
    }


def _gold(name: str, golds: dict[str, str], task: LampTask) -> str:
    if name not in golds:
        raise _Rejected("no output of its id")
    if not golds[name]:
        raise _Rejected("empty output")
    if task.labels is not None and golds[name] not in task.labels:
        raise _Rejected(f"the output is none of the {len(task.labels)} labels")
    return golds[name]
