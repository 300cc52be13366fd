"""What a run's reward model comes of, beside it in its folder: options, and the rows it was trained on. No torch.

made.json    {"settings": {option: value}, "rows": [[id, user_id], ...]}
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlft.data.personal import PersonalRows
from rlft.reward_models.folder import ScorerError, read_scorer_folder
from rlft.reward_models.pair_file import Pair
from rlft.reward_models.spec import ScorerSpec
from rlft.reward_models.users import user_of

MADE = "made.json"


@dataclass(frozen=True)
class Origin:
    """Options, and the rows of the pairs that a reward model was trained with."""

    settings: dict[str, Any]
    rows: frozenset[tuple[str, str | None]]
    """Id and user of each; None where the data has no user ids."""

    @property
    def users(self) -> frozenset[str]:
        """Those whose names are known."""
        return frozenset(user for _, user in self.rows if user is not None)


def write_origin(folder: Path, settings: Mapping[str, Any], pairs: Iterable[Pair]) -> None:
    """Write `made.json`.

    Args:
        folder: of the reward model.
        settings: options by name, JSON-able.
        pairs: it was trained with.
    """
    said = {"settings": dict(settings), "rows": [[pair.id, pair.user_id] for pair in pairs]}
    (folder / MADE).write_text(json.dumps(said) + "\n", encoding="utf-8")


def read_origin(folder: str | Path) -> Origin | None:
    """What a folder says of its origin; None for one that no run made.

    Raises:
        ScorerError: if the file is malformed.
    """
    path = Path(folder) / MADE
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Origin(dict(said["settings"]), frozenset((str(row), user) for row, user in said["rows"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ScorerError(f"{path} is not what rlft writes ({error!r}); put the run's own file back.") from error


def changes(folder: str | Path, spec: ScorerSpec, settings: Mapping[str, Any]) -> list[str]:
    """In what a reward model differs from one that would be made now, in words.

    Args:
        folder: of the reward model.
        spec: wanted.
        settings: wanted; those that the folder does not tell are passed over.

    Raises:
        ScorerError: if the folder cannot be used, or is of another task.
    """
    origin = read_origin(folder)
    was = asdict(read_scorer_folder(folder, spec.task).spec) | ({} if origin is None else origin.settings)
    now = asdict(spec) | dict(settings)
    return [f"{name} was {was[name]!r}, is {now[name]!r}" for name in now if was.get(name, now[name]) != now[name]]


def without_seen(rows: PersonalRows, folder: str | Path) -> PersonalRows:
    """Rows without those that a reward model was trained on, whose answers it knows by heart.

    Args:
        rows: what was read.
        folder: of the reward model; nothing is left out for one that does not say.

    Raises:
        DataError: if no row to train on is left.
    """
    origin = read_origin(folder)
    if origin is None:
        return rows
    known = origin.rows
    reason = f"the reward model {folder} was trained on it"
    return rows.without(lambda row: (str(row["id"]), user_of(row)) in known, reason)
