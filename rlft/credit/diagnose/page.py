"""The figures of a run's token credit as sections of a page. Imports no torch."""

import numpy as np

from rlft.credit.diagnose.run import WeightFigures
from rlft.evaluate.personal import Interval
from rlft.record.page import details, paragraph, section, table
from rlft.record.svg import bars


def credit_sections(figures: WeightFigures | None) -> list[str]:
    """Size and balance of the weights, and where the gradient went; nothing where nothing was recorded."""
    if figures is None:
        return []
    return [weights_section(figures), *([position_section(figures)] if figures.weighted else [])]


def weights_section(figures: WeightFigures) -> str:
    """Counts, size and spread of the weights, and their balance between the outcomes."""
    counts = figures.counts
    rows: list[tuple[str, str]] = [
        ("rollouts", f"{counts['rollouts']} in {counts['groups']} groups of {counts['steps']} steps"),
        ("groups with both outcomes", f"{counts['mixed_groups']} of {counts['groups']}"),
        ("tokens", f"{counts['tokens']}, and {counts['untrained_tokens']} not trained on"),
    ]
    if counts["unscored"]:
        rows.append(("rollouts without a reward", str(counts["unscored"])))
    if not figures.weighted:
        note = "Every token has weight 1: this run spread no credit, as plain GRPO does."
        return section("Token credit", table(rows), paragraph(note, "missing"))
    if weight := figures.weight:
        spread = f"{weight['mean']:.3g}, standard deviation {weight['std']:.3g}"
        rows.append(("weight of a token", f"{spread}, {weight['least']:.3g} to {weight['most']:.3g}"))
    for side, (mean, deviation) in figures.rollout_means.items():
        rows.append((f"mean weight, {side} rollouts", f"{mean:.3g}, standard deviation {deviation:.3g}"))
    rows += [
        (name, f"{shown(found)}{f', plain GRPO {shown(plain)}' if plain else ''}")
        for name, found, plain in (
            ("sign balance", figures.sign_balance, None),
            ("push", figures.push, figures.plain_push),
            (f"mass in the last {figures.window} tokens", figures.last_window, figures.plain_last_window),
        )
        if found is not None
    ]
    explained = (
        "Weights are of groups with both outcomes. Sign balance: (weight of correct - weight of wrong) / sum; below "
        "0, wrong rollouts are pushed down harder than correct ones are pulled up. Push: (gradient mass up - down) / "
        "mass, where mass is |advantage| x weight, summed over tokens. In brackets: 95 % intervals over groups."
    )
    return section("Token credit", table(rows), paragraph(explained, "soft"))


def position_section(figures: WeightFigures) -> str:
    """Share of the gradient mass in each part of a rollout, beside what weights of 1 would give."""
    if not figures.by_position:
        return section("Gradient by position", paragraph("No advantage differs from 0: no gradient at all.", "missing"))
    parts = len(figures.by_position)
    pairs = [
        (f"{100 * part // parts}%", found.value, plain.value)
        for part, (found, plain) in enumerate(zip(figures.by_position, figures.plain_by_position, strict=True))
    ]
    rows = [
        (f"{100 * part // parts} to {100 * (part + 1) // parts} %", shown(found), shown(plain))
        for part, (found, plain) in enumerate(zip(figures.by_position, figures.plain_by_position, strict=True))
    ]
    told = "Share of the gradient mass by place in the rollout, start to end. Dark: as weighted. Light: all weights 1."
    figures_table = table(rows, ["place", "as weighted", "all weights 1"])
    return section(
        "Gradient by position",
        paragraph(told, "soft"),
        bars(pairs, label="share of the gradient mass by place in the rollout"),
        details("As a table", figures_table),
    )


def shown(found: Interval) -> str:
    """`0.65 [0.60, 0.70]`."""
    if np.isnan(found.value):
        return "not defined"
    value, low, high = (round(number, 3) + 0.0 for number in found)  # + 0.0: no minus before a zero
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
