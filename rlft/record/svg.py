"""Small inline pictures for a page: lines over steps, and pairs of bars. Colours are the page's, light or dark."""

import math
from collections.abc import Mapping, Sequence

from rlft.record.page import escaped

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 400, 190, 46, 24, 10, 10
POINTS = 300
"""Of one line; of a longer one, the least and the greatest of each stretch are drawn, so that no spike is lost."""
Points = Sequence[tuple[float, float]]


def chart(title: str, lines: Mapping[str, Points], *, across: str = "optimiser step") -> str:
    """Lines through points, with a caption that says where each ends.

    Args:
        title: plain text.
        lines: name -> (step, value) in order; not empty, values finite. One line needs no name.
        across: of the horizontal axis.

    Returns:
        A `<figure>` element.
    """
    values = [value for points in lines.values() for _, value in points]
    steps = [step for points in lines.values() for step, _ in points]
    (low, high), first, last = _padded(values), min(steps), max(steps)

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / (last - first) if last > first else 0.5)
        return f"{x:.1f},{TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low)):.1f}"

    marks = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in _ticks(low, high)
        for y in [place(first, tick).partition(",")[2]]
    )
    marks += "".join(
        f'<text x="{place(step, low).partition(",")[0]}" y="{HEIGHT - 6}" text-anchor="{anchor}">{step:g}</text>'
        for step, anchor in ({first: "start", last: "end"} if last > first else {first: "middle"}).items()
    )
    if last > first:
        marks += f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escaped(across)}</text>'
    drawn = "".join(
        _line([place(*point) for point in thinned(points)], number) for number, points in enumerate(lines.values())
    )
    return f"<figure>{_frame(title, marks + drawn)}<figcaption>{_caption(title, lines)}</figcaption></figure>"


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most `POINTS` points of a line: the least and the greatest of every stretch, in order."""
    if len(points) <= POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / POINTS)
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    of = [{min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])} for part in stretches]
    return [point for pair in of for point in sorted(pair)]


def bars(pairs: Sequence[tuple[str, float, float]], *, label: str) -> str:
    """Two bars beside each other for every name: the first dark, the second light, in percent.

    Args:
        pairs: (name, first share, second share), shares in [0, 1].
        label: read out by screen readers.

    Returns:
        An `<svg>` element.
    """
    most = max([share for _, *shares in pairs for share in shares] + [1e-9])
    room, floor, drawn = (WIDTH - 2 * RIGHT) / len(pairs), HEIGHT - BOTTOM, []
    for place, (name, *shares) in enumerate(pairs):
        left = RIGHT + place * room
        for number, (share, kind) in enumerate(zip(shares, ("dark", "light"), strict=True)):
            tall = (floor - TOP - 16) * share / most
            drawn.append(
                f'<rect class="{kind}" x="{left + room * (0.12 + 0.38 * number):.1f}" y="{floor - tall:.1f}" '
                f'width="{room * 0.36:.1f}" height="{tall:.1f}"><title>{escaped(name)}: {share:.1%}</title></rect>'
            )
        tall = (floor - TOP - 16) * shares[0] / most
        drawn.append(
            f'<text x="{left + room * 0.3:.1f}" y="{floor - tall - 4:.1f}" text-anchor="middle">'
            f"{100 * shares[0]:.0f}</text>"
        )
        middle = left + room / 2
        drawn.append(f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escaped(name)}</text>')
    base = f'<line class="grid" x1="{RIGHT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>'
    return _frame(label, base + "".join(drawn))


def _line(places: Sequence[str], number: int) -> str:
    """A line, or a dot where it has one point only; the seventh line on has the first's colour, dashed."""
    kind = f"l{number % 6}{' b' if number // 6 % 2 else ''}"
    x, _, y = places[0].partition(",")
    dot = f'<circle class="{kind}" cx="{x}" cy="{y}" r="2.5"/>' if len(places) == 1 else ""
    return f'{dot}<polyline class="{kind}" points="{" ".join(places)}"/>'


def _caption(title: str, lines: Mapping[str, Points]) -> str:
    ends = {name: f"{points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in lines.items()}
    if len(lines) == 1:
        return f'<b>{escaped(title)}</b> <span class="soft">{escaped(" ".join(*ends.items()))}</span>'
    keys = "".join(
        f'<span class="key"><svg width="18" height="8">{_line(["0,4", "18,4"], number)}</svg>{escaped(name)} '
        f'<span class="soft">{escaped(end)}</span></span> '
        for number, (name, end) in enumerate(ends.items())
    )
    return f"<b>{escaped(title)}</b><br>{keys}"


def _frame(label: str, inside: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(label)}">{inside}</svg>'


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or max(abs(high) * 0.05, 0.05)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers between the two."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = math.ceil(low / step)
    return [round(number * step, 10) + 0.0 for number in range(first, math.floor(high / step) + 1)]
