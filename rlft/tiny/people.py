"""People of any number with facts to be told of them: the old ones first, then the new ones, names from one pool.

Source of the two sizes: "Towards Understanding Continual Factual Knowledge Acquisition of Language Models", arXiv
2605.10640, the synthetic corpus of its released code (120,000 people; lists of the same lengths, words of our own), and
a tiny copy of it in which five sixths of the people are old too.
"""

import random
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from string import ascii_uppercase

from rlft.tiny.words import CITIES, COMPANY_NAMES, DAYS, FIELDS, FIRST_NAMES, LAST_NAMES, MONTHS, MORE_NAMES

FIRST_YEAR = 1900
_STARTS = {
    "first_names": FIRST_NAMES,
    "last_names": LAST_NAMES,
    "homes": CITIES,
    "fields": FIELDS,
    "employers": COMPANY_NAMES,
    "schools": [],
}
_LONGEST = {
    "first_names": 1000,
    "last_names": 1000,
    "homes": 335,
    "fields": 29,
    "employers": 500,
    "schools": 146,
    "initials": 26,
    "years": 200,
    "lead_ins": 20,
}


def _lists() -> dict[str, list[str]]:
    """Each list is the tiny world's words and then as many more as the longest one needs, none in two lists."""
    more, lists = iter(MORE_NAMES), {}
    for name, known in _STARTS.items():
        lists[name] = [*known, *islice(more, _LONGEST[name] - len(known))]
    return lists


_LISTS = _lists()


@dataclass(frozen=True, slots=True)
class Size:
    """How many of everything. The defaults are the tiny corpus.

    Raises:
        ValueError: for more than there is of something, or more people than names.
    """

    old: int = 400
    """People that the model is pre-trained on."""
    new: int = 80
    """People that it learns afterwards."""
    first_names: int = 30
    last_names: int = 40
    initials: int = 0
    """Letters between the names; 0 leaves them out: `desu niva` instead of `desu K niva`."""
    years: int = 0
    """Of birth, from 1900 on; 0 leaves them out of birthdays."""
    homes: int = 20
    fields: int = 16
    employers: int = 20
    schools: int = 0
    """0: nobody has a school, which leaves four facts a person."""
    lead_ins: int = 1
    """Ways to begin any sentence, the first of which is none: 5 x `lead_ins` wordings of a fact, and 2 x held out."""

    def __post_init__(self) -> None:
        for name, most in _LONGEST.items():
            least = 0 if name in ("initials", "years", "schools") else 1
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)}: there are {least} to {most}.")
        if self.old < 1 or self.new < 1:
            raise ValueError(f"{self.old} old and {self.new} new people: at least one of each is needed.")
        names = self.first_names * max(self.initials, 1) * self.last_names
        if self.old + self.new > names:
            raise ValueError(
                f"{self.old + self.new} people, and {names} names: raise first_names, last_names or initials."
            )


TINY = Size()
PAPER = Size(
    old=100_000,
    new=20_000,
    first_names=1000,
    last_names=1000,
    initials=26,
    years=200,
    homes=335,
    fields=29,
    employers=500,
    schools=146,
    lead_ins=20,
)
"""The counts of arXiv 2605.10640; `dataclasses.replace(PAPER, old=..., new=...)` has its lists and fewer people."""


class People:
    """Names and facts; the same arguments give the same.

    Args:
        seed: of names and facts.
        size: how many of everything.
    """

    def __init__(self, seed: int, size: Size = TINY) -> None:
        self.seed, self.size = seed, size
        firsts, lasts = listed("first_names", size), listed("last_names", size)
        initials = [f"{letter} " for letter in ascii_uppercase[: size.initials]] or [""]
        draws = random.Random(f"people {seed}").sample(
            range(len(firsts) * len(initials) * len(lasts)), size.old + size.new
        )
        self.names: list[str] = []
        """All of them, the old ones first."""
        for draw in draws:
            rest, last = divmod(draw, len(lasts))
            first, initial = divmod(rest, len(initials))
            self.names.append(f"{firsts[first]} {initials[initial]}{lasts[last]}")

    @property
    def old(self) -> list[str]:
        """Names of the people of the first phase."""
        return self.names[: self.size.old]

    @property
    def new(self) -> list[str]:
        """Names of the people of the second phase."""
        return self.names[self.size.old :]

    def facts(self, name: str) -> dict[str, str]:
        """A person's `birthday`, `home`, `field`, `employer` and, where there are schools, `school`."""
        rng = random.Random(f"facts {self.seed} {name}")
        birthday = [rng.choice(MONTHS), rng.choice(DAYS)]
        if self.size.years:
            birthday.append(str(FIRST_YEAR + rng.randrange(self.size.years)))
        return {"birthday": " ".join(birthday)} | {
            attribute: rng.choice(values) for attribute, values in self._values.items()
        }

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        found = {
            name.removesuffix("s"): listed(name, self.size) for name in ("homes", "fields", "employers", "schools")
        }
        return {attribute: values for attribute, values in found.items() if values}


def listed(name: str, size: Size) -> list[str]:
    """The first words of one list (`first_names`, `last_names`, `homes`, `fields`, `employers`, `schools`)."""
    return _LISTS[name][: getattr(size, name)]
