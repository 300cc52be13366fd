"""The embedded task of lists: what its rows hold, what its demonstrations say, and how often they are mistaken."""

import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from rlft.retrieval.rows import passage_of_row
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.list_text import ListOptions, read_list, spell
from rlft.rollouts.permutation import list_prompt
from rlft.rollouts.reading import ReadingOptions, reading_prompt
from rlft.tiny import selection, tasks
from rlft.tiny.selection import RELATIONS, SIZE, SPLITS
from rlft.tiny.warmup import IGNORED, labelled
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.words import CONTROLS, SELECTION_WORDS, VALUES

TOKENIZER = word_tokenizer(SELECTION_WORDS, selection.BARE_TEMPLATE)
FRAME = ChatFrame(TOKENIZER)
LISTS = ListOptions(
    size=SIZE,
    max_list_tokens=8,
    max_tokens=256,
    instruction=selection.LIST_INSTRUCTION,
    passage=selection.PASSAGE,
)
READINGS = ReadingOptions(
    instruction=selection.ANSWER_INSTRUCTION,
    passage=selection.PASSAGE,
    closed_book=selection.CLOSED_BOOK,
    max_answer_tokens=6,
    max_tokens=256,
)
COUNTS = {"indices": 100, "look_ups": 400, "careless": 2400}
SHOWN = selection.demonstrations(**COUNTS, seed=5)
INDICES, LOOK_UPS, CARELESS = SHOWN[:100], SHOWN[100:500], SHOWN[500:]


class Turn(NamedTuple):
    """A question of a conversation, and what is said to it."""

    stated: list[tuple[str, str]]
    """Relation and value of each passage of the conversation, in their order."""
    kind: str
    """`list` or `read`."""
    asked: str
    said: str

    @property
    def place(self) -> int | None:
        """Of the passage asked for, where it is shown."""
        shown = [relation for relation, _ in self.stated]
        return shown.index(self.asked) if self.asked in shown else None


def read_passages(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Relation and value of each passage that a text begins with, and the words that follow."""
    words = text.split()
    stated: list[tuple[str, str]] = []
    while len(words) > 5:  # `hobby [3] hobby rilo .`
        title, number, relation, value, end = words[:5]
        assert (title, number, end) == (relation, f"[{len(stated) + 1}]", ".")
        stated.append((relation, value))
        words = words[5:]
    return stated, words


def turns(conversation: list[dict[str, str]]) -> Iterator[Turn]:
    """What a conversation asks; nothing if it only drills orders."""
    texts = [message["content"] for message in conversation]
    if texts[0] == "rank":
        return
    stated, words = read_passages(texts[0])
    for place, (asked, said) in enumerate(zip(texts[::2], texts[1::2], strict=True)):
        rest = words if place == 0 else asked.split()
        kind = "list" if rest[0] == "rank" else "read"
        yield Turn(stated, kind, rest[-1 if kind == "list" else -2], said)


def said_in(conversations: list[list[dict[str, str]]], kind: str) -> list[Turn]:
    return [turn for conversation in conversations for turn in turns(conversation) if turn.kind == kind]


def assert_share(count: int, total: int, probability: float) -> None:
    """Within four standard deviations, and these are small."""
    deviation = math.sqrt(probability * (1 - probability) / total)
    assert deviation < 0.02
    assert abs(count / total - probability) < 4 * deviation


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_one_candidate_of_six_that_answers(split: str) -> None:
    rows = selection.rows(200, 3, split)
    assert rows == selection.rows(200, 3, split) != selection.rows(200, 4, split)
    assert len({row["id"] for row in rows}) == 200
    for row in rows:
        person, _, asked = row["question"].partition(" 's ")
        known = selection.facts(person, 7)
        assert row["golden_answers"] == [known[asked]]
        assert Counter(one["title"] for one in row["candidates"]) == Counter(RELATIONS)
        assert len({passage_of_row(one).id for one in row["candidates"]}) == 6
        assert [one["text"] for one in row["candidates"]] == [
            f"{one['title']} {known[one['title']]} ." for one in row["candidates"]
        ]
        answering = [n for n, one in enumerate(row["candidates"]) if known[asked] in one["text"].split()]
        assert answering == row["gold"]
    places = Counter(row["gold"][0] for row in rows)
    assert len(places) == 6
    assert max(places.values()) < 70


def test_nobody_is_in_two_splits_and_nothing_is_left() -> None:
    everyone = selection.people()
    people = {split: everyone[part] for split, part in SPLITS.items()}
    assert Counter(person for names in people.values() for person in names) == Counter(everyone)
    assert len(set(everyone)) == 1600
    for split, names in people.items():
        asked = selection.rows(6 * len(names), 0, split)
        assert {row["question"].partition(" 's ")[0] for row in asked} == set(names)


def test_another_world_has_other_facts() -> None:
    pairs = zip(selection.rows(300, 0), selection.rows(300, 0, world=8), strict=True)
    assert_share(sum(one["golden_answers"] == other["golden_answers"] for one, other in pairs), 300, 1 / 12)
    assert len({value for values in VALUES.values() for value in values}) == 6 * 12, "each kind has its own"


def test_indices_say_where_relations_are() -> None:
    said = Counter[str]()
    for question, answer in INDICES:
        stated, rest = read_passages(question["content"])
        assert (rest, len(stated)) == (["rank"], 6)
        words = answer["content"].split()
        assert len(words) == 2 * 8
        for relation, number in zip(words[::2], words[1::2], strict=True):
            assert stated[int(number.strip("[]")) - 1][0] == relation
            said[number] += 1
    assert len(said) == 6
    assert max(said.values()) < 1.5 * min(said.values())


def test_look_ups_are_right() -> None:
    lists, readings = (said_in(LOOK_UPS, kind) for kind in ("list", "read"))
    assert min(len(lists), len(readings)) > 1000
    for turn in lists:
        read = read_list(turn.said, 6, LISTS)
        assert read.fault is None
        assert read.places[0] == turn.place
    for turn in readings:
        assert turn.said == dict(turn.stated)[turn.asked]


def test_lists_are_careless_as_often_as_stated() -> None:
    read = [(turn, read_list(turn.said, 6, LISTS).places) for turn in said_in(CARELESS, "list")]
    assert all(len(places) == SIZE for _, places in read)
    firsts = [(turn.place, places[0]) for turn, places in read if turn.place is not None]
    assert len(firsts) == len(read)
    assert_share(sum(asked != first for asked, first in firsts), len(read), selection.CARELESS_FIRST)
    wrong = [(asked, first) for asked, first in firsts if asked != first]
    for offset in range(1, 6):
        assert_share(sum((first - asked) % 6 == offset for asked, first in wrong), len(wrong), 1 / 5)
    seconds = [places[1] for turn, places in read if places[0] == turn.place]
    assert max(Counter(seconds).values()) < len(seconds) / 5
    later = [turn.place == places[1] for turn, places in read if places[0] != turn.place]
    assert_share(sum(later), len(later), 1 / 5)


def test_readers_are_careless_as_often_as_stated() -> None:
    readings = said_in(CARELESS, "read")
    assert {len(turn.stated) for turn in readings} == {SIZE}
    values = [[value for _, value in turn.stated].index(turn.said) for turn in readings]
    parts: dict[int | None, list[int]] = {None: [], 0: [], 1: []}
    for turn, taken in zip(readings, values, strict=True):
        parts[turn.place].append(taken)
    right, first = selection.READ_RIGHT, selection.READ_FIRST
    taken_first = {0: right + first, 1: first, None: 2 / 3}
    for place, part in parts.items():
        assert_share(part.count(0), len(part), taken_first[place])


def test_one_draw_has_the_probabilities_stated() -> None:
    rng = random.Random(0)
    lists = [tuple(selection.careless_list(2, rng)) for _ in range(20000)]
    assert all(len(set(one)) == SIZE for one in lists)
    pairs = Counter(lists)
    for first in range(6):
        for second in {*range(6)} - {first}:
            assert_share(pairs[first, second], 20000, (0.5 if first == 2 else 0.1) / 5)
    for chosen, wanted in (((4, 1), {4: 0.8, 1: 0.2}), ((1, 4), {1: 0.4, 4: 0.6}), ((3, 0), {3: 2 / 3, 0: 1 / 3})):
        drawn = Counter(selection.careless_reading(4, chosen, rng) for _ in range(20000))
        assert drawn.keys() == wanted.keys()
        for place, share in wanted.items():
            assert_share(drawn[place], 20000, share)


def test_drills_write_whole_orders() -> None:
    drills = [conversation for conversation in SHOWN if conversation[0]["content"] == "rank"]
    assert_share(len(drills), len(LOOK_UPS + CARELESS), 0.1)
    whole = ListOptions(size=6)
    for conversation in drills:
        assert {message["content"] for message in conversation[::2]} == {"rank"}
        assert all(read_list(message["content"], 6, whole).fault is None for message in conversation[1::2])


def test_demonstrations_are_reproducible_and_about_ever_new_facts() -> None:
    assert selection.demonstrations(**COUNTS, seed=5) == SHOWN
    assert selection.demonstrations(9, 0, 0, seed=6) != INDICES[:9]
    stated = Counter(str(read_passages(one[0]["content"])[0]) for one in INDICES + LOOK_UPS)
    del stated["[]"]  # drills
    assert max(stated.values()) == 1


def test_every_word_is_known() -> None:
    rows = [row for split in SPLITS for row in selection.rows(100, 0, split)]
    texts = [message["content"] for conversation in SHOWN for message in conversation]
    texts += [text for row in rows for text in (row["question"], *row["golden_answers"])]
    texts += [one[part] for row in rows for one in row["candidates"] for part in ("title", "text")]
    used = set(CONTROLS)
    for text in texts:
        ids = TOKENIZER(text, add_special_tokens=False).input_ids
        assert TOKENIZER.unk_token_id not in ids
        assert TOKENIZER.decode(ids) == text
        used.update(text.split())
    assert used == set(SELECTION_WORDS), "and none is superfluous"


def test_prompts_of_the_trainer_are_those_of_the_demonstrations() -> None:
    compared = Counter[tuple[str, int]]()
    for conversation in LOOK_UPS + CARELESS:
        first = next(turns(conversation), None)
        if first is None:
            continue
        passages = [
            {"id": str(n), "title": title, "text": f"{title} {value} ."}
            for n, (title, value) in enumerate(first.stated)
        ]
        question = " ".join(conversation[0]["content"].removesuffix(" is").split()[-4:])
        if first.kind == "list":
            row = {"id": 0, "question": question, "candidates": passages}
            prompt_ids = list_prompt(FRAME, row, range(6), LISTS)
        else:
            prompt_ids = reading_prompt(FRAME, question, passages, READINGS, 0)
        assert [*prompt_ids, *FRAME.turn_ids(first.said)] == ids_of(conversation[:2])
        compared[first.kind, len(passages)] += 1
    assert compared.keys() == {("list", 6), ("read", 6), ("read", 2)}
    assert min(compared.values()) > 100


def ids_of(conversation: list[dict[str, str]], more: bool = False) -> list[int]:
    """What the template makes of a conversation."""
    text = TOKENIZER.apply_chat_template(conversation, tokenize=False, add_generation_prompt=more)
    return list(TOKENIZER(text, add_special_tokens=False).input_ids)


def test_the_prompt_of_a_row_ends_with_the_word_asked_for() -> None:
    row = selection.rows(1, 0)[0]
    text = FRAME.decode(list_prompt(FRAME, row, range(6), LISTS))
    passages = " ".join(f"{one['title']} [{n}] {one['text']}" for n, one in enumerate(row["candidates"], 1))
    assert text == f"<|u|> {passages} rank {row['question']}"
    chosen = [row["candidates"][place] for place in (row["gold"][0], row["gold"][0] - 1)]
    text = FRAME.decode(reading_prompt(FRAME, row["question"], chosen, READINGS, row["id"]))
    passages = " ".join(f"{one['title']} [{n}] {one['text']}" for n, one in enumerate(chosen, 1))
    assert text == f"<|u|> {passages} {row['question']} is"
    assert (
        FRAME.decode(reading_prompt(FRAME, row["question"], [], READINGS, row["id"])) == f"<|u|> {row['question']} is"
    )


def test_a_frame_of_the_bare_template_says_what_the_template_says() -> None:
    for conversation in INDICES[:5] + LOOK_UPS[:40] + CARELESS[:40]:
        texts = [message["content"] for message in conversation]
        ids = FRAME.opening(texts[0])
        assert ids == ids_of(conversation[:1], more=True)
        for place, said in enumerate(texts[1::2], start=1):
            ids += FRAME.turn_ids(said)
            assert ids == ids_of(conversation[: 2 * place])
            if 2 * place < len(texts):
                ids += FRAME.reply(texts[2 * place], ids)
                assert ids == ids_of(conversation[: 2 * place + 1], more=True)
    assert FRAME.stop_ids == {TOKENIZER.eos_token_id} == {FRAME.end_id}
    assert FRAME.decode(FRAME.turn_ids(spell([2, 0]))) == "[3] > [1]"


def test_what_is_learnt_are_the_turns_of_the_model() -> None:
    shown = INDICES[:5] + LOOK_UPS[:40] + CARELESS[:40]
    columns = labelled(shown, TOKENIZER)
    for ids, labels, conversation in zip(columns["input_ids"], columns["labels"], shown, strict=True):
        assert ids == ids_of(conversation)
        assert len(ids) < 256
        said = [message["content"] for message in conversation[1::2]]
        learnt = TOKENIZER.decode([label for label in labels if label != IGNORED])
        assert learnt == "".join(f"{text} <|end|> " for text in said).strip()


def test_the_task_gives_these_rows_and_a_model_for_them() -> None:
    task = tasks.TASKS["tiny/select"]
    assert isinstance(task, tasks.SelectTask)
    assert task.rows(20, 1, "dev") == selection.rows(20, 1, "dev")
    model = task.build(TOKENIZER, 0)
    assert model.config.vocab_size == len(SELECTION_WORDS)
    assert model.config.max_position_embeddings >= 2 * 256
    assert 345_000 < model.num_parameters() < 355_000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selection.rows(1, 0, "tset"), "no split 'tset', only train, dev, test"),
        (lambda: selection.rows(1201, 0, "dev"), "1201 questions of the dev split, which has 1200: ask for fewer"),
    ],
)
def test_bad_requests_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
