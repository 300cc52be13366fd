"""A self-contained HTML page from sections: no network, everything that comes from a run escaped.

A section is a function that returns HTML; `page` puts sections into the frame. Text goes through `escaped`, whatever
its origin, so that a completion cannot add markup or reorder the line that it stands in.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from rlft.record.folder import write_whole

_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Characters that Unicode calls printable and nobody sees; variation selectors are beside them below."""


def page(title: str, sections: Sequence[str], *, style: str = "", script: str = "") -> str:
    """One HTML document.

    Args:
        title: heading, plain text.
        sections: HTML, in order; empty ones are left out.
        style: CSS that the sections need.
        script: JavaScript that they need, run at the end.

    Returns:
        The document.
    """
    heading, code = escaped(title), f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'unsafe-inline'\"><title>{heading}</title><style>{_STYLE}{style}</style></head>"
        f"<body><h1>{heading}</h1>\n{chr(10).join(filter(None, sections))}\n{code}</body></html>\n"
    )


def write_page(path: str | Path, document: str) -> Path:
    """Write a document, all of it or nothing.

    Args:
        path: the file, in an existing folder.
        document: from `page`.

    Returns:
        The path.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {str(target.parent)!r} to write {target.name} into; create it first.")
    write_whole(target, document)
    return target


def escaped(text: object) -> str:
    """Text as HTML: markup escaped; what cannot be seen, or changes what is seen, spelt out as ⟨U+202E⟩."""
    return html.escape(_SUSPECT.sub(_spelt_out, str(text)))


def _spelt_out(found: re.Match[str]) -> str:
    char = found[0]
    selector = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef" or "\u180b" <= char <= "\u180f"
    seen = char.isprintable() and not selector and char not in _FILLERS
    return char if seen else f"⟨U+{ord(char):04X}⟩"


def section(title: str, *parts: str) -> str:
    """A section with a heading (plain text) and parts (HTML); `contents` links to it."""
    return f'<section id="{_anchor(title)}"><h2>{escaped(title)}</h2>{"".join(parts)}</section>'


def contents(sections: Sequence[str]) -> str:
    """Links to sections of `section`."""
    heads = re.findall(r'<section id="([\w-]+)"><h2>(.*?)</h2>', "".join(sections))
    return f'<p class="contents">{"".join(f"<a href=#{anchor}>{title}</a>" for anchor, title in heads)}</p>'


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; kind `soft` is for explanations, `missing` for what cannot be shown."""
    return f'<p class="{kind}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>"


def details(summary: str, *parts: str) -> str:
    """Parts (HTML) that show when the summary (plain text) is opened; nothing if there are no parts."""
    inside = "".join(parts)
    return f"<details><summary>{escaped(summary)}</summary>{inside}</details>" if inside else ""


def table(rows: Sequence[Sequence[object]], head: Sequence[str] = ()) -> str:
    """A table of plain text whose first column names the row.

    Args:
        rows: rows of cells.
        head: column names.
    """
    top = f"<thead><tr>{''.join(f'<th>{escaped(name)}</th>' for name in head)}</tr></thead>" if head else ""
    body = "".join(
        f"<tr><th>{escaped(name)}</th>{''.join(f'<td>{escaped(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'
