"""The table at the end of a run."""

from collections.abc import Sequence


def summary_table(rows: Sequence[tuple[str, str]]) -> str:
    """Two aligned columns as plain text.

    Args:
        rows: (label, value) pairs in order; a value of several lines keeps them, below one another.

    Returns:
        The table between two rules, without a newline at the end; "" for no rows.
    """
    if not rows:
        return ""
    width = max(len(label) for label, _ in rows)
    lines = [
        f"{label if first else '':<{width}}  {line}".rstrip()
        for label, value in rows
        for first, line in ((number == 0, text) for number, text in enumerate(value.splitlines() or [""]))
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([rule, *lines, rule])
