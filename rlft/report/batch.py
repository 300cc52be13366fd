"""How much a run takes at once: prompts and completions of GRPO, questions and rollouts of EM, new text of STOC."""

import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from rlft.record.batch_table import batch_rows
from rlft.record.folder import RECORD_NAME
from rlft.record.page import paragraph, section, table
from rlft.record.rollouts import ROLLOUTS
from rlft.report.curves import finite
from rlft.report.results import read_json
from rlft.report.run import Run

_OF_GRPO = ("generation_batch_size", "num_generations", "num_iterations", "per_device_train_batch_size",
            "gradient_accumulation_steps", "max_steps", "num_train_epochs")  # fmt: skip
_OF_EM = {
    "num_rounds": "rounds at most",
    "num_generations": "rollouts per question",
    "list_size": "passages in a list",
    "candidates": "out of candidates",
    "per_device_train_batch_size": "M-step: rows per micro-batch",
    "gradient_accumulation_steps": "M-step: micro-batches per optimiser step, per process",
    "num_train_epochs": "M-step: passes over the rows",
}
_OF_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")
_OF_MIX = ("new_items", "new_tokens", "replay_items", "replay_tokens")
_ROUND_HEAD = ("round", "questions", "kept", "rollouts", "scored", "rows to train on", "optimiser steps")
_ARM_HEAD = ("arm", "new share (alpha)", "new items", "new tokens", "replay items", "replay tokens", "blocks of a step",
             "tokens of a block", "optimiser steps")  # fmt: skip


def batch_section(run: Run) -> str:
    """The batch table of the run's method; empty where neither settings nor files tell."""
    if run.rounds:
        return _of_em(run)
    mixes = {arm: read_json(folder / "replay" / "mix.json") for arm, folder in run.arms.items()}
    if any(mixes.values()):
        return _of_stoc(run, {arm: mix for arm, mix in mixes.items() if mix})
    if not all(finite(run.settings.get(name)) for name in _OF_GRPO):
        return ""
    processes = max(len(list((run.folder / RECORD_NAME).glob(ROLLOUTS))), 1)
    return section("Batch table", table(batch_rows(SimpleNamespace(**run.settings), processes)))


def _of_em(run: Run) -> str:
    settings = run.settings
    rows = [(label, f"{settings[name]:g}") for name, label in _OF_EM.items() if finite(settings.get(name))]
    together = read_json(run.folder / "em.json").get("rows_per_step")
    if finite(together):
        rows.append(("M-step: rows per optimiser step, all processes", f"{together:g}"))
    by_round = list(_rounds(run))
    parts = [table(rows)] if rows else []
    if by_round:
        parts += [paragraph("What each round took:", "soft"), table(by_round, _ROUND_HEAD)]
    return section("Batch table", *parts) if parts else ""


def _rounds(run: Run) -> Iterator[list[str]]:
    """A row for each round that weighed its rollouts."""
    found: Any = run.settings.get("num_generations")
    samples = found if finite(found) else None
    for number, folder in run.rounds.items():
        weights, rows = read_json(folder / "weights.json"), read_json(folder / "rows.json")
        counts: list[Any] = [weights.get(name) for name in ("questions", "kept", "unscored")]
        if not all(map(finite, counts)):
            continue
        questions, kept, unscored = counts
        rollouts = questions * samples if samples else None
        scored = rollouts - unscored if samples else None
        trained = {name.removesuffix("rows").removesuffix("_"): rows[name] for name in rows if name.endswith("rows")}
        steps = _steps([row for row in run.metrics.get("", []) if row.get("round") == number])
        yield [f"{number}", *map(_number, (questions, kept, rollouts, scored)), _by_role(trained), _by_role(steps)]


def _steps(logs: list[dict[str, Any]]) -> dict[str, int]:
    """The last optimiser step that was logged, by role; one role that has no name is ''."""
    found: dict[str, int] = {}
    for row in logs:
        if isinstance(row.get("step"), int):
            role = str(row.get("role", ""))
            found[role] = max(found.get(role, 0), row["step"])
    return found


def _by_role(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{role} {_number(count)}".strip() for role, count in counts.items())


def _number(value: Any) -> str:
    return f"{value:,.10g}" if finite(value) else ""


def _of_stoc(run: Run, mixes: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for arm, mix in mixes.items():
        name = arm or str((run.settings.get("arms") or ["stoc"])[0])
        saved = run.settings.get(name)
        settings = saved if isinstance(saved, dict) else {}
        blocks: list[Any] = [settings.get(option) for option in _OF_STEP]
        told = [mix.get("alpha"), *(mix.get(key) for key in _OF_MIX)]
        told += [math.prod(blocks) if all(map(finite, blocks)) else None, settings.get("max_length")]
        rows.append([name, *map(_number, told), _by_role(_steps(run.metrics.get(arm, [])))])
    note = "Items and tokens are those of one pass over the mix; blocks are those of one process."
    return section("Batch table", paragraph(note, "soft"), table(rows, _ARM_HEAD))
