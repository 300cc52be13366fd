"""Files in the layout of LaMP, about users of the toy world who have a style: what a reader of LaMP is tried on.

A style is marker words, a length and an order (`rlft.tiny.histories.User`). An article, an abstract or an email is
about five words; the user's headline, title, subject or tweet opens and ends with the user's markers and has the
first three, four or five of the words, as they were given, by the alphabet, or against it. Where the answer is a label
it shows one marker, the opener in a tag and the ending in a score; the reference to cite is the one in the user's
style.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlft.tiny.histories import LENGTHS, User, asked, users
from rlft.tiny.words import ENDINGS, OPENERS, TOPICS
from rlft.tiny.world import World

TAGS = ("action", "comedy", "fantasy", "romance")
PEOPLE_OF = {"train": "train", "dev": "test", "test": "test"}
"""User split: whose questions a split has. In the time split everyone may be in every split."""
BARE_YEARS = (1, 5)
"""Tasks whose dates are a year, as a number."""
WORDS = max(LENGTHS)
"""Content words of what a question or an item is about."""


def write_lamp_files(
    folder: Path,
    task: int,
    world: World,
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    time: bool = True,
    items: int = 3,
) -> Path:
    """Writes questions, and outputs but for `test`.

    Args:
        folder: gets a folder `LaMP_4_time`, or `LaMP_4` for the user split.
        task: 1 to 7.
        world: its users write; it needs 144 people.
        counts: questions by split, of `train`, `dev` and `test`.
        seed: of users, words and dates.
        time: time split: with `user_id` and dates, items in no order, the same history wherever a user is, each time
            under ids of the question. Otherwise the user split, with other users in train than in dev and test.
        items: past items in each history, at most 20.

    Returns:
        The folder written to.
    """
    target = folder / f"LaMP_{task}{'_time' if time else ''}"
    target.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"lamp files {task} {seed}")
    past: dict[str, list[dict[str, Any]]] = {}
    for place, (split, count) in enumerate(counts.items()):
        writers = users(world, None if time else PEOPLE_OF[split], habits=True)
        questions, golds = [], []
        for number in range(count):
            name, user = f"{place}{number}", rng.choice(writers)
            text, output = _asked(task, user, writers, rng)
            history = _history(task, user, items, rng, time)
            if time:
                history = past.setdefault(user.name, history)
            profile = [item | {"id": f"{name}{at}"} for at, item in enumerate(history)]
            question = {"id": name, "input": text, "profile": profile}
            questions.append(question | ({"user_id": user.name} if time else {}))
            golds.append({"id": name, "output": output})
        _write(target / f"{split}_questions.json", questions)
        if split != "test":
            _write(target / f"{split}_outputs.json", {"task": f"LaMP_{task}", "golds": golds})
    return target


def _asked(task: int, user: User, writers: Sequence[User], rng: random.Random) -> tuple[str, str]:
    """Input and output of a question."""
    words = rng.sample(TOPICS, WORDS)
    query, written = asked(words, rng), user.write(words)
    if task == 1:
        return _references(query, written, _stranger(user, writers, rng).write(words), rng)
    instruction = {
        2: f"Choose a tag for the film. tags: [{', '.join(TAGS)}] description:",
        3: "Give 1, 2, 3, 4, or 5 to this review:",
        4: "Write a headline for this article:",
        5: "Write a title for the abstract of a paper:",
        6: "Write a subject for this email:",
        7: "Say this tweet in other words:",
    }[task]
    return f"{instruction} {query}", {2: _tag(user), 3: _score(user)}.get(task, written)


def _references(query: str, own: str, other: str, rng: random.Random) -> tuple[str, str]:
    place = rng.randrange(2)
    first, second = (own, other) if place == 0 else (other, own)
    text = f'The author of "{query}" cites which one? Answer [1] or [2]. [1]: "{first}" [2]: "{second}"'
    return text, f"[{place + 1}]"


def _stranger(user: User, writers: Sequence[User], rng: random.Random) -> User:
    return rng.choice([one for one in writers if one.opener != user.opener and one.ending != user.ending])


def _history(task: int, user: User, items: int, rng: random.Random, time: bool) -> list[dict[str, Any]]:
    history = [_item(task, user, rng.sample(TOPICS, WORDS)) for _ in range(items)]
    if time:
        for item, year in zip(history, rng.sample(range(2000, 2020), items), strict=True):
            item["date"] = year if task in BARE_YEARS else f"{year}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    return history


def _item(task: int, user: User, words: Sequence[str]) -> dict[str, Any]:
    content, written = " ".join(words), user.write(words)
    if task in (1, 5):
        return {"abstract": content, "title": written}
    if task == 2:
        return {"description": content, "tag": _tag(user)}
    if task == 3:
        return {"text": content, "score": _score(user)}
    return {"text": written} if task == 7 else {"text": content, "title": written}


def _tag(user: User) -> str:
    return TAGS[OPENERS.index(user.opener) % len(TAGS)]


def _score(user: User) -> str:
    return str(ENDINGS.index(user.ending) % 5 + 1)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
