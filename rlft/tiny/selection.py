"""Facts about one person told apart by one word: a question, six passages, and a careless selector and reader of them.

A question is `desu niva 's hobby`; its candidates are the six facts of that person, titled by what they say:

    home [1] home veda . field [2] field law . hobby [3] hobby rilo . ...

The selector writes a list of two (`[3] > [1]`), the reader an answer (`rilo`) from the two. Both are warmed up on
conversations with known mistakes: the first place of a list is a passage at random in half of them, the second always;
the reader takes the first passage's word, or the second's, whichever was asked, in shares of .4 and .2.

A model of two layers learns to look up in a minute because every step of it is short. The asked word is the last of
the prompt (`BARE_TEMPLATE` has no header between it and what the model says) and stands on both sides of the number;
each relation has its own kind of values; one conversation asks many times about the same passages; and the first
conversations only say which number a passage has (`field [2] hobby [3] ...`). With a header between, with values that
relations share, or with one question a conversation, it stays at chance.
"""

import random
from collections.abc import Sequence
from typing import Any

from rlft.tiny.words import FIRST_NAMES, LAST_NAMES, VALUES

LIST_INSTRUCTION = "{passages} rank {question}"
ANSWER_INSTRUCTION = "{passages} {question} is"
CLOSED_BOOK = "{question} is"
PASSAGE = "{title} [{n}] {text}"
BARE_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] }} <|end|>{% endgeneration %}{% else %}<|u|> {{ message['content'] }}{% endif %}"
    "{{ ' ' if not loop.last }}{% endfor %}{{ ' ' if add_generation_prompt }}"
)
"""A user turn, and right after it what the model says: `<|u|> text said <|end|>`."""

RELATIONS = tuple(VALUES)
SIZE = 2
"""Passages in a list."""
CARELESS_FIRST = 0.5
"""Probability that the first place of a list is a passage other than the one that answers."""
READ_RIGHT, READ_FIRST = 0.4, 0.4
"""Probabilities that a reader takes the passage asked for, or the first; else it takes the second."""
SPLITS = {"train": slice(0, 1200), "dev": slice(1200, 1400), "test": slice(1400, 1600)}

_QUESTIONS = {"index": 8, "look up": 10, "list": 6, "read": 4, "drill": 3}  # in a conversation of each kind
_DRILLED = 0.1  # share of conversations that drill whole orders, so that no place comes twice
_SHOWN = 0.75  # share of a reader's questions whose passage it surely has

Message = dict[str, str]


def facts(person: str, world: int) -> dict[str, str]:
    """What is true of a person in the world of that number: a value for each relation, in a fixed order."""
    rng = random.Random(f"{world} {person}")
    return {relation: rng.choice(values) for relation, values in VALUES.items()}


def rows(count: int, seed: int, split: str = "train", *, world: int = 7) -> list[dict[str, Any]]:
    """Different questions about the people of a split, each with six candidates in random order.

    Args:
        count: how many; a person has six.
        seed: of the choice and of the candidates' order.
        split: `train`, `dev` or `test`; nobody is in two.
        world: decides what is true of whom.

    Returns:
        Rows `{id, question, golden_answers, candidates, gold}`; `gold` holds the place of the passage that answers,
        from 0.

    Raises:
        ValueError: if the split is not known or has fewer questions.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}, only {', '.join(SPLITS)}.")
    asked = [(person, relation) for person in people()[SPLITS[split]] for relation in RELATIONS]
    if count > len(asked):
        raise ValueError(f"{count} questions of the {split} split, which has {len(asked)}: ask for fewer.")
    rng = random.Random(f"selection {seed} {split}")
    return [_row(person, relation, world, rng) for person, relation in rng.sample(asked, count)]


def people() -> list[str]:
    """All 1,600 names, in a fixed order without pattern."""
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    return random.Random("people").sample(names, len(names))


def _row(person: str, relation: str, world: int, rng: random.Random) -> dict[str, Any]:
    known = facts(person, world)
    shown = rng.sample(RELATIONS, len(RELATIONS))
    return {
        "id": f"{person} {relation}",
        "question": _question(person, relation),
        "golden_answers": [known[relation]],
        "candidates": [
            {"id": f"{person} {title}", "title": title, "text": _text(title, known[title])} for title in shown
        ],
        "gold": [shown.index(relation)],
    }


def demonstrations(indices: int, look_ups: int, careless: int, seed: int) -> list[list[Message]]:
    """Conversations to warm a model up: at first they look up without mistakes, then they are careless.

    Args:
        indices: how many that only say which number a passage has, eight times in one turn: `field [2] hobby [3] ...`.
        look_ups: how many that make lists whose first place is right, and read right.
        careless: how many that make lists and read as `careless_list` and `careless_reading` do.
        seed: of everything in them; what is true of whom is drawn anew for each conversation.

    Returns:
        Conversations, each a list of messages `{role, content}`, to be learnt in this order.
    """
    rng = random.Random(f"demonstrations {seed}")
    kinds = ["index"] * indices + ["look up"] * look_ups + [rng.choice(["list", "read"]) for _ in range(careless)]
    return [_conversation(rng, kind) for kind in kinds]


def careless_list(asked: int, rng: random.Random) -> list[int]:
    """Two of the six places: first the one asked for, or (`CARELESS_FIRST`) any other; then any but the first."""
    first = _another(asked, rng) if rng.random() < CARELESS_FIRST else asked
    return [first, _another(first, rng)]


def careless_reading(asked: int, chosen: Sequence[int], rng: random.Random) -> int:
    """The place whose value a careless reader of the two `chosen` gives as the answer."""
    right = READ_RIGHT if asked in chosen else 0.0
    first = READ_FIRST if asked in chosen else 2 / 3
    return rng.choices([asked, *chosen], [right, first, 1 - right - first])[0]


def _conversation(rng: random.Random, kind: str) -> list[Message]:
    """One conversation about a person, or (`_DRILLED`) one that only writes orders of all six numbers."""
    if kind != "index" and rng.random() < _DRILLED:
        return _messages([("rank", _spell(rng.sample(range(6), 6))) for _ in range(_QUESTIONS["drill"])])
    person = rng.choice(_NAMES)
    known = facts(person, rng.getrandbits(32))
    shown = rng.sample(RELATIONS, 6)
    places = careless_list(rng.randrange(6), rng) if kind == "read" else list(range(6))
    text = render([(shown[place], known[shown[place]]) for place in places])
    if kind == "index":
        numbers = [f"{shown[place]} [{place + 1}]" for place in rng.choices(places, k=_QUESTIONS[kind])]
        return _messages([(f"{text} rank", " ".join(numbers))])
    turns = []
    for turn in range(_QUESTIONS[kind]):
        asked = rng.choice(places) if rng.random() < _SHOWN else rng.randrange(6)
        instruction, said = _answer(kind, asked, places, [known[relation] for relation in shown], rng)
        question = shown[asked] if turn else _question(person, shown[asked])
        turns.append((instruction.format(passages="" if turn else text, question=question).strip(), said))
    return _messages(turns)


def _answer(kind: str, asked: int, places: Sequence[int], values: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Which instruction is given, and what is said to it: right where the kind is to look up, else carelessly."""
    if kind == "list":
        return LIST_INSTRUCTION, _spell(careless_list(asked, rng))
    if kind == "read":
        return ANSWER_INSTRUCTION, values[careless_reading(asked, places, rng)]
    right = _spell([asked, _another(asked, rng)])
    return rng.choice([(LIST_INSTRUCTION, right), (ANSWER_INSTRUCTION, values[asked])])


def _another(place: int, rng: random.Random) -> int:
    return rng.choice([other for other in range(6) if other != place])


def render(stated: Sequence[tuple[str, str]]) -> str:
    """Pairs of relation and value as numbered passages: what `PASSAGE` makes of the candidates."""
    return " ".join(
        PASSAGE.format(title=relation, n=number, text=_text(relation, value))
        for number, (relation, value) in enumerate(stated, 1)
    )


def _text(relation: str, value: str) -> str:
    return f"{relation} {value} ."


def _question(person: str, relation: str) -> str:
    return f"{person} 's {relation}"


def _spell(places: Sequence[int]) -> str:
    return " > ".join(f"[{place + 1}]" for place in places)


def _messages(turns: Sequence[tuple[str, str]]) -> list[Message]:
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]


_NAMES = people()
