"""Biographies in two phases: many old people, then a few new ones whose names are made of the same words.

Each person has a birthday, a home city, a field of study and an employer, told in several fixed paraphrases. A fact's
value ends its sentence, and each kind of fact keeps the words before the value to itself ("on", "in", "about", "for"):
a tiny model learns facts worded that way. Held-out wordings end in words that it has seen before such values.
"""

import random
from typing import Any

from rlft.tiny.words import DAYS, FIELDS, HOMES, MONTHS
from rlft.tiny.world import World

TEMPLATES = {
    "birthday": (
        "{} was born on",
        "the birth of {} was on",
        "{} has a birthday on",
        "{} came to the world on",
        "the birth date of {} was",
    ),
    "home": ("{} lives in", "the home of {} is in", "{} has a home in", "{} resides in", "the home city of {} is"),
    "field": (
        "{} studied",
        "{} wrote a thesis about",
        "{} knows a lot about",
        "the thesis of {} was about",
        "the degree of {} was about",
    ),
    "employer": (
        "{} works for",
        "{} has a job for",
        "the job of {} is for",
        "{} earns money working for",
        "the employer of {} is",
    ),
}
"""Sentences of the training text, up to the value."""
HELD_OUT_TEMPLATES = {
    "birthday": ("the birthday of {} was on", "{} has a birth date on"),
    "home": ("the city of {} is in", "{} has a city home in"),
    "field": ("{} has a thesis about", "{} wrote a degree thesis about"),
    "employer": ("the money job of {} is for", "{} earns for"),
}
"""Sentences of the probes only."""
OLD, NEW = 400, 80


def biography_world(seed: int) -> World:
    """The world that biographies are written of: 480 people who work at 20 companies."""
    return World(seed, people=OLD + NEW, companies=20)


def biographies(world: World, phase: str, seed: int, *, copies: int = 5) -> list[dict[str, Any]]:
    """The training text of one phase.

    Args:
        world: as `biography_world` makes it; the last 80 people are the new ones.
        phase: `old` or `new`.
        seed: of the wordings and the order of sentences.
        copies: paraphrased biographies of each person.

    Returns:
        Rows `{id, name, text}` in random order, such as `{"id": "desu_niva/0", "name": "desu niva", "text": "desu
        niva lives in veda . the birth of desu niva was on may 3 . desu niva studied law . ..."}`.
    """
    rng = random.Random(f"biographies {seed} {phase}")
    rows = []
    for name in _people(world, phase):
        known = facts_of(world, name)
        for copy in range(copies):
            sentences = [
                f"{rng.choice(TEMPLATES[attribute]).format(name)} {value} ." for attribute, value in known.items()
            ]
            rng.shuffle(sentences)
            rows.append({"id": f"{name.replace(' ', '_')}/{copy}", "name": name, "text": " ".join(sentences)})
    rng.shuffle(rows)
    return rows


def probes(world: World, phase: str, seed: int) -> list[dict[str, Any]]:
    """One held-out sentence for each person and attribute, to be completed.

    Returns:
        Rows `{id, name, attribute, prompt, answer}`, such as `{"id": "desu_niva/home", "name": "desu niva",
        "attribute": "home", "prompt": "the city of desu niva is in", "answer": "veda"}`.
    """
    rng = random.Random(f"probes {seed} {phase}")
    return [
        {
            "id": f"{name.replace(' ', '_')}/{attribute}",
            "name": name,
            "attribute": attribute,
            "prompt": rng.choice(HELD_OUT_TEMPLATES[attribute]).format(name),
            "answer": value,
        }
        for name in _people(world, phase)
        for attribute, value in facts_of(world, name).items()
    ]


def facts_of(world: World, name: str) -> dict[str, str]:
    """A person's birthday, home, field and employer; the same world and name give the same facts."""
    rng = random.Random(f"facts {world.seed} {name}")
    return {
        "birthday": f"{rng.choice(MONTHS)} {rng.choice(DAYS)}",
        "home": rng.choice(HOMES),
        "field": rng.choice(FIELDS),
        "employer": world.fact(name, "works").object,
    }


def _people(world: World, phase: str) -> list[str]:
    if phase not in ("old", "new"):
        raise ValueError(f"no phase {phase!r}, only old and new.")
    if len(world.people) <= NEW:
        raise ValueError(f"{len(world.people)} people, of whom the last {NEW} are new: make the world larger.")
    return world.people[:-NEW] if phase == "old" else world.people[-NEW:]
