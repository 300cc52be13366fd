"""`rlft check`: what can be known about a run before it starts, each part as a section of text and as figures."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlft.check import disk
from rlft.check.memory import KNOBS, Load, Memory, logits_bytes, memory_of
from rlft.check.probes import Probed, findings, probe, sample_rows
from rlft.check.recipes import Parsed
from rlft.check.size import Size, coverage, millions, size_of
from rlft.check.subject import Subject
from rlft.check.text import probe_table, section, size_text
from rlft.checks import MISSING, Checks
from rlft.preflight_prompts import positions_of, prompt_lengths, stop_ids
from rlft.record.folder import refuse_another_run
from rlft.rollouts.frame import ChatFrame
from rlft.tiny import tasks
from rlft.tiny.skeleton import skeleton

MEASURED = 1000
"""Prompts whose tokens are counted, the longest in characters."""
GIB = 1024**3


@dataclass
class Look:
    """What was seen: sections of text, and figures for `--json`."""

    sections: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, text: Any, **figures: Any) -> None:
        """A section, and what stands in it."""
        if text is not MISSING and text:
            self.sections.append(text)
        self.figures |= figures


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
    _look_at_rewards(seen, subject, checks, gold)
    longest = _look_at_tokens(seen, run, subject, checks)
    size = checks.of("model", size_of, found.config, found.peft_config)
    if size is not MISSING:
        _look_at_size(seen, size, found.config)
        if subject.load is not None:
            load = subject.load(longest)
            _look_at_memory(seen, size, load, checks, device_gib)
            _look_at_disk(seen, run, subject, size, load, checks)
    folder = run.training.output_dir
    if folder is not None and str(run.training.resume_from_checkpoint).lower() in ("none", "false", ""):
        checks.of("folder", refuse_another_run, Path(str(folder)), False)
    return seen


def _look_at_rewards(seen: Look, subject: Subject, checks: Checks, gold: str | None) -> None:
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


def _look_at_tokens(seen: Look, run: Parsed, subject: Subject, checks: Checks) -> int:
    """Section on tokens; the longest prompt."""
    tokenizer = subject.inputs.tokenizer
    if tokenizer is MISSING:
        return 0
    stops = stop_ids(tokenizer, _generation_config(run))
    rows = [("stops at", ", ".join(_stop(tokenizer, token, names) for token, names in stops.items()))]
    rows.append(("pads with", _pad(tokenizer, stops)))
    written = _template(subject, tokenizer, stops, checks) if subject.template else "not used: the model reads texts"
    rows.append(("chat template", written))
    lengths = checks.of("prompts", _lengths, subject, subject.prompts, tokenizer)
    if lengths is MISSING:
        lengths = []
    if lengths:
        positions = None if subject.inputs.config is MISSING else positions_of(subject.inputs.config)
        room = "" if positions is None else f"; positions {positions:,}, completions up to {subject.sample_tokens:,}"
        rows.append(("prompts", f"{len(subject.prompts):,}; the longest has {max(lengths):,} tokens{room}"))
    seen.add(section("Tokens", rows), stop_ids=sorted(stops), longest_prompt=max(lengths, default=None))
    return max(lengths, default=0)


def _lengths(subject: Subject, prompts: Sequence[Any], tokenizer: Any) -> list[int]:
    """Tokens of the longest prompts."""
    longest = sorted(prompts, key=lambda prompt: len(str(prompt)), reverse=True)[:MEASURED]
    return prompt_lengths(longest, tokenizer, subject.template_kwargs)


def _generation_config(run: Parsed) -> Any:
    from transformers import GenerationConfig

    name = str(run.model.model_name_or_path)
    if name in tasks.TASKS:
        return skeleton(name)[0].generation_config
    try:
        return GenerationConfig.from_pretrained(name, revision=run.model.model_revision)
    except OSError:  # a model need not have one
        return None


def _stop(tokenizer: Any, token: int, names: Sequence[str]) -> str:
    return f"{tokenizer.convert_ids_to_tokens(token)} ({token}, {' and '.join(names)})"


def _pad(tokenizer: Any, stops: Any) -> str:
    if tokenizer.pad_token_id is None:
        return f"{tokenizer.eos_token}, the end token: it has none of its own"
    same = ", which also ends completions; masks go by length, so that ends are learnt"
    return f"{tokenizer.pad_token} ({tokenizer.pad_token_id}){same if tokenizer.pad_token_id in stops else ''}"


def _template(subject: Subject, tokenizer: Any, stops: Any, checks: Checks) -> str:
    """What ends a turn, and whether a completion stops there."""
    if not tokenizer.chat_template:
        return "none"
    try:
        end = ChatFrame(tokenizer, (), subject.template_kwargs).end_id
    except ValueError as error:
        return f"there; where a turn ends in it cannot be seen: {error}"
    token = tokenizer.convert_ids_to_tokens(end)
    if end not in stops:
        checks.warn(
            "stop ids",
            f"the chat template ends a turn with {token}, at which no completion stops: they would run to their "
            "longest. Set tokenizer.eos_token to it, or add its id to eos_token_id of generation_config.json.",
        )
    return f"there; a turn ends with {token}"


def _look_at_size(seen: Look, size: Size, config: Any) -> None:
    kind = (getattr(config, "architectures", None) or [config.model_type])[0]
    shape = f"{size.layers} layers of width {size.hidden:,}, vocabulary {size.vocabulary:,}"
    rows = [("model", f"{kind}, {millions(size.parameters)} parameters, {shape}"), ("trained", coverage(size))]
    figures = {"parameters": size.parameters, "trainable": size.trainable, "adapter_modules": len(size.targets)}
    seen.add(section("Model", rows), model=figures)


def _look_at_memory(seen: Look, size: Size, load: Load, checks: Checks, device_gib: float | None) -> None:
    memory, there = memory_of(size, load), _device_bytes(device_gib)
    whole = size_text(logits_bytes(size, load.rows, load.tokens, 4))
    notes = {"logits": f"in tiles; whole, {load.rows} x {load.tokens:,} x {size.vocabulary:,} would take {whole}"}
    rows = [("always", _parts(memory.always, {})), ("learning", _parts(memory.learning, notes))]
    rows.append(("sampling", _parts(memory.sampling, {}) if load.sampled else "by another engine, or none"))
    device = "no GPU here; --device_gib 24 compares" if there is None else f"of {size_text(there)}"
    rows.append(("peak", f"{size_text(memory.peak)}, {device}; an estimate for one device, unsharded"))
    figures = memory.always | memory.learning | memory.sampling | {"peak": memory.peak}
    seen.add(section("Memory", rows), memory_bytes=figures)
    if there is not None and memory.peak > there:
        checks.refuse("memory", too_much(memory, there))


def too_much(memory: Memory, there: float) -> str:
    """What to turn when the estimate exceeds the device."""
    part = memory.largest()
    most = (memory.always | memory.learning | memory.sampling)[part]
    return (
        f"the run is estimated at {size_text(memory.peak)}, and the device has {size_text(there)}. The largest part is "
        f"{part} with {size_text(most)}: {KNOBS[part]}."
    )


def _parts(parts: dict[str, int], notes: dict[str, str]) -> str:
    return ", ".join(
        f"{name} {size_text(count)}" + (f" ({notes[name]})" if name in notes else "")
        for name, count in parts.items()
        if count
    )


def _device_bytes(device_gib: float | None) -> float | None:
    import torch

    if device_gib is not None:
        return device_gib * GIB
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _look_at_disk(seen: Look, run: Parsed, subject: Subject, size: Size, load: Load, checks: Checks) -> None:
    kept = disk.checkpoints_kept(run.training, subject.steps)
    parts = {
        f"{kept} checkpoints": kept * disk.checkpoint_bytes(size, load) * subject.models,
        "what is saved": disk.saved_bytes(size, load) * subject.models,
        "record": subject.samples * subject.sample_tokens * disk.RECORD_BYTES,
    }
    wanted, free = sum(parts.values()), disk.free_bytes(run.training.output_dir)
    rows = [("at most", f"{size_text(wanted)}: {_parts(parts, {})}"), ("free", size_text(free))]
    seen.add(section("Disk", rows), disk_bytes={"wanted": wanted, "free": free})
    if wanted > free:
        checks.refuse(
            "disk",
            f"the run may write {size_text(wanted)} and {size_text(free)} are free: keep fewer checkpoints with "
            "--save_total_limit 1 or a larger --save_steps, or set --output_dir to a larger disk.",
        )


def _pairs(table: str) -> list[tuple[str, str]]:
    """The lines of a `summary_table`, or of several."""
    lines = [line for line in table.splitlines() if set(line) != {"-"}]
    parts = [("", line) if line.startswith(" ") else re.split(r"\s{2,}", line, maxsplit=1) for line in lines]
    return [(name, value.strip()) for name, value in parts]
