"""What lies in a run folder."""

from pathlib import Path

from rlft.record.page import details, section, table

MOST = 300
_IS = {
    "config.yaml": "the resolved configuration",
    "adapter_model.safetensors": "the adapter",
    "model.safetensors": "the model",
    "record": "metrics and rollouts",
    "replay": "what replay was made of",
    "scorer": "the reward model",
    "selector": "the selector",
    "generator": "the generator",
    "em.json": "what the run is, to go on with it",
    "identity.json": "what the run is, to go on with it",
    "evaluation.json": "held-out metrics by setting",
    "comparison.json": "all arms",
    "report.html": "this page",
}


def files_section(folder: Path) -> str:
    """Files and folders of a run with their sizes, the files in folders behind a click."""
    rows, inside = [], []
    for path in sorted(folder.iterdir()):
        files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        name = path.name if path.is_file() else f"{path.name}/"
        rows.append([name, _size(size), "" if path.is_file() else f"{len(files)} files", _is(path.name)])
        inside += [[str(file.relative_to(folder)), _size(file.stat().st_size)] for file in files if file != path]
    more = f" of {len(inside)}" if len(inside) > MOST else ""
    listed = details(f"{len(inside[:MOST])}{more} files in folders", table(inside[:MOST])) if inside else ""
    return section("In the run folder", table(rows), listed)


def _is(name: str) -> str:
    if name.startswith("checkpoint-"):
        return "a checkpoint"
    return "a round of EM" if name.startswith("round-") else _IS.get(name, "")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
