"""Biographies in two phases: many old people, then fewer new ones whose names are made of the same words.

Each person has a birthday, a home city, a field of study and an employer, and a school where the size has schools, told
in several fixed paraphrases. A fact's value ends its sentence, and each kind of fact keeps the words before the value
to itself ("on", "in", "about", "for", "at"): a tiny model learns facts worded that way. Held-out wordings end in words
that it has seen before such values.
"""

import random
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from rlft.tiny.people import FIRST_YEAR, TINY, People, Size, listed
from rlft.tiny.words import BIOGRAPHY_WORDS

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
    "school": (
        "{} enrolled at",
        "the classes of {} were at",
        "{} passed all exams at",
        "{} graduated at",
        "the school of {} was",
    ),
}
"""Sentences of the training text, up to the value."""
HELD_OUT_TEMPLATES = {
    "birthday": ("the birthday of {} was on", "{} has a birth date on"),
    "home": ("the city of {} is in", "{} has a city home in"),
    "field": ("{} has a thesis about", "{} wrote a degree thesis about"),
    "employer": ("the money job of {} is for", "{} earns for"),
    "school": ("the exams of {} were at", "{} passed all classes at"),
}
"""Sentences of the probes only."""
LEAD_INS = (
    "",
    "it is known that ",
    "people say that ",
    "the papers say that ",
    "friends remember that ",
    "a letter shows that ",
    "the archive states that ",
    "neighbours recall that ",
    "as everyone knows ",
    "according to the register ",
    "in short ",
    "to be exact ",
    "it was reported that ",
    "the family confirms that ",
    "one can read that ",
    "a witness said that ",
    "as far as we know ",
    "by all accounts ",
    "it is written that ",
    "the chronicle notes that ",
)
"""What may stand before any sentence, the number of which is a choice of the size."""


def biography_world(seed: int, size: Size = TINY) -> People:
    """The people that biographies are written of: 400 old and 80 new ones, unless another size is given."""
    return People(seed, size)


def vocabulary(size: Size = TINY) -> list[str]:
    """All words of the biographies and probes of a size, control tokens first, then those of the tiny size.

    Returns:
        Words for `word_tokenizer`: 205 of the tiny size, 3,361 of the paper's.
    """
    attributes = [attribute for attribute in TEMPLATES if attribute != "school" or size.schools]
    sentences = [text for attribute in attributes for text in TEMPLATES[attribute] + HELD_OUT_TEMPLATES[attribute]]
    plain = [word for text in [*sentences, *LEAD_INS[: size.lead_ins]] for word in text.replace("{}", "").split()]
    names = [
        word
        for name in ("first_names", "last_names", "homes", "fields", "employers", "schools")
        for word in listed(name, size)
    ]
    years = [str(FIRST_YEAR + year) for year in range(size.years)]
    return list(dict.fromkeys([*BIOGRAPHY_WORDS, *plain, *names, *ascii_uppercase[: size.initials], *years]))


def biographies(world: People, phase: str, seed: int, *, copies: int = 5) -> list[dict[str, Any]]:
    """The training text of one phase.

    Args:
        world: as `biography_world` makes it.
        phase: `old` or `new`.
        seed: of the wordings and the order of sentences.
        copies: paraphrased biographies of each person, each a draw of its own (the paper's P-fold augmentation).

    Returns:
        Rows `{id, name, text}` in random order, such as `{"id": "desu_niva/0", "name": "desu niva", "text": "desu
        niva lives in veda . the birth of desu niva was on may 3 . desu niva studied law . ..."}`.

    Raises:
        ValueError: for another phase, or less than one copy.
    """
    if copies < 1:
        raise ValueError(f"copies={copies}: a person has at least one biography.")
    rng = random.Random(f"biographies {seed} {phase}")
    wordings = _wordings(world.size, TEMPLATES)
    rows = []
    for name in _people(world, phase):
        known = world.facts(name)
        for copy in range(copies):
            sentences = [
                f"{rng.choice(wordings[attribute]).format(name)} {value} ." for attribute, value in known.items()
            ]
            rng.shuffle(sentences)
            rows.append({"id": f"{name.replace(' ', '_')}/{copy}", "name": name, "text": " ".join(sentences)})
    rng.shuffle(rows)
    return rows


def probes(world: People, phase: str, seed: int, *, wordings: int = 1) -> list[dict[str, Any]]:
    """Held-out sentences for each person and attribute, to be completed.

    The paper's test biographies are new draws of its training templates; these are in templates of their own.

    Args:
        world: as `biography_world` makes it.
        phase: `old` or `new`.
        seed: of the wordings.
        wordings: different ones of each fact.

    Returns:
        Rows `{id, name, attribute, prompt, answer}`, such as `{"id": "desu_niva/home", "name": "desu niva",
        "attribute": "home", "prompt": "the city of desu niva is in", "answer": "veda"}`; further wordings of a fact
        have a number behind their id.

    Raises:
        ValueError: for another phase, or more wordings than are held out.
    """
    known = _wordings(world.size, HELD_OUT_TEMPLATES)
    if not 1 <= wordings <= len(known["home"]):
        raise ValueError(f"wordings={wordings}: {len(known['home'])} are held out; raise the size's lead_ins for more.")
    rng = random.Random(f"probes {seed} {phase}")
    return [
        {
            "id": f"{name.replace(' ', '_')}/{attribute}" + (f"/{number}" if number else ""),
            "name": name,
            "attribute": attribute,
            "prompt": wording.format(name),
            "answer": value,
        }
        for name in _people(world, phase)
        for attribute, value in world.facts(name).items()
        for number, wording in enumerate(rng.sample(known[attribute], wordings))
    ]


def _wordings(size: Size, templates: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    leads = LEAD_INS[: size.lead_ins]
    return {attribute: [lead + text for lead in leads for text in texts] for attribute, texts in templates.items()}


def _people(world: People, phase: str) -> list[str]:
    if phase not in ("old", "new"):
        raise ValueError(f"no phase {phase!r}, only old and new.")
    return world.old if phase == "old" else world.new
