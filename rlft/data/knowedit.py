"""Facts of KnowEdit: new ones to be learned, and old ones of the same subjects that must be kept.

Files as published: https://huggingface.co/datasets/zjunlp/KnowEdit, folder `benchmark` (Zhang et al. 2024, arXiv
2401.01286). What is new and what is old follows arXiv 2605.10640, section on KnowEdit, and its released code:

    layout   file                         prompt                           new target
    zsre     ZsRE/ZsRE-test-all.json      prompt, rephrase_prompt          ground_truth (not target_new)
    wikibio  WikiBio/wikibio-*-all.json   text                             labels
    recent   wiki_recent/recent_*.json    prompt, rephrase                 target_new

Old facts are the items of `locality`, whatever the group. A target comes as a text, a list of texts, or a list of lists
of aliases; all three give the same rows. (A loop over a target that is a text would train one letter at a time.)
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rlft.data.json_rows import Row, iter_json_rows
from rlft.data.prompts import DataError, listed


class Layout(NamedTuple):
    """Where one set keeps its new facts."""

    subject: str
    prompts: tuple[str, ...]
    """The first one is in every record."""
    target: str


LAYOUTS = {
    "zsre": Layout("subject", ("prompt", "rephrase_prompt"), "ground_truth"),
    "wikibio": Layout("concept", ("text",), "labels"),
    "recent": Layout("subject", ("prompt", "rephrase"), "target_new"),
}


class KnowEdit(NamedTuple):
    """What was read: rows `{id, subject, group, prompt, answer, answers}`.

    `group` is the column that the prompt comes from, or the group of `locality`; `answers` are all accepted ones, the
    first of them is `answer`.
    """

    layout: str
    new: list[Row]
    old: list[Row]
    rejects: dict[str, int]
    """Facts left out, by `new: reason` or `old: reason`."""


def read_knowedit(path: str | Path, layout: str | None = None) -> KnowEdit:
    """New and old facts of one file of KnowEdit.

    A prompt and its answers that were read before are left out, and so is an old fact whose prompt is a new one's: it
    cannot be both kept and changed.

    Args:
        path: a `.json` file with one array of records, or one record a line.
        layout: a key of `LAYOUTS`; None recognises it from the columns of the first record.

    Returns:
        Rows in the order of the file; their ids are of the form `12/prompt`, `12/Relation_Specificity/0`.

    Raises:
        DataError: on a missing file, a layout that is not known or not recognised, a column of the wrong type (with
            file and line), or a file that gives no new or no old fact.
    """
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"layout {layout!r} is unknown; it is one of {listed(LAYOUTS)}, or None to recognise it.")
    new, old = _Facts("new"), _Facts("old")
    for number, (place, record) in enumerate(iter_json_rows(Path(path))):
        layout = layout or _recognised(record, place)
        form = LAYOUTS[layout]
        subject = str(record.get(form.subject) or "").strip()
        answers = _texts(record.get(form.target), f"{place}, {form.target!r}")
        for group in form.prompts:
            if group in record or group == form.prompts[0]:
                new.add(f"{number}/{group}", subject, group, _one(record.get(group), f"{place}, {group!r}"), answers)
        for group, item_number, item in _locality(record, place, old.rejects):
            where = f"{place}, {group} {item_number}"
            targets = _texts(item.get("ground_truth"), f"{where}, 'ground_truth'")
            prompts = _texts(item.get("prompt"), f"{where}, 'prompt'")
            for again, prompt in enumerate(prompts or [""]):
                name = f"{number}/{group}/{item_number}" + (f"/{again}" if again else "")
                old.add(name, subject, group, prompt, targets)
    asked = {row["prompt"] for row in new.rows}
    kept = [row for row in old.rows if row["prompt"] not in asked]
    old.rejects["prompt is a new one's"] += len(old.rows) - len(kept)
    rejects = {f"{facts.name}: {reason}": n for facts in (new, old) for reason, n in facts.rejects.items() if n}
    if not new.rows or not kept:
        raise DataError(
            f"{path}: {len(new.rows)} new and {len(kept)} old facts are left of it, and both are needed; left out: "
            f"{rejects or 'nothing'}. Is it another set's file? Set layout to one of {listed(LAYOUTS)}."
        )
    return KnowEdit(str(layout), new.rows, kept, rejects)


class _Facts:
    """Rows of one kind, and why others are not among them."""

    def __init__(self, name: str) -> None:
        self.name, self.rows = name, list[Row]()
        self.rejects: Counter[str] = Counter()
        self.known: set[tuple[str, ...]] = set()

    def add(self, name: str, subject: str, group: str, prompt: str, answers: list[str]) -> None:
        fault = "no prompt" if not prompt else "no answer" if not answers else None
        if fault is None and (prompt, *answers) in self.known:
            fault = "duplicate"
        if fault:
            self.rejects[fault] += 1
            return
        self.known.add((prompt, *answers))
        row = {"id": name, "subject": subject, "group": group, "prompt": prompt}
        self.rows.append(row | {"answer": answers[0], "answers": answers})


def _recognised(record: Row, place: str) -> str:
    if "labels" in record:
        return "wikibio"
    if isinstance(record.get("ground_truth"), list):
        return "zsre"
    if "target_new" in record and "ground_truth" not in record:
        return "recent"
    raise DataError(
        f"{place}: columns {listed(record)} are those of none of {listed(LAYOUTS)} (wiki_counterfact, ConvSent and "
        "Sanitation are not read); set layout if it is one of them all the same."
    )


def _locality(record: Row, place: str, rejects: Counter[str]) -> Iterator[tuple[str, int, Row]]:
    """Items of all groups of a record: `(group, number, {prompt, ground_truth})`."""
    groups = record.get("locality")
    if not groups:
        rejects["record without locality"] += 1
        return
    if not isinstance(groups, dict):
        raise DataError(f"{place}: 'locality' holds a {type(groups).__name__}, not groups of items.")
    for group, items in groups.items():
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise DataError(f"{place}: group {group!r} of 'locality' is not a list of objects with a prompt each.")
        for number, item in enumerate(items):
            yield group, number, item


def _one(value: Any, place: str) -> str:
    texts = _texts(value, place)
    if len(texts) > 1:
        raise DataError(f"{place} holds {len(texts)} texts, not one.")
    return texts[0] if texts else ""


def _texts(value: Any, place: str) -> list[str]:
    """Different texts in a text, a list of texts or a list of lists, without blanks around them; none that is empty."""
    if isinstance(value, list):
        return list(dict.fromkeys(text for inner in value for text in _texts(inner, place)))
    if value is None:
        return []
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{place} holds {value!r} ({type(value).__name__}), not a text or a list of texts.")
    text = " ".join(str(value).split())
    return [text] if text else []
