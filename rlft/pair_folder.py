"""What the folder of a finished DRO run says of its pair, checked before a model is loaded. No torch is imported.

pair.json    {"selector_model", "selector_revision", "generator_model", "generator_revision", "list": {...},
              "reading": {...}, "chat_template_kwargs": {...}}
selector/    an adapter of selector_model, or a whole model
generator/   the same of the generator
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft.rollouts.list_text import ListOptions
from rlft.rollouts.reading import ReadingOptions
from rlft.saved import ADAPTER_CONFIG, MODEL_CONFIG, read_object, refuse_pickles

PAIR = "pair.json"
SELECTOR, GENERATOR = ROLES = ("selector", "generator")
_HOLDS = (
    f"A finished DRO run leaves {PAIR} and the folders {SELECTOR}/ and {GENERATOR}/, both adapters (with "
    "adapter_config.json) or both whole models (with config.json)."
)


@dataclass(frozen=True)
class PairFolder:
    """A folder that holds a pair."""

    folder: Path
    models: dict[str, str]
    """Of each role: what its training started from, a folder or Hub id; the base where it is an adapter."""
    revisions: dict[str, str | None]
    """Of each role: the Hub revision of that."""
    adapters: bool
    """Both are adapters; else both are whole models."""
    lists: ListOptions
    reading: ReadingOptions
    template_kwargs: dict[str, Any]

    @property
    def one_base(self) -> bool:
        """Whether both are adapters of one model."""
        named = {(self.models[role], self.revisions[role]) for role in ROLES}
        return self.adapters and len(named) == 1

    @property
    def tokenizers(self) -> dict[str, str]:
        """Where each role's tokenizer lies: in its folder, in the run's, or with the model it started from."""
        places = {role: (self.folder / role, self.folder) for role in ROLES}
        return {
            role: next(
                (str(place) for place in found if (place / "tokenizer_config.json").is_file()), self.models[role]
            )
            for role, found in places.items()
        }


def read_pair_folder(folder: Path) -> PairFolder:
    """Read and check it.

    Args:
        folder: of a finished DRO run.

    Raises:
        ValueError: saying what is missing or malformed, and what a pair's folder holds.
    """
    if not (folder / PAIR).is_file():
        what = f"{folder} is no folder" if not folder.is_dir() else f"{folder} has no {PAIR}"
        raise ValueError(f"{what}. {_HOLDS} Give its path once it is finished.")
    kinds = {role: _kind(folder, role) for role in ROLES}
    if len(set(kinds.values())) > 1:
        halves = " and ".join(f"{role}/ holds {kind}" for role, kind in kinds.items())
        raise ValueError(
            f"{folder}: {halves}. {_HOLDS} Merge the adapter into its base (merge_and_unload) to mix them."
        )
    for role in ROLES:
        refuse_pickles(folder / role)
    said = read_object(folder / PAIR)
    try:
        models = {role: str(said[f"{role}_model"]) for role in ROLES}
        revisions = {role: said.get(f"{role}_revision") for role in ROLES}
        lists, reading = ListOptions(**said["list"]), ReadingOptions(**said["reading"])
        template_kwargs = dict(said.get("chat_template_kwargs") or {})
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{folder / PAIR} is not what a DRO run writes: {reason}. It holds selector_model, generator_model, list, "
            "reading and chat_template_kwargs."
        ) from error
    adapters = "adapter" in kinds[SELECTOR]
    for role in ROLES if adapters else ():
        if Path(models[role]).is_absolute() and not Path(models[role]).is_dir():
            raise ValueError(
                f"{folder}: the base of {role}/ was {models[role]}, and there is no such folder; set {role}_model in "
                f"{PAIR} to where it lies now."
            )
    return PairFolder(folder, models, revisions, adapters, lists, reading, template_kwargs)


def _kind(folder: Path, role: str) -> str:
    half = folder / role
    if not half.is_dir():
        raise ValueError(f"{folder} has no {role}/. {_HOLDS}")
    files = {ADAPTER_CONFIG: "an adapter", MODEL_CONFIG: "a whole model"}
    kind = next((kind for name, kind in files.items() if (half / name).is_file()), None)
    if kind is None:
        raise ValueError(f"{half} holds neither {' nor '.join(files)}. {_HOLDS}")
    return kind
