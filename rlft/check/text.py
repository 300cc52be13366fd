"""Findings of a check as text for a terminal."""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlft.check.probes import Probed
from rlft.checks import MISSING, Fault

_WIDEST = 110


@dataclass
class Look:
    """What was seen: sections of text, and figures for `--json`."""

    sections: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, text: Any, **figures: Any) -> None:
        """A section, and what stands in it."""
        if text is not MISSING and text:
            self.sections.append(text)
        self.figures |= figures


def width() -> int:
    """Columns to write in: the terminal's, within reason."""
    return max(60, min(shutil.get_terminal_size((80, 24)).columns, _WIDEST))


def section(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A heading and aligned pairs, long values wrapped below themselves."""
    if not rows:
        return ""
    label = max(len(name) for name, _ in rows)
    lines = [line for name, value in rows for line in _pair(name, value, label)]
    return "\n".join([title, *lines])


def faults_text(faults: Sequence[Fault], warnings: Sequence[Fault]) -> str:
    """What is wrong, and what to look at, numbered and wrapped."""
    parts = []
    for title, found in (("wrong", faults), ("to look at", warnings)):
        if found:
            parts.append(f"{len(found)} {title}")
            parts += [_item(number, one) for number, one in enumerate(found, start=1)]
    return "\n".join(parts)


def probe_table(probed: Probed) -> str:
    """Mean scores: a line for each probe, a column for each reward; `=` marks as much as the gold answer or more."""
    names = list(probed.scores)
    probes = list(probed.scores[names[0]]) if names else []
    wide = max([10, *map(len, names)]) + 2
    lines = ["  " + " " * 14 + "".join(f"{name:>{wide}}" for name in names)]
    for probe in probes:
        lines.append(f"  {probe:<14}" + "".join(f"{_cell(probed, name, probe):>{wide}}" for name in names))
    return "\n".join(line.rstrip() for line in lines)


def _cell(probed: Probed, reward: str, probe: str) -> str:
    value, gold = probed.mean(reward, probe), probed.mean(reward, "gold")
    if value is None:
        return "none "
    as_gold = probe != "gold" and gold is not None and value > gold - 1e-9
    return f"{value:.2f}{'=' if as_gold else ' '}"


def _pair(name: str, value: str, label: int) -> list[str]:
    room = width() - label - 4
    wrapped = [part for line in value.splitlines() or [""] for part in textwrap.wrap(line, room) or [""]]
    return [f"  {name if not at else '':<{label}}  {part}".rstrip() for at, part in enumerate(wrapped)]


def _item(number: int, one: Fault) -> str:
    head = f"  {number}. {one.topic}: "
    return textwrap.fill(one.message, width(), initial_indent=head, subsequent_indent="     ", break_on_hyphens=False)


def size_text(count: float) -> str:
    """Bytes for people: `310 MiB`, `12.3 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
