"""Writes the forms of a run's models, loads each again, and compares it with what the run saved."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlft.export.card import card
from rlft.export.compare import TOLERANCE, Comparison, compare, token_logprobs
from rlft.export.rows import rows_of
from rlft.pair_folder import PAIR
from rlft.run_folder import RunFolder, find_run
from rlft.saved import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CONFIG,
    SavedModel,
    load_model,
    load_tokenizer,
    read_object,
    saved_model,
)

ADAPTER, MERGED, MODEL = "adapter", "merged", "model"
SCORER_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
PRIVATE = ("made.json",)
"""Files of a reward model that name the users it was trained on."""


@dataclass(frozen=True)
class Exported:
    """One model in one form."""

    form: str
    role: str
    folder: Path
    """Below the destination."""
    saved: SavedModel
    comparison: Comparison | None
    """None where the base is quantised: the files are copies, and were not loaded."""
    compared_on: str


def export_run(
    place: str | Path,
    dest: str | Path | None = None,
    *,
    forms: Sequence[str] | None = None,
    dtype: str | None = None,
    device: str | None = None,
    license: str | None = None,
) -> list[Exported]:
    """Export a run's models; all of it appears, or nothing.

    Args:
        place: a run folder, or a checkpoint, round, arm or role in it.
        dest: a folder that is not there or empty; by default `export` in the run folder, of a checkpoint, round,
            arm or role `export-<its name>`.
        forms: of adapters `adapter`, `merged`; None is both, or the adapter alone where the base is quantised. A whole
            model has the one form `model`.
        dtype: of merged and whole models, `float32`, `bfloat16`, `float16`; None keeps that of the run's base.
        device: None takes the GPU if there is one.
        license: for the model card, as the Hub names it: `apache-2.0`.

    Returns:
        What was written, every model compared.

    Raises:
        ValueError: for a folder that is no run, a form that it does not have, an export that is not the run's model.
        FileExistsError: if `dest` holds something.
    """
    run = find_run(place)
    chosen = _forms(run, forms)
    target = Path(dest or run.run / ("export" if run.folder == run.run else f"export-{run.folder.name}"))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is there already; name another DEST, or delete it.")
    with _whole(target) as fresh:
        found = []
        for role, saved in run.models.items():
            found += _export_model(run, role, saved, fresh, chosen, dtype, device)
        for form in chosen:
            if len(run.models) > 1:
                shutil.copyfile(run.run / PAIR, fresh / form / PAIR)  # so that `DROPair` loads the export
        if run.method == "prlm" and (run.run / "scorer").is_dir():
            _copy_scorer(run.run / "scorer", fresh / "scorer")
        for one in found:
            text = card(run, one.role, one.saved, one.form, target / one.folder, _checked(one), license)
            (fresh / one.folder / "README.md").write_text(text, encoding="utf-8")
    return [replace(one, folder=target / one.folder) for one in found]


def _forms(run: RunFolder, wanted: Sequence[str] | None) -> list[str]:
    adapters = all(saved.base is not None for saved in run.models.values())
    if not adapters:
        if wanted not in (None, [MODEL]):
            raise ValueError(f"{run.folder} holds a whole model, so that its one form is {MODEL}; leave out --form.")
        return [MODEL]
    if wanted is not None and MODEL in wanted:
        raise ValueError(f"{run.folder} holds an adapter; --form is {ADAPTER}, {MERGED}, or both.")
    bits = quantised(run)
    if bits and MERGED in (wanted or ()):
        raise ValueError(
            f"{run.folder} was trained on a base in {bits}. Merged into that, the adapter would be rounded away; "
            "merged into the full base, it would sit on other weights than it was trained on. Export the adapter "
            f"(--form {ADAPTER}), and load it on the base as the run did."
        )
    return list(wanted or ([ADAPTER] if bits else [ADAPTER, MERGED]))


def quantised(run: RunFolder) -> str | None:
    """What the base of a run was quantised to, in words; None if it was not."""
    said = run.configuration["model"]
    bits = [bits for bits, flag in (("4 bits", "load_in_4bit"), ("8 bits", "load_in_8bit")) if said.get(flag)]
    for saved in run.models.values():
        config = Path(saved.start) / MODEL_CONFIG
        if config.is_file() and read_object(config).get("quantization_config"):
            bits.append("a quantised checkpoint")
    return bits[0] if bits else None


def _export_model(
    run: RunFolder, role: str, saved: SavedModel, fresh: Path, forms: Sequence[str], dtype: str | None, device: Any
) -> list[Exported]:
    """All forms of one model; the model that the run saved is loaded once."""
    tokenizer = load_tokenizer(saved)
    if quantised(run):
        folder = Path(ADAPTER, role)
        _write_adapter(saved, fresh / folder, tokenizer)
        return [Exported(ADAPTER, role, folder, saved, None, "not loaded: the base is quantised")]
    model = load_model(saved, dtype=run.configuration["model"].get("dtype") or "auto", device=device)
    rows, described = rows_of(run, role, tokenizer)
    saved_N, base_N = token_logprobs(model, rows), None
    if saved.base is not None:
        with model.disable_adapter():
            base_N = token_logprobs(model, rows)
    own = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
    wanted = getattr(torch, dtype) if dtype else own
    found = []
    for form in sorted(forms, key=[ADAPTER, MERGED, MODEL].index):  # merging changes the model, so it comes last
        folder = Path(form, role)
        if form == ADAPTER:
            _write_adapter(saved, fresh / folder, tokenizer)
            model.generation_config.save_pretrained(fresh / folder)
        else:
            model = _in_dtype(model, wanted)
            model.save_pretrained(fresh / folder)
            tokenizer.save_pretrained(fresh / folder)
        kept = own if form == ADAPTER else wanted
        compared = _reload(fresh / folder, kept, own, rows, saved_N, base_N, device)
        found.append(Exported(form, role, folder, saved, compared, described))
    return found


def _reload(
    folder: Path, kept: torch.dtype, own: torch.dtype, rows: list[list[int]], saved_N: Tensor, base_N: Any, device: Any
) -> Comparison:
    exported = saved_model(folder)
    again = load_model(exported, dtype="auto" if exported.base is None else kept, device=device)
    coarser = max(kept, own, key=TOLERANCE.__getitem__)
    return compare(saved_N, token_logprobs(again, rows), base_N, coarser, str(folder))


def _in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """The model with its adapter merged in fp32, rounded once."""
    if hasattr(model, "merge_and_unload"):
        model = model.float().merge_and_unload()
    return model.to(dtype)


def _write_adapter(saved: SavedModel, folder: Path, tokenizer: Any) -> None:
    """The adapter's own weights, to the byte; its configuration with the revision of the base that was trained."""
    folder.mkdir(parents=True)
    source = Path(saved.place)
    shutil.copyfile(source / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    said = read_object(source / ADAPTER_CONFIG) | {"revision": saved.revision}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def _copy_scorer(source: Path, folder: Path) -> None:
    """A reward model without the users and pairs that it was trained on."""
    folder.mkdir()
    for path in {path for pattern in SCORER_FILES for path in source.glob(pattern)}:
        if path.name not in PRIVATE:
            shutil.copyfile(path, folder / path.name)


def _checked(one: Exported) -> str:
    return one.compared_on if one.comparison is None else f"{one.comparison} ({one.compared_on})"


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name once everything is in it, and is deleted otherwise."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh.mkdir()
    try:
        yield fresh
        os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
