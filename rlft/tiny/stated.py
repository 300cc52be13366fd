"""Facts read back out of biographies, also out of text that a model wrote in their style, and an audit of such text."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from rlft.tiny.biographies import HELD_OUT_TEMPLATES, LEAD_INS, TEMPLATES
from rlft.tiny.people import People

_NAME, _VALUE = r"(?P<name>\S+ (?:[A-Z] )?\S+)", r"(?P<value>\S+(?: \S+){0,2})"
_LEAD = f"(?:{'|'.join(filter(None, LEAD_INS))})?"
_SENTENCES = [
    (attribute, re.compile(f"{_LEAD}{text.format(_NAME)} {_VALUE}"))
    for attribute in TEMPLATES
    for text in TEMPLATES[attribute] + HELD_OUT_TEMPLATES[attribute]
]
_BREAKS = re.compile(r"<\|[^|]*\|>|\n")


class StatedFact(NamedTuple):
    """What one sentence says."""

    name: str
    attribute: str
    value: str


class Audit(NamedTuple):
    """What the sentences of replay say, in counts of sentences."""

    sentences: int
    """That ended in a full stop."""
    stated: int
    """That say a fact: a name and a value in one of the wordings."""
    about_old: int
    true_of_old: int
    """Of `about_old`, those whose value is the person's."""
    about_new: int
    """Inventions, where the writer never read about new people."""
    about_nobody: int
    """Names that are nobody's."""
    old_people: int
    """Different old people that a fact was said of."""


def stated_facts(text: str) -> list[StatedFact]:
    """Facts that the sentences of a text say, in order, whether true or not.

    A sentence counts if it is one of the wordings from its first word to its full stop, so what was cut off at either
    end of the text does not. Special tokens such as `<|end|>` are breaks.

    Args:
        text: biographies, or what a model wrote: `desu niva lives in veda . the birth of ...`.

    Returns:
        `[("desu niva", "home", "veda"), ...]`.
    """
    found = ((attribute, wording.fullmatch(one)) for one in _sentences(text) for attribute, wording in _SENTENCES)
    return [StatedFact(match["name"], attribute, match["value"]) for attribute, match in found if match]


def audit(world: People, texts: Iterable[str]) -> Audit:
    """How much of a text is true, about whom, and of how many people.

    Args:
        world: the people whose biographies the writer was trained on, and the new ones.
        texts: such as the `text` of replay items.
    """
    old, new = set(world.old), set(world.new)
    counts: dict[str, int] = dict.fromkeys(Audit._fields, 0)
    people = set()
    for text in texts:
        counts["sentences"] += len(_sentences(text))
        for name, attribute, value in stated_facts(text):
            counts["stated"] += 1
            counts["about_old" if name in old else "about_new" if name in new else "about_nobody"] += 1
            if name in old:
                people.add(name)
                counts["true_of_old"] += world.facts(name).get(attribute) == value
    return Audit(**counts | {"old_people": len(people)})


def _sentences(text: str) -> list[str]:
    """Words of each sentence with a full stop, from the last break on."""
    ended = text.split(".")[:-1]
    return [" ".join(_BREAKS.split(one)[-1].split()) for one in ended]
