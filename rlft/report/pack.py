"""Rollouts inside a page: compressed in blocks, each opened by `viewer.js` when something in it is looked at."""

import gzip
import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlft.record.jsonl import to_json
from rlft.record.page import escaped, paragraph, section
from rlft.report.item import ENVIRONMENT, LEFT_OUT, MASKED, PROMPT, TRAINED, Item, ItemGroup, Part, shortened

_HERE = Path(__file__).parent
STYLE = (_HERE / "viewer.css").read_text(encoding="utf-8")
SCRIPT = "".join((_HERE / name).read_text(encoding="utf-8") for name in ("text.js", "viewer.js"))
BLOCK = 256 << 10
"""Characters of JSON, before compression."""
_SNIPPET = 80
_ROLES = {
    PROMPT: "what was asked",
    TRAINED: "trained on",
    ENVIRONMENT: "the environment's, not trained on",
    MASKED: "the model's own, left out of the loss",
    LEFT_OUT: "left out of this page",
}


class Packed:
    """Groups of rollouts, packed as they come, so that one block of text is in memory at a time.

    Args:
        most: rollouts; whole groups beyond are counted, not packed.
    """

    def __init__(self, most: int) -> None:
        self.rollouts = self.left_out = 0
        self._most = most
        self._blocks: list[str] = []
        self._open: list[str] = []
        self._size = 0
        self._where: dict[str, int] = {}
        self._groups: list[list[Any]] = []
        self._weights: list[np.ndarray] = []
        self._roles: set[str] = set()

    def add(self, groups: Iterable[ItemGroup]) -> None:
        """Take groups in, in the order in which the page lists them."""
        for group in groups:
            if self._groups and self.rollouts + len(group.items) > self._most:
                self.left_out += len(group.items)
                continue
            self.rollouts += len(group.items)
            outcomes = [item.outcome for item in group.items if item.outcome is not None]
            where = self._where.setdefault(group.where, len(self._where))
            counts = [len(group.items), sum(outcomes), len(outcomes)]
            self._groups.append([where, group.name, len(self._blocks), *counts, _snippet(group)])
            self._open.append(to_json(self._record(group)))
            self._size += len(self._open[-1])
            if self._size > BLOCK:
                self._close()

    def section(self, *notes: str) -> str:
        """The viewer with all that was packed; the page needs `STYLE` and `SCRIPT`."""
        self._close()
        index = {"where": list(self._where), "roles": list(_ROLES), "top": self._top(), "groups": self._groups}
        data = "".join(
            f'<script type="text/plain" class="{kind}">{content}</script>\n'
            for kind, content in [("index", _compressed(to_json(index))), *(("block", block) for block in self._blocks)]
        )
        texts = [*notes, f"{self.left_out} more rollouts are left out." if self.left_out else ""]
        legend = "".join(
            f'<span class="{role.replace(" ", "-")}">{escaped(text)}</span>'
            for role, text in _ROLES.items()
            if role in self._roles
        )
        return section(
            "Rollouts",
            *(paragraph(text, "soft") for text in texts if text),
            f'<p class="legend">{legend}</p>',
            (_HERE / "viewer.html").read_text(encoding="utf-8"),
            data,
        )

    def _close(self) -> None:
        if self._open:
            self._blocks.append(_compressed(f"[{','.join(self._open)}]"))
            self._open, self._size = [], 0

    def _record(self, group: ItemGroup) -> dict[str, Any]:
        items = [self._item(item) for item in group.items]
        return {"facts": list(group.facts), "prompt": self._parts(group.prompt), "items": items}

    def _item(self, item: Item) -> list[Any]:
        return [item.outcome, list(item.facts), self._parts(item.parts)]

    def _parts(self, parts: Sequence[Part]) -> list[Any]:
        return [self._part(part) for part in shortened(parts)]

    def _part(self, part: Part) -> list[Any]:
        self._roles.add(part.role)
        coded = [list(_ROLES).index(part.role), part.label, list(part.texts)]
        if part.weights is None:
            return coded
        if part.role == TRAINED:
            self._weights.append(np.array(part.weights, dtype=np.float32))
        return [*coded, [float(f"{weight:.3g}") for weight in part.weights]]

    def _top(self) -> float | None:
        """The weight that the strongest colour stands for: 99 of 100 tokens lie below, so that one outlier fades none.

        None where every trained token weighs the same 1, so that nothing is coloured.
        """
        weights_N = np.concatenate([*self._weights, np.zeros(0)])
        weights_N = np.sort(weights_N[np.isfinite(weights_N) & (weights_N != 0)])
        if not len(weights_N) or weights_N[0] == weights_N[-1] == 1:
            return None
        return float(weights_N[math.floor(0.99 * (len(weights_N) - 1))])


def _compressed(text: str) -> str:
    return b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")


def _snippet(group: ItemGroup) -> str:
    """The end of what was asked, which is where a question stands; without one, the start of the first rollout."""
    if group.prompt:
        return "".join(text for part in group.prompt for text in part.texts)[-_SNIPPET:]
    return "".join(text for part in group.items[0].parts for text in part.texts[:_SNIPPET])[:_SNIPPET]
