"""What a STOC run trained on and what it dropped: new text, the model's own replay, and what filters took out."""

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlft.record.groups import StepSize
from rlft.record.token_texts import Reader
from rlft.report.choose import gzip_size
from rlft.report.item import MASKED, PROMPT, TRAINED, Item, ItemGroup, Part, runs_of_roles
from rlft.report.results import read_json

_IGNORED = -100


class ReplayFile(NamedTuple):
    """A file of rows."""

    arm: str
    path: Path
    dropped: bool
    """Whether only rows that filters took out are of interest: the others stand in the mix."""


def replay_sizes(arms: Mapping[str, Path]) -> dict[ReplayFile, StepSize]:
    """What each file of rows of each arm holds, in order.

    Raises:
        ValueError: if one is damaged.
    """
    found = {}
    for arm, folder in arms.items():
        for path in sorted((folder / "replay").glob("written-*.jsonl.gz")):
            if read_json(folder / "replay" / "filter.json").get("reasons"):
                found[ReplayFile(arm, path, True)] = gzip_size(path)
        if (path := folder / "replay" / "mix.jsonl.gz").is_file():
            found[ReplayFile(arm, path, False)] = gzip_size(path)
    return found


def replay_groups(file: ReplayFile, read: Reader) -> Iterator[ItemGroup]:
    """The rows of a file; those of one seed stand together.

    Args:
        file: of `replay_sizes`.
        read: from ids to token texts.

    Raises:
        ValueError: if it is damaged.
    """
    reasons = read_json(file.path.parent / "filter.json").get("reasons", {}) if file.dropped else {}
    of: dict[tuple[str, str], list[Item]] = {}
    for row in _rows(file.path):
        if not file.dropped or row["id"] in reasons:
            source = "dropped" if file.dropped else str(row.get("source", "mix"))
            key = (source, str(row.get("seed_id", row["id"])))
            of.setdefault(key, []).append(_item(row, read, reasons.get(row["id"])))
    for (source, name), items in of.items():
        yield ItemGroup(f"{file.arm}: {source}" if file.arm else source, name, [], items)


def _item(row: Mapping[str, Any], read: Reader, reason: str | None) -> Item:
    facts = [] if reason is None else [("dropped", reason)]
    if "logprob" in row:
        facts.append(("log-prob of a token", f"{row['logprob']:.3g}"))
    facts.append(("", f"{len(row['ids'])} tokens"))
    texts, seed = read(row["ids"]), row.get("seed_tokens", 0)
    if reason is not None or "seed_tokens" in row:
        role = MASKED if reason is not None else TRAINED
        parts = [Part(role, "seed", texts[:seed]), Part(role, "written by the model", texts[seed:])]
        return Item(facts, [part for part in parts if part.texts])
    labels = row.get("labels") or row["ids"]
    return Item(facts, runs_of_roles(texts, None, [PROMPT if label == _IGNORED else TRAINED for label in labels]))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rb") as file:
        yield from map(json.loads, file)
