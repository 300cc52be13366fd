"""The section on rewards: what probes say of them."""

from collections.abc import Callable
from typing import Any

from rlft.check.probes import Probed, findings, probe, sample_rows
from rlft.check.text import Look, probe_table
from rlft.checks import MISSING, Checks


def look_at_rewards(seen: Look, subject: Any, checks: Checks, gold: str | None) -> None:
    """Try the rewards of a `Subject` on the first rows, unless a column that they need is missing."""
    if subject.rows is MISSING or not subject.rewards or any(one.topic == "columns" for one in checks.faults):
        return
    rows = sample_rows(subject.rows)
    encode = None if subject.inputs.tokenizer is MISSING else _encoder(subject.inputs.tokenizer)
    options: dict[str, Any] = {"forms": [gold] if gold else subject.forms, "weights": subject.weights, "encode": encode}
    probed = checks.of("reward", probe, subject.rewards, rows, **options)
    if probed is not MISSING:
        note_findings(probed, checks)
        seen.add(rewards_section(probed, len(rows)), rewards=reward_figures(probed))


def note_findings(probed: Probed, checks: Checks) -> None:
    """Rewards that can be cheated, into faults and warnings."""
    faults, warnings = findings(probed)
    for message in faults:
        checks.refuse("reward", message)
    for message in warnings:
        checks.warn("reward", message)


def rewards_section(probed: Probed, rows: int) -> str:
    """The table of probes."""
    slowest = max(probed.seconds.values(), default=0.0)
    spelling = probed.spelling.replace("\n", "\\n")
    return (
        f"Rewards: means of the first {rows} rows; `=` as much as the gold answer, or more\n{probe_table(probed)}\n"
        f"  gold spelling  {spelling}\n  slowest batch  {slowest:.3f} s"
    )


def reward_figures(probed: Probed) -> dict[str, Any]:
    """The table of probes as numbers."""
    means = {name: {each: probed.mean(name, each) for each in probed.scores[name]} for name in probed.scores}
    return {"means": means, "gold_spelling": probed.spelling, "seconds": probed.seconds}


def _encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])
