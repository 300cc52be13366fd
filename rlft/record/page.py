"""A self-contained HTML page from sections: no network, everything that comes from a run escaped.

A section is a function that returns HTML; `page` puts sections into the frame. Text goes through `escaped`, whatever
its origin, so that a completion cannot add markup or reorder the line that it stands in.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from rlft.record.folder import write_whole

_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_STYLE = """
:root{color-scheme:light;--ink:#1b1b1b;--soft:#55585c;--line:#d5d8dc;--up:#0072b2;--down:#b34700}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:#fff}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1rem 0 .3rem}p{margin:.4rem 0;max-width:75ch}.soft{color:var(--soft)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.93rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .75rem .25rem 0;text-align:left;vertical-align:top}
th{font-weight:600}thead th{border-bottom:1px solid var(--line)}
tbody th{font-weight:400;color:var(--soft);white-space:nowrap}
svg{max-width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:var(--soft)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:14px/1.7 ui-monospace,monospace}
@media(max-width:600px){svg text{font-size:20px}tbody th{white-space:normal}}
.missing{border-left:4px solid #b38600;padding-left:.75rem}
"""


def page(title: str, sections: Sequence[str], *, style: str = "") -> str:
    """One HTML document.

    Args:
        title: heading, plain text.
        sections: HTML, in order; empty ones are left out.
        style: CSS that the sections need.

    Returns:
        The document.
    """
    heading = escaped(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'unsafe-inline'\"><title>{heading}</title><style>{_STYLE}{style}</style></head>"
        f"<body><h1>{heading}</h1>\n{chr(10).join(filter(None, sections))}\n</body></html>\n"
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
    """Text as HTML: markup escaped, control and direction characters and lone surrogates spelt out."""
    return html.escape(_UNSHOWABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text)))


def section(title: str, *parts: str) -> str:
    """A section with a heading (plain text) and parts (HTML)."""
    return f"<section><h2>{escaped(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; kind `soft` is for explanations, `missing` for what cannot be shown."""
    return f'<p class="{kind}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>"


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
