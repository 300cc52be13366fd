"""Candidate lists: a question, the passages that answer it, and look-alikes, in random order.

Look-alikes are in turn about an entity of the question's path (another relation) and about the asked relation (another
subject), so that neither the name nor the relation alone gives the gold passages away.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from rlft.tiny.questions import ONE_HOP, Kind, sample
from rlft.tiny.world import Fact, World


def candidate_lists(
    world: World, count: int, seed: int, *, size: int = 6, split: str | None = None, kinds: Sequence[Kind] = ONE_HOP
) -> list[dict[str, Any]]:
    """Questions with `size` candidate passages each.

    Args:
        world, count, split, kinds: as in `questions.sample`.
        seed: of the questions, the look-alikes and their order.
        size: candidates per question, more than the question has hops.

    Returns:
        Rows of `questions` with two more columns: `candidates`, passages `{id, title, text}`, and `gold`, the places
        (from 0) of the hops' passages in that list, in the order of the hops. For example, to "where was desu niva
        born ?": candidates `desu niva works at baso bank .`, `pule sami was born in gora .`,
        `desu niva was born in veda .`, ..., and gold `[2]`.

    Raises:
        ValueError: if `size` leaves no place for a look-alike.
    """
    hops = max(len(kind.relations) for kind in kinds)
    if size <= hops:
        raise ValueError(f"{size} candidates for questions of {hops} hops: ask for at least {hops + 1}.")
    rng = random.Random(f"candidates {seed} {split}")
    about, stating = _index(world)
    rows = []
    for row in sample(world, count, seed, split, kinds):
        gold = [world.fact(*hop["query"].rsplit(" ", 1)) for hop in row["hops"]]
        relatives = [fact for one in gold for fact in about[one.subject]]
        peers = [fact for one in gold for fact in rng.sample(stating[one.relation], min(size + 1, len(world.people)))]
        rng.shuffle(relatives)
        chosen = [*gold, *itertools.islice(_alternate(relatives, peers, gold), size - len(gold))]
        rng.shuffle(chosen)
        candidates = [fact.passage for fact in chosen]
        rows.append({**row, "candidates": candidates, "gold": [chosen.index(fact) for fact in gold]})
    return rows


def _index(world: World) -> tuple[dict[str, list[Fact]], dict[str, list[Fact]]]:
    """Facts that mention an entity, and facts that state a relation."""
    about: dict[str, list[Fact]] = {}
    stating: dict[str, list[Fact]] = {}
    for fact in world.facts:
        about.setdefault(fact.subject, []).append(fact)
        about.setdefault(fact.object, []).append(fact)
        stating.setdefault(fact.relation, []).append(fact)
    return about, stating


def _alternate(relatives: Sequence[Fact], peers: Sequence[Fact], gold: Sequence[Fact]) -> Iterator[Fact]:
    """One of each in turn, none twice and none that is gold."""
    seen = set(gold)
    for pair in itertools.zip_longest(relatives, peers):
        for fact in pair:
            if fact and fact not in seen:
                seen.add(fact)
                yield fact
