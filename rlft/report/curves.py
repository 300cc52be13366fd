"""Curves of all that a run logged: those that are looked at first, and the others behind a click."""

import math
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from rlft.record.page import details, paragraph, section
from rlft.record.svg import chart
from rlft.report.results import read_json
from rlft.report.run import Run

Lines = dict[str, list[tuple[float, float]]]
"""Name of a line -> its points."""
FIRST = (
    r"reward", r"rewards by function", r"held-out.*", r"eval_(?!runtime|samples|steps|num_tokens)[^/]+",
    r"dev (em|f1|cover|recall@1|retrieval_recall)", r"recall of .*", r"loss", r"entropy", r"completions/mean_length",
    r"completions/clipped_ratio", r"kl", r"grad_norm", r"frac_reward_zero_std", r"ess_ratio", r"questions kept",
    r"mean_token_accuracy", r"drift/accuracy",
)  # fmt: skip
"""Titles of the curves that are looked at first, in this order."""
CALLED = {
    "reward": "mean reward",
    "completions/mean_length": "tokens of a completion",
    "completions/clipped_ratio": "share cut at the length limit",
    "frac_reward_zero_std": "share of groups without a signal",
    "kl": "KL to the reference",
    "grad_norm": "gradient norm",
    "ess_ratio": "effective sample size / samples",
}
MOST = 120
BY_FUNCTION = "rewards by function"
_PLACE = {"step", "epoch", "time", "round", "role"}
_HELD_OUT = re.compile(r"(accuracy|held_out)/[a-z]+_(.+)")
_BY_FUNCTION = re.compile(r"rewards/(.+)/mean")
_PROBE = re.compile(r"probe/([^/]+)/(.+)")


def curves_section(run: Run) -> str:
    """All curves of a run, or what is missing for them."""
    steps, rounds = _over_steps(run), _over_rounds(run)
    if not steps and not rounds:
        seen = "no metrics.jsonl" if not any(run.metrics.values()) else "no logged row has a finite number"
        return section("Curves", paragraph(f"No curve: {seen}.", "missing"))
    drawn = {title: chart(CALLED.get(title, title), lines) for title, lines in islice(steps.items(), MOST)}
    drawn |= {
        title: chart(CALLED.get(title, title), lines, across="round") for title, lines in islice(rounds.items(), MOST)
    }
    wanted = [title for pattern in FIRST for title in drawn if re.fullmatch(pattern, title)]
    wanted = [title for title in wanted if title != BY_FUNCTION or len(steps[title]) > 1]  # one is the mean reward
    others = [title for title in drawn if title not in wanted]
    more = details(f"{len(others)} more curves", _grid(drawn[title] for title in others)) if others else ""
    return section("Curves", _grid(drawn[title] for title in wanted), more)


def _grid(charts: Iterable[str]) -> str:
    return f'<div class="charts">{"".join(charts)}</div>'


def _over_steps(run: Run) -> dict[str, Lines]:
    """Lines by title, of everything in `metrics.jsonl`."""
    found: dict[str, dict[str, dict[float, float]]] = {}
    for arm, rows in run.metrics.items():
        before, rounds = 0.0, [0.0, 0.0]
        for row in rows:
            if not finite(row.get("step")):
                continue
            if row.get("round", 0) != rounds[0]:  # every round counts its steps anew: they stand behind one another
                before, rounds = rounds[1], [row["round"], rounds[1]]
            step = before + row["step"]
            rounds[1] = max(rounds[1], step)
            for name, value in row.items():
                if name not in _PLACE and finite(value):
                    title, line = _placed(name, run.settings.get("recall"))
                    line = " ".join(filter(None, [arm, str(row.get("role", "")), line]))
                    found.setdefault(title, {}).setdefault(line, {})[step] = float(value)  # a later row counts
    return {title: {line: sorted(of.items()) for line, of in lines.items()} for title, lines in found.items()}


def _placed(name: str, recall: Any) -> tuple[str, str]:
    """Title and line of a metric."""
    if match := _HELD_OUT.fullmatch(name):
        return "held-out accuracy" if match[1] == "accuracy" else "held-out metrics", match[2].replace("_", " ")
    if match := _BY_FUNCTION.fullmatch(name):
        return BY_FUNCTION, match[1]
    if (match := _PROBE.fullmatch(name)) and match[2] == (recall or match[2]):
        return f"recall of {match[1]} facts ({match[2]})", ""
    return name, ""


def _over_rounds(run: Run) -> dict[str, Lines]:
    """Lines by title, of what EM measured of every round and of its weights."""
    found: dict[str, Lines] = {}
    for number, folder in run.rounds.items():
        for name, value in _numbers(read_json(folder / "dev.json")):
            mode, _, metric = name.partition("_")
            title, line = (f"dev {metric}", mode) if mode in ("greedy", "sampled") else (f"dev {name}", "")
            found.setdefault(title, {}).setdefault(line, []).append((number, value))
        weights = dict(_numbers(read_json(folder / "weights.json")))
        if weights.get("questions"):
            weights["questions kept"] = weights.get("kept", 0.0) / weights["questions"]
        for name, value in weights.items():
            found.setdefault(name, {}).setdefault("", []).append((number, value))
    return found


def _numbers(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in record.items() if finite(value)]


def finite(value: Any) -> bool:
    """Whether it is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
