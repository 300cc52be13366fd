"""A toy world: people, companies and cities, five relations between them, and one passage for each relation.

A person works at a company, was born in a city and was mentored by a person; a company is based in a city and was
founded by a person. The passage of such a fact is a sentence under its subject's name:
`{"id": "desu_niva/works", "title": "desu niva", "text": "desu niva works at baso bank ."}`.
"""

import random
from dataclasses import dataclass

from rlft.tiny.words import CITIES, COMPANY_KINDS, COMPANY_NAMES, FIRST_NAMES, LAST_NAMES

RELATIONS = {
    "works": "works at",
    "born": "was born in",
    "mentored": "was mentored by",
    "based": "is based in",
    "founded": "was founded by",
}
"""The word that asks for a relation in a query, and how the relation is written."""


@dataclass(frozen=True, slots=True)
class Fact:
    """`subject` stands in `relation` (a key of `RELATIONS`) to `object`."""

    subject: str
    relation: str
    object: str

    @property
    def query(self) -> str:
        """What one searches to find it: `desu niva works`."""
        return f"{self.subject} {self.relation}"

    @property
    def text(self) -> str:
        """The fact as written, without the full stop: `desu niva works at baso bank`."""
        return f"{self.subject} {RELATIONS[self.relation]} {self.object}"

    @property
    def passage_id(self) -> str:
        """Id of its passage: `desu_niva/works`."""
        return f"{self.subject.replace(' ', '_')}/{self.relation}"

    @property
    def passage(self) -> dict[str, str]:
        """Its passage `{id, title, text}`."""
        return {"id": self.passage_id, "title": self.subject, "text": f"{self.text} ."}


class World:
    """People, companies and their facts; the same arguments give the same world.

    Args:
        seed: of names and relations.
        people: how many persons (first and last name), at most 1600.
        companies: how many companies (name and kind), at most 240.
    """

    def __init__(self, seed: int, people: int = 1000, companies: int = 200) -> None:
        rng = random.Random(f"world {seed}")
        self.seed = seed
        self.people = _pairs(rng, people, FIRST_NAMES, LAST_NAMES)
        self.companies = _pairs(rng, companies, COMPANY_NAMES, COMPANY_KINDS)
        self._facts: dict[tuple[str, str], Fact] = {}
        for person in self.people:
            self._add(person, "works", rng.choice(self.companies))
            self._add(person, "born", rng.choice(CITIES))
            self._add(person, "mentored", _other(rng, person, self.people))
        for company in self.companies:
            self._add(company, "based", rng.choice(CITIES))
            self._add(company, "founded", rng.choice(self.people))

    def fact(self, subject: str, relation: str) -> Fact:
        """The fact about `subject` that `relation`, a key of `RELATIONS`, names; KeyError if there is none."""
        return self._facts[subject, relation]

    @property
    def facts(self) -> list[Fact]:
        """All facts: three for each person, then two for each company."""
        return list(self._facts.values())

    @property
    def passages(self) -> list[dict[str, str]]:
        """The corpus: a passage `{id, title, text}` for each fact."""
        return [fact.passage for fact in self._facts.values()]

    def _add(self, subject: str, relation: str, object_: str) -> None:
        self._facts[subject, relation] = Fact(subject, relation, object_)


def spellings(entity: str) -> list[str]:
    """Accepted spellings of a name, the full one first: a person's last name, a company's name without its kind."""
    first, _, last = entity.partition(" ")
    if not last:
        return [entity]
    return [entity, first if last in COMPANY_KINDS else last]


def _pairs(rng: random.Random, count: int, firsts: list[str], seconds: list[str]) -> list[str]:
    if not 1 < count <= len(firsts) * len(seconds):
        raise ValueError(f"{count} names wanted: there are {len(firsts) * len(seconds)}, and at least 2 are needed.")
    return rng.sample([f"{first} {second}" for first in firsts for second in seconds], count)


def _other(rng: random.Random, one: str, names: list[str]) -> str:
    """A name that is not `one`."""
    while (other := rng.choice(names)) == one:
        pass
    return other
