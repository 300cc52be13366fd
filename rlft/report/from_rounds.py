"""Rollouts of EM: every shard of trajectories in a round, those of the E-step with their weights."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rlft.record.groups import StepSize
from rlft.record.jsonl import read_jsonl
from rlft.record.token_texts import Reader
from rlft.report.choose import gzip_size
from rlft.report.item import ENVIRONMENT, MASKED, PROMPT, TRAINED, Item, ItemGroup, Part
from rlft.rollouts.store import read_shard
from rlft.rollouts.trajectory import Trajectory

_SHARD = re.compile(r"(.+)-\d{5}\.jsonl\.gz")
SAMPLED = ("trajectories", "lists")
"""Names of what the E-step sampled; other shards are validation's."""
MOST_CHARACTERS = 120
"""Of a fact."""
Weights = dict[str, dict[str, Any]]


class Shard(NamedTuple):
    """A file of trajectories."""

    round: int
    name: str
    path: Path


def shard_sizes(rounds: Mapping[int, Path]) -> dict[Shard, StepSize]:
    """What each shard of each round holds, those of the E-step first, without parsing it.

    Raises:
        ValueError: if one is damaged.
    """
    shards = [
        Shard(number, match[1], path)
        for number, folder in rounds.items()
        for path in sorted(folder.glob("*.jsonl.gz"))
        if (match := _SHARD.fullmatch(path.name))
    ]
    return {shard: gzip_size(shard.path) for shard in sorted(shards, key=lambda shard: shard.name not in SAMPLED)}


def shard_groups(shard: Shard, read: Reader) -> Iterator[ItemGroup]:
    """The questions of a shard with their trajectories.

    Args:
        shard: of `shard_sizes`.
        read: from ids to token texts.

    Raises:
        ValueError: if it is damaged.
    """
    weights = _weights(shard.path.parent) if shard.name in SAMPLED else {}
    where = f"round {shard.round}: {shard.name}"
    of: dict[str, list[Trajectory]] = {}
    for key, trajectory in read_shard(shard.path):
        of.setdefault(str(key["id"]), []).append(trajectory)
    for name, trajectories in of.items():
        found = weights.get(name, {})
        shared = all(one.prompt_ids == trajectories[0].prompt_ids for one in trajectories)
        prompt = [Part(PROMPT, "", read(trajectories[0].prompt_ids))] if shared else []
        items = [_item(one, found, place, read, shared) for place, one in enumerate(trajectories)]
        yield ItemGroup(where, name, prompt, items, _of_question(found))


def _item(trajectory: Trajectory, found: Mapping[str, Any], place: int, read: Reader, shared: bool) -> Item:
    facts = []
    weight = (found.get("weights_K") or {place: 0.0})[place] if found else None
    if weight is not None:
        score = found["scores_K"][place]
        facts += [("weight", f"{weight:.3g}"), ("log-likelihood", "none" if score is None else f"{float(score):.3g}")]
    facts += [(name, str(value)[:MOST_CHARACTERS]) for name, value in trajectory.fields.items() if _told(name, value)]
    facts += [("", f"{len(trajectory.completion_ids)} tokens"), ("ended by", str(trajectory.finish))]
    role = TRAINED if weight else MASKED
    parts = [] if shared else [Part(PROMPT, "", read(trajectory.prompt_ids))]
    parts += _segments(trajectory, read, role)
    for branch in trajectory.branches:
        parts += [Part(PROMPT, "aside", read(branch.prompt_ids)), *_segments(branch, read, role)]
    return Item(facts, parts)


def _segments(trajectory: Trajectory, read: Reader, role: str) -> list[Part]:
    return [
        Part(role if segment.trainable else ENVIRONMENT, segment.label, read(segment.ids))
        for segment in trajectory.segments
    ]


def _of_question(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not found:
        return []
    if found["dropped"]:
        return [("dropped", found["dropped"])]
    return [("effective sample size", f"{found['ess']:.3g}")]


def _told(name: str, value: Any) -> bool:
    """Whether a field of a trajectory says something in a line."""
    return name != "id" and isinstance(value, str | int | float) and value not in (False, 0, "")


@lru_cache(maxsize=1)  # a round has many shards
def _weights(folder: Path) -> Weights:
    path = folder / "weights.jsonl"
    return {str(row["id"]): row for row in read_jsonl(path)} if path.is_file() else {}
