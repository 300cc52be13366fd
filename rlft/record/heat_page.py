"""Token heat maps of recorded groups: the correct rollouts beside the wrong ones, each token coloured by its weight."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlft.record.page import escaped, paragraph, section
from rlft.record.rollouts import RolloutRow
from rlft.record.token_texts import Reader

LEVELS = 12
_PALE, _FULL = (255, 255, 255), (245, 150, 60)  # dark text keeps a contrast above 7 on all of them
TOKENS_SHOWN = 120_000
"""Of all heat maps together, about 6 MB; further groups are left out and counted."""


@dataclass(frozen=True)
class ShownGroup:
    """A group to draw.

    Attributes:
        rows: its G rollouts.
        correct: G outcomes, None where no reward applied.
    """

    rows: Sequence[RolloutRow]
    correct: Sequence[bool | None]

    @property
    def mixed(self) -> bool:
        """Whether both outcomes occur."""
        return {True, False} <= set(self.correct)

    @property
    def tokens(self) -> int:
        """Of all rollouts."""
        return sum(len(row.token_ids) for row in self.rows)


HEAT_STYLE = (
    ".heat{display:grid;grid-template-columns:1fr;gap:1rem}"
    "@media(min-width:900px){.heat{grid-template-columns:1fr 1fr}}"
    ".side>h3{border-bottom:3px solid}.right>h3{border-color:var(--up)}.wrong>h3{border-color:var(--down)}"
    ".rollout{border:1px solid var(--line);border-radius:4px;padding:.5rem;margin:.5rem 0;min-width:0}"
    ".side{min-width:0}.rollout p{font-size:.85rem;margin:0 0 .3rem}"
    "i{font-style:normal;border-radius:2px}i:hover{outline:2px solid var(--ink)}i.u{color:#6b6f73}"
    ".prompt{background:#f3f4f6;padding:.5rem;border-radius:4px;max-height:16rem;overflow-y:auto}"
    ".pick{position:sticky;top:0;background:#fff;padding:.5rem 0;border-bottom:1px solid var(--line);z-index:1}"
    ".pick select{font:inherit;max-width:100%}"
    ".legend{display:flex;flex-wrap:wrap;align-items:center;gap:.4rem;font-size:.85rem}"
    ".scale{display:inline-flex;border:1px solid var(--line)}.scale i{width:14px;height:14px;border-radius:0}"
    + "".join(
        f".c{level}{{background:rgb({','.join(str(round(p + (f - p) * level / (LEVELS - 1))) for p, f in pairs)})}}"
        for level in range(LEVELS)
        for pairs in [list(zip(_PALE, _FULL, strict=True))]
    )
)

_PICK = """<script>
(function(){var s=document.getElementById('group'),g=document.querySelectorAll('.group');
function show(){g.forEach(function(e,k){e.hidden=k!==s.selectedIndex})}
s.addEventListener('change',show);show();document.querySelector('.pick').hidden=false})();
</script>"""


def heat_section(groups: Sequence[ShownGroup], read: Reader, *, note: str = "") -> str:
    """The heat maps and the picker of groups; without scripts all groups stand below one another.

    Args:
        groups: in the order of the picker; not empty.
        read: from ids to token texts.
        note: plain text above the maps.

    Returns:
        HTML; the page needs `HEAT_STYLE`.
    """
    shown = _within_budget(groups)
    top = _top_weight(shown)
    flat = top == float("inf")
    options = "".join(f"<option>{escaped(_title(group))}</option>" for group in shown)
    picker = f'<div class="pick" hidden><label>Group <select id="group">{options}</select></label></div>'
    left_out = len(groups) - len(shown)
    notes = [note, f"{left_out} more groups would make the page too large; they are left out." if left_out else ""]
    return section(
        "Tokens and their weights",
        *(paragraph(text, "soft") for text in notes if text),
        "" if flat else _legend(top),
        picker,
        *(_group(group, read, top) for group in shown),
        _PICK if len(shown) > 1 else "",
    )


def _within_budget(groups: Sequence[ShownGroup]) -> list[ShownGroup]:
    """As many groups as fit, from the first on, at least one."""
    shown: list[ShownGroup] = []
    for group in groups:
        if shown and sum(one.tokens for one in shown) + group.tokens > TOKENS_SHOWN:
            break
        shown.append(group)
    return shown


def _top_weight(groups: Sequence[ShownGroup]) -> float:
    """The weight that the darkest colour stands for: 99 of 100 tokens lie below, so that one outlier fades nothing.

    Infinite, so that nothing is coloured, where every trained token weighs the same 1.
    """
    weights = sorted(weight for group in groups for row in group.rows for weight in row.credit if weight)
    if not weights or weights[0] == weights[-1] == 1:
        return float("inf")
    return weights[int(0.99 * (len(weights) - 1))]


def _legend(top: float) -> str:
    colours = "".join(f'<i class="c{level}"></i>' for level in range(LEVELS))
    return (
        f'<div class="legend"><span>weight 0</span><span class="scale">{colours}</span><span>{top:.3g} and above'
        '</span><span class="soft">hover over a token for its number; grey text: weight 0, not trained on</span></div>'
    )


def _title(group: ShownGroup) -> str:
    right, scored = sum(value is True for value in group.correct), sum(value is not None for value in group.correct)
    first = group.rows[0]
    return f"step {first.step}, group {first.group}: {right} of {scored} correct"


def _group(group: ShownGroup, read: Reader, top: float) -> str:
    sides = [(True, "Correct", "right"), (False, "Wrong", "wrong"), (None, "Not scored", "unscored")]
    drawn = []
    for outcome, name, kind in sides:
        rows = [row for row, value in zip(group.rows, group.correct, strict=True) if value is outcome]
        if rows:
            maps = "".join(_rollout(row, read, top) for row in rows)
            drawn.append(f'<div class="side {kind}"><h3>{name} ({len(rows)})</h3>{maps}</div>')
    prompt = f'<h3>Prompt</h3><pre class="prompt">{escaped(group.rows[0].prompt)}</pre>'
    title = f"<h3>{escaped(_title(group))}</h3>"
    return f'<div class="group">{title}{prompt}<div class="heat">{"".join(drawn)}</div></div>'


def _rollout(row: RolloutRow, read: Reader, top: float) -> str:
    reward = "none" if row.reward is None else f"{row.reward:.3g}"
    mean = sum(row.credit) / len(row.credit) if row.credit else float("nan")
    facts = f"reward {reward}, advantage {row.advantage:+.3g}, mean weight {mean:.3g}, {len(row.token_ids)} tokens"
    cut = ", cut at the length limit" if row.finish == "length" else ""
    tokens = "".join(_token(text, weight, top) for text, weight in zip(read(row.token_ids), row.credit, strict=True))
    return f'<div class="rollout"><p class="soft">{escaped(facts + cut)}</p><pre>{tokens}</pre></div>'


def _token(text: str, weight: float, top: float) -> str:
    level = round((LEVELS - 1) * min(max(weight / top, 0.0), 1.0)) if weight == weight else 0
    kind = f"c{level}" if weight else "u"
    shown = escaped(text).replace("\n", "↵\n") or "·"
    hover = escaped(f"{weight:.4g} {text.strip() or repr(text)}")
    return f'<i class="{kind}" title="{hover}">{shown}</i>'
