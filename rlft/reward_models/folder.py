"""A scorer's folder, checked before a model is loaded. No torch.

scorer.json              {"spec": {...}, "tokenizer": fingerprint, "trained": {...}}
model.safetensors        a sequence-classification model with one output, with its config.json;
                         or adapter_model.safetensors with adapter_config.json
tokenizer.json, ...      its tokenizer
held_out.jsonl           pairs of users that it was not trained on, where there are any
made.json                rows and users that it was trained on, and by which options, where a recipe made it
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlft.reward_models.pair_file import KINDS
from rlft.reward_models.spec import ScorerSpec
from rlft.saved import saved_model

SCORER, HELD_OUT = "scorer.json", "held_out.jsonl"
_HOLDS = (
    f"A scorer's folder holds {SCORER}, a tokenizer, and config.json with model*.safetensors or adapter_config.json "
    "with adapter_model.safetensors; rlft.reward_models.save_scorer writes one."
)
_PROBE = "It's 12 {o'clock}: naïve Tokens, [SEP] <s> 日本\n\tend."


class ScorerError(ValueError):
    """A scorer's folder that cannot be used, or text that its scorer cannot read."""


@dataclass(frozen=True)
class ScorerFolder:
    """A folder that holds a scorer."""

    folder: Path
    spec: ScorerSpec
    tokenizer: str
    """Fingerprint of the tokenizer it was trained with."""
    trained: dict[str, Any]
    """Loss, pairs and kinds of negatives of its training."""
    adapter_base: str | None
    """Where it is an adapter: its base model, a folder or Hub id."""


def read_scorer_folder(folder: str | Path, task: str | None = None) -> ScorerFolder:
    """Read and check it.

    Args:
        folder: that `save_scorer` wrote.
        task: that is to be scored; None takes any.

    Raises:
        ScorerError: saying what is missing or malformed, or that it was trained for another task.
    """
    folder = Path(folder)
    if not (folder / SCORER).is_file():
        what = f"{folder} is no folder" if not folder.is_dir() else f"{folder} has no {SCORER}"
        inside = [found.parent for found in sorted(folder.glob(f"*/{SCORER}"))]
        raise ScorerError(f"{what}; is it {inside[0]}?" if inside else f"{what}. {_HOLDS}")
    try:
        said = json.loads((folder / SCORER).read_text(encoding="utf-8"))
        spec, tokenizer, trained = ScorerSpec(**said["spec"]), str(said["tokenizer"]), dict(said["trained"])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ScorerError(
            f"{folder / SCORER} is not what rlft writes: {reason}. It holds spec, tokenizer, trained."
        ) from error
    if task is not None and task != spec.task:
        raise ScorerError(
            f"{folder} is a scorer for the task {spec.task!r}, not for {task!r}; train one on pairs of {task!r}, or "
            "give the folder of its scorer."
        )
    return ScorerFolder(folder, spec, tokenizer, trained, _adapter_base(folder))


def trained_kinds(folder: str | Path) -> tuple[str, ...]:
    """Kinds of rejected answers that a scorer was trained to tell; all of them where its folder does not say."""
    counts = read_scorer_folder(folder).trained.get("negatives", {})
    return tuple(kind for kind, count in counts.items() if count) or KINDS


def write_scorer_json(folder: Path, spec: ScorerSpec, tokenizer: Any, trained: Mapping[str, Any]) -> None:
    """Write `scorer.json` beside a saved model and tokenizer."""
    said = {"spec": asdict(spec), "tokenizer": fingerprint(tokenizer), "trained": dict(trained)}
    (folder / SCORER).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def fingerprint(tokenizer: Any) -> str:
    """Names a tokenizer by what it does: its vocabulary, its special tokens, and how it reads a text full of traps."""
    content = [sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, tokenizer(_PROBE)["input_ids"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def check_tokenizer(found: ScorerFolder, tokenizer: Any) -> None:
    """Refuse a tokenizer that is not the one the scorer was trained with.

    Raises:
        ScorerError: since the model would read other tokens than it learnt.
    """
    if (name := fingerprint(tokenizer)) != found.tokenizer:
        raise ScorerError(
            f"{found.folder} was trained with another tokenizer: {SCORER} says {found.tokenizer}, the one beside it is "
            f"{name}. Put the tokenizer's own files back, or train the scorer again with this one."
        )


def _adapter_base(folder: Path) -> str | None:
    try:
        return saved_model(folder).base
    except ValueError as error:
        raise ScorerError(f"{error} {_HOLDS}") from error
