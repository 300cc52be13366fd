"""Careless style: the tiny task on which scorers of personal style, and GRPO with and without them, are watched.

A user has a style, an opener and an ending. A policy reads past items and three words to write about, each after a
filler; it plans a style, then writes:

    [past] [item] hello sami gora tule bye [item] ... [item] ... [ask] about pora also vadi then misa [write]
    [plan] hello bye [/plan] hello pora vadi misa bye

The *careless writer* writes in the user's style (probability .4), in the plain style (.3) or in any user's (.3), and
drops each of the three words with probability .2; without past items, as in a fifth of the demonstrations, it always
writes plainly. With two ways instead of three, own and plain, "not plain" would mean "own", and a scorer that never
sees a profile would look personal.

A model of three layers learns this in a minute because it also learns to write the past items' own markers, which are
certain from the second item on; without these its endings follow the profile of a held-out user much less often. A
batch mixes demonstrations with and without past items: where each has one kind alone, content may stay unlearnt.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlft.tiny.histories import CONTENT, User, histories, users
from rlft.tiny.words import CONTROLS, ENDINGS, FILLERS, OPENERS, PLAIN_STYLE, TOPICS
from rlft.tiny.world import World

OWN, PLAIN = 0.4, 0.3
"""Probabilities of the user's style and the plain one; else it is any user's."""
DROP_WORD, NO_PROFILE = 0.2, 0.2
ITEMS = 3
"""Past items of a row."""
MOST_ITEMS = 5
"""Past items that a demonstration shows, 1 to so many of them."""
THINK_END = "[/plan]"
WORDING = {"item": "[item] {text}", "join": " ", "profile": "[past] {items} ", "query": "[ask] {query} [write]"}
"""Templates of `rlft.data.prompt_templates.PromptTemplates`, and of `rlft.reward_models.ScorerSpec`."""
BARE_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }} "
    "<|end|>{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}{{ ' ' if not loop.last }}{% endfor %}"
    "{{ ' ' if add_generation_prompt }}"
)
"""Chat template: a user turn as it is, and right after it what the model writes."""

_MARKERS = frozenset([*OPENERS, *ENDINGS, *PLAIN_STYLE])


def rows(world: World, count: int, seed: int, split: str = "train", *, items: int = ITEMS) -> list[dict[str, Any]]:
    """Requests of users who have written before, in the form of LaMP rows.

    Args:
        world, count, seed, split: as for `histories`.
        items: past items of each row.

    Returns:
        Rows `{id, user_id, query, profile, gold, answer, opener, ending}`. The profile holds `{id, text, target, date}`
        with a target of None, newest first; `gold` is what the user would write, and `answer` its content without
        style, for a reward that says nothing of style.
    """
    found = []
    for row in histories(world, count, seed, split, items=items):
        name = f"{split}/{seed}/{row['id']}"
        years = range(2019, 2019 - items, -1)
        found.append(
            {
                "id": name,
                "user_id": row["user"],
                "query": row["question"],
                "profile": [
                    {"id": f"{name}/{year}", "text": text, "target": None, "date": str(year)}
                    for year, text in zip(years, row["profile"], strict=True)
                ],
                "gold": row["golden_answers"][0],
                "answer": " ".join(_content(row["golden_answers"][0])),
                "opener": row["opener"],
                "ending": row["ending"],
            }
        )
    return found


def request(query: str, texts: Sequence[str]) -> str:
    """What a policy reads: past items in the order given, and the words to write about."""
    return _past(texts) + WORDING["query"].format(query=query)


def _past(texts: Sequence[str]) -> str:
    """The block of past items; empty without any."""
    items = WORDING["join"].join(WORDING["item"].format(text=text) for text in texts)
    return WORDING["profile"].format(items=items) if texts else ""


def careless_answer(words: Sequence[str], user: User, everyone: Sequence[User], rng: random.Random) -> str:
    """One completion, plan included, of the careless writer who has read past items of a user.

    Args:
        words: asked for.
        user: whose items they are.
        everyone: whose styles may come instead.
        rng: source of the mistakes.

    Returns:
        The text without an end token.
    """
    fate = rng.random()
    if fate < OWN:
        return _written(words, user.opener, user.ending, rng)
    other = rng.choice(everyone)
    return _written(words, *(PLAIN_STYLE if fate < OWN + PLAIN else (other.opener, other.ending)), rng)


def demonstrations(world: World, count: int, seed: int, batch_size: int) -> list[dict[str, Any]]:
    """Demonstrations of the careless writer to the users of the train split.

    Args:
        world: of the users; the wrong styles are of all of them, held-out users too.
        count: how many.
        seed: of everything in them.
        batch_size: how many, one after the other, show the same number of past items, if they show any: batches of
            one length cost less.

    Returns:
        `{text, trained}`: request, completion and end token in one, and for each of its words whether it is learnt.
        These are the completion's, and the openers and endings of past items from the second on.
    """
    rng = random.Random(f"style demonstrations {seed}")
    writers, everyone = users(world, "train"), users(world)
    found = []
    for number in range(count):
        if number % batch_size == 0:
            shown = rng.randint(1, MOST_ITEMS)
        user, words = rng.choice(writers), rng.sample(TOPICS, CONTENT)
        query = " ".join(f"{rng.choice(FILLERS)} {word}" for word in words)
        if rng.random() < NO_PROFILE:
            texts, completion = [], _written(words, *PLAIN_STYLE, rng)
        else:
            texts = [user.write(rng.sample(TOPICS, CONTENT)) for _ in range(shown)]
            completion = careless_answer(words, user, everyone, rng)
        found.append(_demonstration(query, texts, f"{completion} {CONTROLS[2]}"))
    return found


def _demonstration(query: str, texts: Sequence[str], completion: str) -> dict[str, Any]:
    asked, unsure = request(query, texts), len(_past(texts[:1]).split())
    trained = [word in _MARKERS and place >= unsure for place, word in enumerate(asked.split())]
    return {"text": f"{asked} {completion}", "trained": trained + [True] * len(completion.split())}


def content_f1(said: str | None, gold: str) -> float:
    """F1 of the words, markers of style left out on both sides.

    Args:
        said: an answer without its plan; None, which scores 0, if there is none.
        gold: the words asked for, in a style or without one.

    Raises:
        ValueError: if `gold` has no word but markers.
    """
    right = Counter(_content(gold))
    if not right:
        raise ValueError(f"the gold answer {gold!r} has no words of content; drop such rows.")
    written = Counter(_content(said or ""))
    common = (written & right).total()
    return 2 * common / (written.total() + right.total())


def style_shares(answers: Sequence[str | None], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Whose style answers are in; no reward is made of it.

    Args:
        answers: N answers without their plans, None where there is none.
        rows: the N rows, with `opener`, `ending` and `answer`.

    Returns:
        Shares that add up to 1: `own`, opener and ending are the user's (the style match); `generic`, both are the
        plain ones; `other`, anything else. And `content_f1`, the mean.

    Raises:
        ValueError: if there are no rows, or another number of answers.
    """
    if not rows or len(answers) != len(rows):
        raise ValueError(f"{len(answers)} answers, {len(rows)} rows: there must be rows, and one answer each.")
    kinds = Counter(_kind((said or "").split(), row) for said, row in zip(answers, rows, strict=True))
    scores = [content_f1(said, row["answer"]) for said, row in zip(answers, rows, strict=True)]
    return {kind: kinds[kind] / len(rows) for kind in ("own", "generic", "other")} | {
        "content_f1": sum(scores) / len(rows)
    }


def _kind(written: Sequence[str], row: Mapping[str, Any]) -> str:
    if not written:
        return "other"
    return {(row["opener"], row["ending"]): "own", PLAIN_STYLE: "generic"}.get((written[0], written[-1]), "other")


def _written(words: Sequence[str], opener: str, ending: str, rng: random.Random) -> str:
    kept: list[str] = []
    while not kept:
        kept = [word for word in words if rng.random() >= DROP_WORD]
    return " ".join(["[plan]", opener, ending, THINK_END, opener, *kept, ending])


def _content(text: str) -> list[str]:
    return [word for word in text.split() if word not in _MARKERS]
