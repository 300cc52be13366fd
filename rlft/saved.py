"""Models on disk: what a folder holds, and loading it from safetensors alone. Imports no torch by itself.

A pickle (`*.bin`, `*.pt`, ...) can run code while it is read. transformers and PEFT fall back to one where they find no
safetensors file, so a folder is looked through before it is given to them, and `SAFETENSORS` goes to `from_pretrained`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAFETENSORS = {"use_safetensors": True}
"""For every `from_pretrained` of a model."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL_CONFIG, MODEL_WEIGHTS, MODEL_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_BLANK = ("[More Information Needed]", "fine-tuned version of [None]")


@dataclass(frozen=True)
class SavedModel:
    """An adapter, or a whole model."""

    place: str
    """Its folder or Hub id."""
    base: str | None
    """Of an adapter: the folder or Hub id of its base. None for a whole model."""
    revision: str | None
    """Hub revision of the base, or of the whole model; None is the default branch."""

    @property
    def start(self) -> str:
        """Folder or Hub id of the whole model that is loaded first."""
        return self.base or self.place


def saved_model(place: str | Path, revision: str | None = None) -> SavedModel:
    """What a folder or Hub id holds.

    Args:
        place: folder of an adapter or of a whole model, or the Hub id of a whole model.
        revision: Hub revision of the base or whole model; an adapter's own `revision` wins.

    Raises:
        ValueError: for a folder that holds no model, or pickled weights alone, or whose base is not there; for a Hub id
            of an adapter.
    """
    folder = Path(place)
    if not folder.is_dir():
        _refuse_adapter_on_hub(str(place), revision)
        return SavedModel(str(place), None, revision)
    refuse_pickles(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        if not (folder / MODEL_CONFIG).is_file():
            raise ValueError(f"{folder} holds no model: neither {ADAPTER_CONFIG} nor {MODEL_CONFIG} is in it.")
        return SavedModel(str(folder), None, None)
    said = read_object(folder / ADAPTER_CONFIG)
    base = said.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path; write there what was trained.")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ValueError(
            f"{folder}: its base was {base}, and there is no such folder. Set base_model_name_or_path in "
            f"{ADAPTER_CONFIG} to where the base lies now."
        )
    return SavedModel(str(folder), base, None if Path(base).is_dir() else said.get("revision") or revision)


def refuse_pickles(place: str | Path, *, needs_weights: bool = True) -> None:
    """Refuse a folder from which a pickle would be read: its own weights, or those of the base of its adapter.

    Args:
        place: a folder; anything else (a Hub id) is passed over, `SAFETENSORS` holds there.
        needs_weights: refuse a folder without any weights too.

    Raises:
        ValueError: naming the pickle, and how to convert it.
    """
    folder = Path(place)
    if (folder / ADAPTER_CONFIG).is_file():
        if not (folder / ADAPTER_WEIGHTS).is_file():
            _refuse(folder, ADAPTER_WEIGHTS, needs_weights)
        base = read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        if isinstance(base, str) and Path(base).is_dir() and Path(base).resolve() != folder.resolve():
            refuse_pickles(base, needs_weights=needs_weights)
    elif (folder / MODEL_CONFIG).is_file():
        for name in _named_files(folder):
            if not name.endswith((".safetensors", ".safetensors.index.json")):
                raise ValueError(_message(folder, name, MODEL_WEIGHTS))
        if not any((folder / name).is_file() for name in (MODEL_WEIGHTS, MODEL_INDEX)):
            _refuse(folder, MODEL_WEIGHTS, needs_weights)


def load_model(saved: SavedModel, *, dtype: Any = "auto", device: Any = None) -> Any:
    """Load it in evaluation mode.

    Args:
        saved: from `saved_model`.
        dtype: of the base or whole model; `auto` is the checkpoint's.
        device: None takes the GPU if there is one.

    Returns:
        A `PeftModel`, or the model of transformers.

    Raises:
        ValueError: if it cannot be loaded.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            saved.start, revision=saved.revision, dtype=dtype, **SAFETENSORS
        )
        if saved.base is not None:
            model = PeftModel.from_pretrained(model, saved.place)
    except (OSError, KeyError) as error:
        raise ValueError(f"{saved.place} cannot be loaded: {' '.join(str(error).split())[:400]}") from error
    return model.to(device).eval()


def load_tokenizer(saved: SavedModel) -> Any:
    """The tokenizer that lies with it, else that of the base.

    Raises:
        ValueError: if there is none.
    """
    from transformers import AutoTokenizer

    own = Path(saved.place)
    beside = not own.is_dir() or any((own / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    place, revision = (saved.place, None) if beside and saved.base else (saved.start, saved.revision)
    try:
        return AutoTokenizer.from_pretrained(place, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"{place} has no tokenizer: {' '.join(str(error).split())[:400]}") from error


def drop_blank_card(folder: Path) -> None:
    """Delete the model card that PEFT and TRL save when they know no base; `rlft export` writes one with content."""
    card = folder / "README.md"
    if card.is_file() and any(mark in card.read_text(encoding="utf-8") for mark in _BLANK):
        card.unlink()


def _named_files(folder: Path) -> Iterator[str]:
    """Files that the model's own JSON names as its weights, whatever else lies there."""
    named = read_object(folder / MODEL_CONFIG).get("transformers_weights")
    if named is not None:
        yield str(named)
    if (folder / MODEL_INDEX).is_file() and not (folder / MODEL_WEIGHTS).is_file():
        yield from map(str, dict(read_object(folder / MODEL_INDEX).get("weight_map") or {}).values())


def _refuse(folder: Path, wanted: str, needs_weights: bool) -> None:
    pickled = sorted(path.name for path in folder.iterdir() if path.name.endswith(_PICKLED))
    weights = [name for name in pickled if name != "training_args.bin"]
    if weights:
        raise ValueError(_message(folder, weights[0], wanted))
    if needs_weights:
        raise ValueError(f"{folder} has no {wanted}; put it back, or save the model again.")


def _message(folder: Path, pickle: str, wanted: str) -> str:
    return (
        f"{folder} gives its weights as {pickle}, a pickle, which can run code while it is read; {wanted} is needed. "
        "If you trust where it comes from, load it once with transformers or peft, and save_pretrained it elsewhere."
    )


def _refuse_adapter_on_hub(name: str, revision: str | None) -> None:
    from transformers.utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is neither a folder nor a model on the Hub: {' '.join(str(error).split())[:300]}"
        ) from error
    if found is not None:
        raise ValueError(f"{name} is an adapter on the Hub; download it first: hf download {name} --local-dir FOLDER")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        ValueError: if it holds anything else.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path} holds a {type(said).__name__}, not an object.")
    return said
