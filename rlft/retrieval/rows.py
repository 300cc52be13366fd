"""One passage as JSON: the two row forms of corpora and servers, read and written.

`{"id", "contents"}` has the title as the first line of the contents, in quotes (which are taken off) or without;
`{"id", "title", "text"}` has them apart. A row that carries both forms is read by its `text`.
"""

from collections.abc import Mapping
from typing import Any

from rlft.retrieval.passage import Passage


def passage_of_row(row: Any) -> Passage:
    """Read a corpus row.

    Args:
        row: a mapping in either form. An integer id counts as its decimal text.

    Returns:
        The passage, with score 0.

    Raises:
        ValueError: if it is no mapping, or its id or contents are missing, empty or of another type.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"it holds a {type(row).__name__}, not an object with an id and contents")
    identity = row.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise ValueError(f'"id" is {identity!r}; every passage needs one, a text or an integer')
    title, text = title_and_text(row)
    if not text.strip():
        raise ValueError(f'passage {identity!r} has no text; fill "contents" (or "text"), or leave the row out')
    return Passage(str(identity), title, text, 0.0)


def title_and_text(row: Mapping[str, Any]) -> tuple[str, str]:
    """Title (empty if there is none) and text of a row in either form.

    Raises:
        ValueError: if neither `text` nor `contents` is there, or one of them is no text.
    """
    if "text" not in row and "contents" not in row:
        raise ValueError(f'neither "contents" nor "text" is there, only {", ".join(map(repr, row)) or "nothing"}')
    title, text, contents = (_text(row, key) for key in ("title", "text", "contents"))
    if text.strip() or not contents:
        return title.strip(), text
    head, _, body = contents.partition("\n")
    return (_unquoted(head), body) if body.strip() else ("", contents.strip())


def row_of_passage(passage: Passage) -> dict[str, str]:
    """A row in both forms at once, so that every reader finds its own."""
    return {"id": passage.id, "title": passage.title, "text": passage.text, "contents": passage.contents}


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f'"{key}" is a {type(value).__name__} ({str(value)[:80]}), not a text')
    return value or ""


def _unquoted(title: str) -> str:
    title = title.strip()
    return title[1:-1].strip() if len(title) > 1 and title[0] == title[-1] == '"' else title
