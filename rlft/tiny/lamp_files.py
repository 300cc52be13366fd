"""Files in the layout of LaMP, about users of the toy world who have a style: what a reader of LaMP is tried on.

Every task shows the style where its answers are: openers and endings in headlines, titles, subjects and tweets, the
opener in a tag, the ending in a score, and both in the reference that a user would cite.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlft.tiny.histories import histories
from rlft.tiny.words import ENDINGS, OPENERS
from rlft.tiny.world import World

TAGS = ("action", "comedy", "fantasy", "romance")
PEOPLE_OF = {"train": "train", "dev": "test", "test": "test"}
"""User split: whose questions a split has. In the time split everyone may be in every split."""
BARE_YEARS = (1, 5)
"""Tasks whose dates are a year, as a number."""


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
        time: time split: with `user_id` and dates, items in no order, the same history wherever a user is. Otherwise
            the user split, with other users in train than in dev and test.
        items: past items in each history, at most 20.

    Returns:
        The folder written to.
    """
    target = folder / f"LaMP_{task}{'_time' if time else ''}"
    target.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"lamp files {task} {seed}")
    past: dict[str, list[dict[str, Any]]] = {}
    for place, (split, count) in enumerate(counts.items()):
        rows = histories(world, count, 10 * seed + place, None if time else PEOPLE_OF[split], items=items)
        questions, golds = [], []
        for row in rows:
            name = f"{place}{row['id']}"
            text, output = _asked(task, row, rng)
            profile = _profile(task, row, name, rng, time)
            question = {"id": name, "input": text, "profile": profile}
            if time:
                question |= {"profile": past.setdefault(row["user"], profile), "user_id": row["user"]}
            questions.append(question)
            golds.append({"id": name, "output": output})
        _write(target / f"{split}_questions.json", questions)
        if split != "test":
            _write(target / f"{split}_outputs.json", {"task": f"LaMP_{task}", "golds": golds})
    return target


def _asked(task: int, row: dict[str, Any], rng: random.Random) -> tuple[str, str]:
    """Input and output of a question."""
    query, written = row["question"], row["golden_answers"][0]
    if task == 1:
        other = f"{_other(row['opener'], OPENERS, rng)} {_content(written)} {_other(row['ending'], ENDINGS, rng)}"
        place = rng.randrange(2)
        first, second = (written, other) if place == 0 else (other, written)
        asked = f'The author of "{query}" cites which one? Answer [1] or [2]. [1]: "{first}" [2]: "{second}"'
        return asked, f"[{place + 1}]"
    asked = {
        2: f"Choose a tag for the film. tags: [{', '.join(TAGS)}] description: {query}",
        3: f"Give 1, 2, 3, 4, or 5 to this review: {query}",
        4: f"Write a headline for this article: {query}",
        5: f"Write a title for the abstract of a paper: {query}",
        6: f"Write a subject for this email: {query}",
        7: f"Say this tweet in other words: {query}",
    }[task]
    return asked, {2: _tag(written), 3: _score(written)}.get(task, written)


def _profile(task: int, row: dict[str, Any], name: str, rng: random.Random, time: bool) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = [
        {**_item(task, written), "id": f"{name}{place}"} for place, written in enumerate(row["profile"])
    ]
    if time:
        for item, year in zip(items, rng.sample(range(2000, 2020), len(items)), strict=True):
            item["date"] = year if task in BARE_YEARS else f"{year}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    return items


def _item(task: int, written: str) -> dict[str, str]:
    content = _content(written)
    if task in (1, 5):
        return {"abstract": content, "title": written}
    if task == 2:
        return {"description": content, "tag": _tag(written)}
    if task == 3:
        return {"text": content, "score": _score(written)}
    return {"text": written} if task == 7 else {"text": content, "title": written}


def _content(written: str) -> str:
    return " ".join(written.split()[1:-1])


def _tag(written: str) -> str:
    return TAGS[OPENERS.index(written.split()[0]) % len(TAGS)]


def _score(written: str) -> str:
    return str(ENDINGS.index(written.split()[-1]) % 5 + 1)


def _other(word: str, words: list[str], rng: random.Random) -> str:
    return rng.choice([other for other in words if other != word])


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
