"""Questions about a toy world, with gold answers, the searches that lead to them, and the search that misleads.

In every two-hop question the entity in between has another type than the one asked about (a company where the question
names a person, a person where it names a company), so that asking about the wrong one at the second hop is one known
token, not a mixture of two names.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlft.tiny.world import Fact, World, spellings

SPLITS = {"train": (0.0, 0.6), "dev": (0.6, 0.7), "test": (0.7, 1.0)}
"""Which part of the people and of the companies each split asks about."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of question: its wording, the relations to follow, and the one that the careless searcher follows."""

    name: str
    text: str
    about: str
    """`people` or `companies`."""
    relations: tuple[str, ...]
    careless: str
    """Relation of the question's own entity, asked instead of the second."""


TWO_HOP = (
    Kind("employer-city", "where is the employer of {} based ?", "people", ("works", "based"), "born"),
    Kind("founder-birthplace", "where was the founder of {} born ?", "companies", ("founded", "born"), "based"),
    Kind("employer-founder", "who founded the employer of {} ?", "people", ("works", "founded"), "mentored"),
)


def questions(world: World, kinds: Sequence[Kind] = TWO_HOP, split: str | None = None) -> list[dict[str, Any]]:
    """Every question of some kinds about a part of a world.

    Args:
        world: the world.
        kinds: `TWO_HOP`, or some of them.
        split: a key of `SPLITS`; None asks about everyone.

    Returns:
        Rows `{id, question, golden_answers, kind, hops, careless}`, kind after kind. `golden_answers` holds accepted
        spellings, the full name first; a hop is `{query, fact, passage_id}`, and so is `careless`, what the careless
        searcher asks at the second hop. For example `{"id": "employer-city/desu_niva",
        "question": "where is the employer of desu niva based ?", "golden_answers": ["veda"], "kind": "employer-city",
        "hops": [{"query": "desu niva works", "fact": "desu niva works at baso bank", "passage_id": "desu_niva/works"},
        {"query": "baso bank based", ...}], "careless": {"query": "desu niva born", ...}}`.
    """
    return [question(world, kind, entity) for kind in kinds for entity in _asked(world, kind, split)]


def sample(
    world: World, count: int, seed: int, split: str | None = None, kinds: Sequence[Kind] = TWO_HOP
) -> list[dict[str, Any]]:
    """`count` different questions in random order, the kinds equally frequent as long as they last.

    Args:
        world, split, kinds: as in `questions`.
        count: how many.
        seed: of the choice.

    Raises:
        ValueError: if the split holds fewer questions.
    """
    rng = random.Random(f"questions {seed} {split}")
    pools = [questions(world, [kind], split) for kind in kinds]
    if count > sum(map(len, pools)):
        raise ValueError(
            f"{count} questions wanted, the world's {split or 'whole'} part has {sum(map(len, pools))}: ask for fewer, "
            "or for a larger world."
        )
    for pool in pools:
        rng.shuffle(pool)
    chosen: list[dict[str, Any]] = []
    while len(chosen) < count:
        chosen += [pool.pop() for pool in pools if pool]
    chosen = chosen[:count]
    rng.shuffle(chosen)
    return chosen


def question(world: World, kind: Kind, entity: str) -> dict[str, Any]:
    """The row of one question: `kind` asked about `entity`."""
    facts, subject = [], entity
    for relation in kind.relations:
        facts.append(world.fact(subject, relation))
        subject = facts[-1].object
    return {
        "id": f"{kind.name}/{entity.replace(' ', '_')}",
        "question": kind.text.format(entity),
        "golden_answers": spellings(subject),
        "kind": kind.name,
        "hops": [_hop(fact) for fact in facts],
        "careless": _hop(world.fact(entity, kind.careless)),
    }


def _hop(fact: Fact) -> dict[str, str]:
    return {"query": fact.query, "fact": fact.text, "passage_id": fact.passage_id}


def _asked(world: World, kind: Kind, split: str | None) -> list[str]:
    entities = world.people if kind.about == "people" else world.companies
    if split is None:
        return entities
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}, only {', '.join(SPLITS)}.")
    low, high = (round(part * len(entities)) for part in SPLITS[split])
    return entities[low:high]
