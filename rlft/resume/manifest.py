"""Is a checkpoint whole? Its manifest, written last and all at once, holds the digest of every other file."""

import json
from pathlib import Path

from rlft.record.folder import write_whole
from rlft.record.stages import digest

MANIFEST = "manifest.json"
PICKLES = ("adapter_model.bin", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files that transformers and PEFT read weights from, some even beside safetensors; none of them is written here."""


def seal(checkpoint: Path) -> None:
    """Write down the digests of all files in a checkpoint, which makes it one that a run can go on from."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    found = {str(path.relative_to(checkpoint)): digest(path) for path in files}
    write_whole(checkpoint / MANIFEST, json.dumps(found, indent=1) + "\n")


def unseal(checkpoint: Path) -> None:
    """Make a checkpoint one that no run goes on from, before its files change."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)


def is_sealed(checkpoint: Path) -> bool:
    """Whether the checkpoint was written to its end; what has become of it since, `damage` tells."""
    return (checkpoint / MANIFEST).is_file()


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if nothing is."""
    if not is_sealed(checkpoint):
        return f"it was not written to its end (no {MANIFEST})"
    try:
        known = json.loads((checkpoint / MANIFEST).read_text())
    except ValueError:
        return f"its {MANIFEST} is not JSON"
    pickle = next((path.name for path in checkpoint.rglob("*") if path.name in PICKLES), None)
    if pickle is not None:
        return f"it holds weights in {pickle}, a pickle, which would be read where their safetensors file is expected"
    for name, expected in known.items():
        found = digest(checkpoint / name)
        if found != expected:
            return f"its {name} is missing" if found is None else f"its {name} was altered"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, whole or not, the latest first."""
    return sorted((path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()), key=step_of)[::-1]


def step_of(checkpoint: Path) -> int:
    """The number of steps that a checkpoint has behind it."""
    return int(checkpoint.name.rpartition("-")[2])
