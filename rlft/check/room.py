"""The sections on memory and on disk: what a run takes, what there is, and the knob to turn if that is less."""

from rlft.check import disk
from rlft.check.memory import KNOBS, Load, Memory, logits_bytes, memory_of
from rlft.check.recipes import Parsed
from rlft.check.size import Size
from rlft.check.subject import Subject
from rlft.check.text import Look, section, size_text
from rlft.checks import Checks

GIB = 1024**3


def look_at_memory(seen: Look, size: Size, load: Load, checks: Checks, device_gib: float | None) -> None:
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


def look_at_disk(seen: Look, run: Parsed, subject: Subject, size: Size, load: Load, checks: Checks) -> None:
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
