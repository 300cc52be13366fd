"""A diagnosis as text and as an HTML page."""

from pathlib import Path

import numpy as np

from rlft.credit.diagnose.scores import MEASURES, WEIGHTINGS, Diagnosis
from rlft.evaluate.personal import Interval
from rlft.record.page import page, paragraph, section, table, write_page

_SAYS = {
    "matched": "P(token weight at the error > weight at the same index of a correct rollout of the group)",
    "after": "AUC of span scores, spans at or behind the error against spans before it; position alone can reach 1",
    "in_bins": "the same among spans of one position bin",
    "rho": "Spearman's rho of span score and that label",
    "partial": "the same with position held fixed",
    "farther": "share of spans farther from the other outcome than from their own outcome's rollouts; needs no labels",
}
_IS = {
    "shear": "span distance to the other outcome, as SHEAR takes it",
    "permuted": "the same with outcomes permuted inside each group: what chance gives",
    "lexical": "the same distance with token identity as the only state",
    "own_group": "distance to the other rollouts of one's own outcome",
    "entropy": "the policy's entropy",
    "position": "the token's index",
}


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """The figures as plain text.

    Args:
        diagnosis: from `rlft.credit.diagnose.diagnose`.

    Returns:
        Lines without a newline at the end.
    """
    head, rows = ["weighting", *MEASURES], _rows(diagnosis)
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *rows]]
    told = [f"{name:<10} {text}" for name, text in [*_SAYS.items(), *_told_weightings(diagnosis)]]
    return "\n".join(line.rstrip() for line in [_counted(diagnosis), "", *lines, "", *_verdicts(diagnosis), "", *told])


def write_diagnosis_page(diagnosis: Diagnosis, path: Path, title: str) -> Path:
    """The figures as one HTML page.

    Args:
        diagnosis: from `rlft.credit.diagnose.diagnose`.
        path: the page.
        title: its heading.

    Returns:
        `path`.

    Raises:
        FileNotFoundError: if its folder does not exist.
    """
    sections = [
        paragraph(_counted(diagnosis)),
        section(
            "Scores and controls",
            table(_rows(diagnosis), ["weighting", *MEASURES]),
            *(paragraph(line) for line in _verdicts(diagnosis)),
            table([*_SAYS.items(), *_told_weightings(diagnosis)]),
        ),
    ]
    if diagnosis.bins.get("shear"):
        sections.append(section("AUC inside position bins", table(*_bins(diagnosis))))
    return write_page(path, page(title, sections))


def _rows(diagnosis: Diagnosis) -> list[list[str]]:
    return [
        [name, *(_short(diagnosis.figures[name].get(measure)) for measure in MEASURES)]
        for name in WEIGHTINGS
        if diagnosis.figures.get(name)
    ]


def _told_weightings(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [(name, _IS[name]) for name in WEIGHTINGS if diagnosis.figures.get(name)]


def _counted(diagnosis: Diagnosis) -> str:
    counts, settings = diagnosis.counts, diagnosis.settings
    ignored = f", {counts['ignored_labels']} labels on correct ones not used" if counts["ignored_labels"] else ""
    one = ", of which there is one, so that they have no width" if counts["mixed_groups"] == 1 else ""
    return (
        f"{counts['mixed_groups']} of {counts['groups']} groups hold both outcomes: {counts['rollouts']} rollouts, "
        f"{counts['wrong']} wrong, {counts['labelled']} of them with a known first error{ignored}. "
        f"window {settings['window']}, stride {settings['stride']}, {settings['distance']}; intervals: 95 %, bootstrap "
        f"over groups{one} (permuted: over permutations)."
    )


def _verdicts(diagnosis: Diagnosis) -> list[str]:
    """The comparisons that answer the question."""
    real, chance = diagnosis.figures["shear"], diagnosis.figures["permuted"]
    lines = [
        f"{name}: {_short(real[name])} against {_short(chance[name])} under permuted outcomes, p = {p_value:.3g}"
        for name, p_value in diagnosis.p_values.items()
    ]
    if pairs := diagnosis.counts["unpermutable"]:
        lines.append(
            f"{pairs} of {diagnosis.counts['mixed_groups']} groups hold two rollouts: permuting their outcomes changes "
            "nothing, so for them the permuted row is no chance level."
        )
    if counts := diagnosis.counts["matched_pairs"]:
        lines.append(f"matched counts {counts} pairs, {diagnosis.counts['matched_ties']} of them with equal weights.")
    lines += [f"matched, shear less {name}: {_short(found)}" for name, found in diagnosis.over.items()]
    return lines if diagnosis.counts["labelled"] else [*lines, "No first errors are given: only `farther` is measured."]


def _bins(diagnosis: Diagnosis) -> tuple[list[list[str]], list[str]]:
    of_shear = [found[:4] for found in diagnosis.bins["shear"]]
    # Controls that leave rollouts out have other bins, which do not stand in one row with these.
    names = [name for name in WEIGHTINGS if [found[:4] for found in diagnosis.bins.get(name, [])] == of_shear]
    rows = [
        [f"{found[0].low:g} to {found[0].high:g}", f"{found[0].positives} of {found[0].positives + found[0].negatives}"]
        + [f"{one.auc:.2f}" if np.isfinite(one.auc) else "-" for one in found]
        for found in zip(*(diagnosis.bins[name] for name in names), strict=True)
    ]
    return rows, ["middle of the span", "at or behind the error", *names]


def _short(found: Interval | None) -> str:
    if found is None or np.isnan(found.value):
        return "-"
    value, low, high = (round(number, 2) + 0.0 for number in found)  # + 0.0: no minus before a zero
    return f"{value:.2f} [{low:.2f} {high:.2f}]" if np.isfinite(low) else f"{value:.2f}"
