"""Small inline pictures for a page: a curve over steps, and pairs of bars."""

import math
from collections.abc import Sequence

from rlft.record.page import escaped

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 220, 46, 28, 12


def curve(points: Sequence[tuple[float, float]], *, label: str, across: str = "optimiser step") -> str:
    """A line through points.

    Args:
        points: (step, value) in order; not empty, values finite.
        label: of the vertical axis, read out by screen readers.
        across: of the horizontal axis.

    Returns:
        An `<svg>` element.
    """
    low, high = _padded([value for _, value in points])
    first, last = points[0][0], points[-1][0]

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - 12) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    marks = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#e3e5e8"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in _ticks(low, high)
    )
    ends = "".join(
        f'<text x="{x(step):.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{step:g}</text>'
        for step, anchor in {first: "start", last: "end"}.items()
    )
    middle = f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{escaped(across)}</text>'
    dots = f'<circle cx="{x(first):.1f}" cy="{y(points[0][1]):.1f}" r="3" fill="#0072b2"/>' if len(points) == 1 else ""
    line = f'<polyline points="{path}" fill="none" stroke="#0072b2" stroke-width="2"/>'
    return _frame(HEIGHT, label, marks + ends + middle + line + dots)


def bars(pairs: Sequence[tuple[str, float, float]], *, label: str) -> str:
    """Two bars beside each other for every name: the first dark, the second light, in percent.

    Args:
        pairs: (name, first share, second share), shares in [0, 1].
        label: read out by screen readers.

    Returns:
        An `<svg>` element.
    """
    most = max([share for _, *shares in pairs for share in shares] + [1e-9])
    room, drawn = (WIDTH - LEFT - 12) / len(pairs), []
    floor = HEIGHT - BOTTOM
    for place, (name, *shares) in enumerate(pairs):
        left = LEFT + place * room
        for number, (share, colour) in enumerate(zip(shares, ("#0072b2", "#a9b4bd"), strict=True)):
            tall = (floor - TOP - 16) * share / most
            drawn.append(
                f'<rect x="{left + room * (0.12 + 0.38 * number):.1f}" y="{floor - tall:.1f}" '
                f'width="{room * 0.36:.1f}" height="{tall:.1f}" fill="{colour}"><title>{escaped(name)}: '
                f"{share:.1%}</title></rect>"
            )
        middle, tall = left + room / 2, (floor - TOP - 16) * shares[0] / most
        drawn.append(
            f'<text x="{left + room * 0.3:.1f}" y="{floor - tall - 4:.1f}" text-anchor="middle">{shares[0]:.0%}</text>'
        )
        drawn.append(f'<text x="{middle:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{escaped(name)}</text>')
    base = f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{floor}" y2="{floor}" stroke="#55585c"/>'
    return _frame(HEIGHT, label, base + "".join(drawn))


def _frame(height: int, label: str, inside: str) -> str:
    name = escaped(label)
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="{name}">{inside}</svg>'


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
