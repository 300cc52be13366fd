"""A recorded run as one HTML page. Imports no torch."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rlft.credit.diagnose.run import DEFAULT_THRESHOLD, DEFAULT_WINDOW, NothingRecorded, WeightFigures, weight_figures
from rlft.evaluate.personal import Interval
from rlft.record.groups import iter_groups, record_of, settings_of
from rlft.record.heat_page import HEAT_STYLE, ShownGroup, heat_section
from rlft.record.page import page, paragraph, section, table, write_page
from rlft.record.rollouts import RolloutRow
from rlft.record.run_page import read_metrics, reward_section, summary_section
from rlft.record.svg import bars
from rlft.record.token_texts import find_tokenizer, ids_as_texts, token_reader

PAGE_NAME = "report.html"


def write_run_report(
    run: Path, out: Path | None = None, *, groups: int = 12, tokenizer: Path | None = None, resamples: int = 500
) -> Path:
    """One page of a recorded run: settings, reward, weights, where the gradient went, token heat maps.

    Args:
        run: the run's output folder, or its `record`; the run may still be going on.
        out: the page; `report.html` in the run's folder if None.
        groups: heat maps, from the first to the newest group with both outcomes.
        tokenizer: a `tokenizer.json` or its folder; the run's own if None.
        resamples: of the bootstrap over groups.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: if there is no such run, or no folder for the page.
        ValueError: if the record is damaged, `groups` is below 1, or the tokenizer is none.
    """
    if groups < 1:
        raise ValueError(f"groups={groups}: at least 1 is needed.")
    record = record_of(run)
    settings, metrics = settings_of(run), read_metrics(record)
    threshold = settings.get("correct_threshold", DEFAULT_THRESHOLD)
    found = tokenizer or find_tokenizer(record.parent)
    read = token_reader(found) if found else ids_as_texts
    sections = [summary_section(record.parent, settings, metrics), reward_section(metrics)]
    sample = _Samples(groups, threshold)
    try:
        figures = weight_figures(
            sample.watched(iter_groups(run)),
            window=settings.get("window", DEFAULT_WINDOW),
            bins=10,
            threshold=threshold,
            resamples=resamples,
            seed=0,
        )
    except NothingRecorded as error:
        sections.append(section("Token credit", paragraph(str(error), "missing")))
    else:
        sections += [weights_section(figures), position_section(figures)]
        missing = "" if found else "No tokenizer.json in the run's folder: tokens are shown by their ids; --tokenizer."
        sections.append(heat_section(sample.chosen(), read, note=" ".join(filter(None, [sample.note(), missing]))))
    document = page(f"Run {record.parent.resolve().name}", sections, style=HEAT_STYLE)
    return write_page(out or record.parent / PAGE_NAME, document)


def weights_section(figures: WeightFigures) -> str:
    """Counts, size and spread of the weights, and their balance between the outcomes."""
    counts = figures.counts
    rows: list[tuple[str, str]] = [
        ("rollouts", f"{counts['rollouts']} in {counts['groups']} groups of {counts['steps']} steps"),
        ("groups with both outcomes", f"{counts['mixed_groups']} of {counts['groups']}"),
        ("tokens", f"{counts['tokens']}, and {counts['untrained_tokens']} of weight 0"),
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
    told = "Share of the gradient mass by place in the rollout, start to end. Blue: as weighted. Grey: all weights 1."
    figures_table = table(rows, ["place", "as weighted", "all weights 1"])
    return section(
        "Gradient by position",
        paragraph(told, "soft"),
        bars(pairs, label="share of the gradient mass by place in the rollout"),
        f"<details><summary>As a table</summary>{figures_table}</details>",
    )


def shown(found: Interval) -> str:
    """`0.65 [0.60, 0.70]`."""
    if np.isnan(found.value):
        return "not defined"
    value, low, high = (round(number, 3) + 0.0 for number in found)  # + 0.0: no minus before a zero
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


class _Samples:
    """Groups to draw, evenly spread over those that pass by: the mixed ones, and all for a run that has none."""

    def __init__(self, count: int, threshold: float) -> None:
        self._threshold = threshold
        self._mixed, self._any = _Spread(count), _Spread(count)

    def watched(self, groups: Iterable[list[RolloutRow]]) -> Iterator[list[RolloutRow]]:
        """The same groups, looked at in passing."""
        for rows in groups:
            group = ShownGroup(rows, [None if row.reward is None else row.reward >= self._threshold for row in rows])
            self._any.offer(group)
            if group.mixed:
                self._mixed.offer(group)
            yield rows

    def chosen(self) -> list[ShownGroup]:
        """In order of steps."""
        return self._mixed.chosen() or self._any.chosen()

    def note(self) -> str:
        """Which groups these are."""
        spread = self._mixed if self._mixed.seen else self._any
        of = "with both outcomes" if self._mixed.seen else "of a run in which no group has both outcomes"
        return f"{len(spread.chosen())} of {spread.seen} groups {of}, from the first to the newest."


class _Spread:
    """At most `count` of the groups that are offered, evenly spaced, the first and the last among them."""

    def __init__(self, count: int) -> None:
        self.seen, self._count, self._every = 0, count, 1
        self._kept: list[ShownGroup] = []
        self._last: ShownGroup | None = None

    def offer(self, group: ShownGroup) -> None:
        """Keep it, or not; every second of those kept goes when there are twice too many."""
        if self.seen % self._every == 0:
            self._kept.append(group)
            if len(self._kept) > 2 * self._count:
                self._kept, self._every = self._kept[::2], 2 * self._every
        self.seen, self._last = self.seen + 1, group

    def chosen(self) -> list[ShownGroup]:
        """Those kept, thinned out to `count`."""
        kept = [group for group in self._kept if group is not self._last]
        before = min(self._count - 1, len(kept))
        places: Sequence[int] = np.linspace(0, len(kept) - 1, before).round().astype(int).tolist() if before else []
        return [kept[place] for place in places] + ([self._last] if self._last else [])
