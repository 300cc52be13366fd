"""What a recipe's run folder holds: its method, its configuration and the models that it left. No torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rlft.record.folder import CONFIG_NAME
from rlft.record.provenance import read_provenance
from rlft.saved import ADAPTER_CONFIG, MODEL_CONFIG, SavedModel, saved_model

ROLES = ("selector", "generator")
_OF_RECIPE = {
    "selector_model": "dro",
    "warm_up_dataset": "exsearch",
    "scorer_form": "prlm",
    "arms": "stoc",
    "eval_metric": "shear",
}
"""An argument that only this method's recipe has."""


@dataclass(frozen=True)
class RunFolder:
    """A run, or a part of it that holds a model: a checkpoint, a round, an arm, one of two roles."""

    folder: Path
    """What was named."""
    run: Path
    """The folder with `config.yaml`: the same, or one that it lies in."""
    method: str
    """shear, exsearch, dro, prlm or stoc."""
    configuration: Mapping[str, Any]
    """What `config.yaml` says."""
    provenance: Mapping[str, Any]
    """What `provenance.json` says, nothing if there is none."""
    models: Mapping[str, SavedModel]
    """By role; the role of the only model is empty."""

    @property
    def training(self) -> dict[str, Any]:
        """The training arguments; of an arm its own."""
        said = dict(self.configuration["training"])
        return dict(said.get(self.folder.name) or next(iter(said.values()))) if self.method == "stoc" else said

    @property
    def whole(self) -> bool:
        """Whether these are the models with which the run ended, rather than those of a checkpoint or round."""
        return not self.folder.name.startswith(("checkpoint-", "round-"))


def find_run(place: str | Path) -> RunFolder:
    """Read a run folder, or a checkpoint, round, arm or role of one.

    Args:
        place: the folder.

    Raises:
        ValueError: if it is none, or holds no model, saying which folders of it do.
    """
    folder = Path(place).resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give a run's output_dir, or a checkpoint, round or arm in it.")
    run = next((one for one in (folder, *folder.parents[:2]) if (one / CONFIG_NAME).is_file()), None)
    if run is None:
        raise ValueError(f"{folder} is no run: neither it nor the folders it lies in hold {CONFIG_NAME}.")
    configuration = read_configuration(run)
    revision = configuration["model"].get("model_revision")
    provenance = read_provenance(run)
    commits = provenance.get("commits", {})
    models = {role: saved_model(path, revision) for role, path in _places(folder).items()}
    pinned = {role: replace(one, revision=commits.get(one.base, one.revision)) for role, one in models.items()}
    return RunFolder(folder, run, _method(configuration, run), configuration, provenance, pinned)


def read_configuration(run: Path) -> dict[str, Any]:
    """What a run's `config.yaml` says.

    Raises:
        ValueError: if it is not what a recipe writes.
    """
    path = run / CONFIG_NAME
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    parts = ("recipe", "data", "model", "training")
    if not isinstance(said, dict) or not all(isinstance(said.get(part), dict) for part in parts):
        raise ValueError(f"{path} is not what a recipe writes: it has the parts {', '.join(parts)}.")
    return said


def _method(configuration: Mapping[str, Any], run: Path) -> str:
    found = [method for argument, method in _OF_RECIPE.items() if argument in configuration["recipe"]]
    if not found:
        raise ValueError(f"{run / CONFIG_NAME} is of no recipe of rlft: its part `recipe` has none of its arguments.")
    return found[0]


def _places(folder: Path) -> dict[str, Path]:
    if all(_holds_model(folder / role) for role in ROLES):
        return {role: folder / role for role in ROLES}
    if _holds_model(folder):
        return {"": folder}
    inside = [one for one in sorted(folder.iterdir()) if one.is_dir() and _holds_model(one) and one.name != "scorer"]
    pairs = [one.parent for one in sorted(folder.glob(f"round-*/{ROLES[0]}"))]
    raise ValueError(
        f"{folder} holds no model itself. "
        + (f"These do: {_listed([*inside, *pairs])}; name one." if inside or pairs else "Did the run finish?")
    )


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (ADAPTER_CONFIG, MODEL_CONFIG))


def _listed(folders: Iterable[Path]) -> str:
    return ", ".join(map(str, folders))
