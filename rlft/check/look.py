"""`rlft check`: what can be known about a run before it starts, each part as a section of text and as figures."""

import re
from typing import Any

from rlft.check.recipes import Parsed
from rlft.check.reward import look_at_rewards
from rlft.check.room import look_at_disk, look_at_memory
from rlft.check.size import Size, coverage, millions, size_of
from rlft.check.subject import Subject
from rlft.check.text import Look, section
from rlft.check.tokens import look_at_tokens
from rlft.checks import MISSING, Checks
from rlft.disk import refuse_folder
from rlft.prepare import RUNS, UNNAMED
from rlft.resume.find import asks_to_resume, look_ahead
from rlft.saved import refuse_pickles


def look(
    run: Parsed, subject: Subject, checks: Checks, *, device_gib: float | None = None, gold: str | None = None
) -> Look:
    """Look at a run.

    Args:
        run: its arguments.
        subject: its inputs.
        checks: gets faults and warnings.
        device_gib: memory of one device; None takes the GPU's, if there is one.
        gold: the form in which rewards want the answer, with {answer}; None tries several.
    """
    seen = Look()
    found = subject.inputs
    if found.table is not MISSING:
        seen.add(section("Batches", _pairs(found.table)), batches=dict(_pairs(found.table)))
    look_at_rewards(seen, subject, checks, gold)
    longest = look_at_tokens(seen, run, subject, checks)
    size = checks.of("model", size_of, found.config, found.peft_config)
    if size is not MISSING:
        _look_at_size(seen, size, found.config)
        if subject.load is not None:
            load = subject.load(longest)
            look_at_memory(seen, size, load, checks, device_gib)
            look_at_disk(seen, run, subject, size, load, checks)
    _look_at_files(run, checks)
    return seen


def _look_at_files(run: Parsed, checks: Checks) -> None:
    """The files that the run would begin with, and where it would write."""
    recipe, folder = run.recipe, run.training.output_dir
    if not getattr(recipe, "from_scratch", False):
        bases = (run.model.model_name_or_path, getattr(recipe, "selector_model", None))
        for base in filter(None, bases):
            checks.of("model", refuse_pickles, base, needs_weights=False)
    resumes = asks_to_resume(run.training.resume_from_checkpoint)
    if resumes:
        checks.of("resume", look_ahead, run.training.resume_from_checkpoint, folder)
    new = folder in UNNAMED
    checks.of("folder", refuse_folder, RUNS if new else str(folder), resumes or new)


def _look_at_size(seen: Look, size: Size, config: Any) -> None:
    kind = (getattr(config, "architectures", None) or [config.model_type])[0]
    shape = f"{size.layers} layers of width {size.hidden:,}, vocabulary {size.vocabulary:,}"
    rows = [("model", f"{kind}, {millions(size.parameters)} parameters, {shape}"), ("trained", coverage(size))]
    figures = {"parameters": size.parameters, "trainable": size.trainable, "adapter_modules": len(size.targets)}
    seen.add(section("Model", rows), model=figures)


def _pairs(table: str) -> list[tuple[str, str]]:
    """The lines of a `summary_table`, or of several."""
    lines = [line for line in table.splitlines() if set(line) != {"-"}]
    parts = [("", line) if line.startswith(" ") else re.split(r"\s{2,}", line, maxsplit=1) for line in lines]
    return [(name, value.strip()) for name, value in parts]
