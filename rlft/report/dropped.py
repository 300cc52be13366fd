"""What of a run's data or rollouts taught nothing, by reason."""

from collections.abc import Iterator, Mapping
from typing import Any

from rlft.record.page import paragraph, section, table
from rlft.record.provenance import PROVENANCE
from rlft.report.curves import finite
from rlft.report.results import read_json
from rlft.report.rewards import RewardTally
from rlft.report.run import Run
from rlft.rewards.outcomes import Outcome

_FAILED = (Outcome.UNPARSEABLE, Outcome.SKIPPED, Outcome.ERROR, Outcome.TIMEOUT)
_BY_REASON = ("dropped/", "refused/", "fault/")
_NOT_DROPPED = {"rows", "pairs", "negatives", "trained on", "questions", "selector_rows", "generator_rows"}
Row = list[str]


def dropped_section(run: Run, tally: RewardTally) -> str:
    """A line for each reason that occurred.

    Args:
        run: the run.
        tally: of its recorded rollouts.
    """
    rows = [
        *_of_data(run),
        *_of_rollouts(tally),
        *_of_rewards(run),
        *_of_rounds(run),
        *_of_replay(run),
        *_of_pairs(run),
    ]
    told = "" if rows else paragraph("Nothing that was recorded was dropped.")
    return section("Dropped and left out", told, table(rows, ["what", "how many", "of", "why"]) if rows else "")


def _of_data(run: Run) -> Iterator[Row]:
    """What was left out before training: rows that cannot be used, and questions of DRO without an answer to find."""
    for why, count in read_json(run.folder / PROVENANCE).get("left_out", {}).items():
        yield ["rows or items of the data", f"{count}", "", why]
    for path in sorted(run.folder.glob("round-*/left-out-*.json")):
        yield from _counts(f"questions ({path.stem.removeprefix('left-out-')})", read_json(path), "questions")


def _of_rollouts(tally: RewardTally) -> list[Row]:
    of_rollouts = {
        "no reward applied": tally.unscored,
        "cut at the length limit": tally.cut,
        "tokens of the model left out of the loss": tally.masked,
    }
    rows = [["rollouts", f"{count}", f"{tally.rollouts}", why] for why, count in of_rollouts.items() if count]
    if tally.alike:
        rows.append(["groups", f"{tally.alike}", f"{tally.groups}", "all rewards alike: no signal"])
    return rows + [
        ["rollouts", f"{count}", f"{tally.rollouts}", f"{name} did not apply"]
        for name, count in tally.not_applied.items()
    ]


def _of_rewards(run: Run) -> Iterator[Row]:
    """Outcomes that rewards in child processes count."""
    logged = run.metrics.get("", [])
    for name in dict.fromkeys(name for row in logged for name in row if name.startswith("rewards/")):
        outcome = name.rpartition("/")[2]
        shares = [row[name] for row in logged if finite(row.get(name))]
        if outcome in _FAILED and any(shares):
            yield ["reward calls", f"{sum(shares) / len(shares):.2%}", "100 %", f"{name.split('/')[1]}: {outcome}"]


def _of_rounds(run: Run) -> Iterator[Row]:
    for number, folder in run.rounds.items():
        weights = read_json(folder / "weights.json")
        for name, count in weights.items():
            prefix, _, why = name.partition("/")
            if f"{prefix}/" in _BY_REASON and finite(count) and count:
                what, of = ("questions", "questions") if prefix == "dropped" else ("rollouts", "lists")
                yield [f"{what} of round {number}", f"{count:g}", _count(weights, of), why.replace("_", " ")]
        yield from _counts(f"rows of round {number}", read_json(folder / "rows.json"), "rows")


def _of_replay(run: Run) -> Iterator[Row]:
    for arm, folder in run.arms.items():
        found = read_json(folder / "replay" / "filter.json")
        for why, count in found.get("dropped", {}).items():
            if count:
                yield [f"{arm or 'replay'}: items", f"{count}", _count(found, "written"), why.replace("_", " ")]
        mix = read_json(folder / "replay" / "mix.json")
        for name, why in (("cut_tokens", "the last item cut"), ("missing_tokens", "too little replay")):
            if mix.get(name):
                yield [f"{arm or 'replay'}: tokens", f"{mix[name]}", _count(mix, "replay_wanted"), why]


def _of_pairs(run: Run) -> list[Row]:
    """Rows that could not become pairs of PrLM's reward model."""
    return list(_counts("rows for the reward model", read_json(run.folder / "pairs.json"), "rows"))


def _counts(what: str, found: Mapping[str, Any], of: str) -> Iterator[Row]:
    for why, count in found.items():
        if why not in _NOT_DROPPED and finite(count) and count:
            yield [what, f"{count:g}", _count(found, of), why.replace("_", " ")]


def _count(found: Mapping[str, Any], name: str) -> str:
    return f"{found[name]:g}" if finite(found.get(name)) else ""
