"""Questions and candidates of a DRO run: found once, and refused before a model is loaded."""

import json
import logging
import re
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rlft.em.stages import Round
from rlft.record.jsonl import read_jsonl
from rlft.record.stages import AnotherRun
from rlft.rollouts.permutation import list_prompt
from rlft.rollouts.reading import reading_prompt
from rlft.trainers import dro_steps
from tests.trainers.dro_runs import Finder, bare, rows, save_model, trainer

TRAIN, DEV = rows(9, 1), rows(4, 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


def changed(**columns: Any) -> list[dict[str, Any]]:
    """The training rows, the third of which has other columns."""
    return [{**row, **columns} if number == 2 else row for number, row in enumerate(TRAIN)]


def test_candidates_are_found_once_and_kept(base: Path, tmp_path: Path) -> None:
    """Of the rows that have none; also over rounds and a run that is gone on with."""
    mixed = [row if number % 2 else {**row, "candidates": None} for number, row in enumerate(TRAIN)]
    finder = Finder(TRAIN + DEV)
    for rounds in (0, 1):
        run = trainer(
            tmp_path, base, train=mixed, dev=bare(DEV), retriever=finder, num_rounds=rounds, eval_sampled=False
        )
        run.train()
    assert sum(finder.asked, []) == [row["question"] for row in [*TRAIN[::2], *DEV]]
    for name, lacking in (("train", TRAIN[::2]), ("dev", DEV)):
        kept = [read_jsonl(path) for path in sorted(tmp_path.glob(f"round-0/candidates-{name}-*.jsonl"))]
        assert sum(kept, []) == [{"id": row["id"], "candidates": row["candidates"][:5]} for row in lacking]
        assert list(map(len, kept)) == [3, len(lacking) - 3]
    stages = list(json.loads((tmp_path / "round-0/manifest.json").read_text()))
    assert stages[:2] == ["candidates train", "candidates dev"]
    found = run.prepared(Round(tmp_path, 0), "train", Dataset.from_list(mixed))
    assert [row["candidates"] for row in found] == [row["candidates"][:5] for row in TRAIN]
    test, before = bare(rows(3, 7)), len(finder.asked)
    finder.known |= Finder(rows(3, 7)).known
    assert [run.evaluate(Dataset.from_list(test)) for _ in range(2)][0]["greedy_candidate_recall"] > 0
    assert finder.asked[before:] == [[row["question"] for row in test]]


@pytest.mark.usefixtures("no_model")
def test_another_retriever_is_another_run(base: Path, tmp_path: Path) -> None:
    trainer(tmp_path, base, train=bare(TRAIN), retriever=Finder(TRAIN)).claim_folder()
    other = Finder(TRAIN)
    other.name = "other"
    with pytest.raises(AnotherRun, match="retriever was 'finder', is 'other'"):
        trainer(tmp_path, base, train=bare(TRAIN), retriever=other).claim_folder()


NAMELESS = {"id": None, "title": "", "text": "where"}
EMPTY = {"id": "empty", "title": "where", "text": " "}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"golden_answers": []}, "it has no golden_answers"),
        ({"golden_answers": ["where", ""]}, "no token that the tokenizer knows"),
        ({"golden_answers": ["where", None]}, r"its golden_answers are \['where', None\], not a list of texts"),
        ({"golden_answers": ["where " * 9]}, "an answer has 10 tokens, above max_answer_tokens=6"),
        ({"question": " "}, "has no question"),
        ({"id": TRAIN[0]["id"]}, "its id stands twice"),
        ({"candidates": TRAIN[2]["candidates"][:1]}, "has 1 candidates and 2 are needed"),
        ({"candidates": []}, "has 0 candidates and 2 are needed"),
        ({"candidates": TRAIN[2]["candidates"][:1] * 2}, "candidates 1 and 2 have the same id"),
        ({"candidates": [*TRAIN[2]["candidates"][:4], NAMELESS]}, 'candidate 5: "id" is None'),
        ({"candidates": [*TRAIN[2]["candidates"][:4], EMPTY]}, "candidate 5: its text is ' '"),
        ({"candidates": None}, "it has no candidates, and there is no retriever"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_rows_that_cannot_be_used_are_refused(
    base: Path, columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"1 of 9 questions of train_dataset cannot be used; .*{message}") as caught:
        trainer(tmp_path, base, train=changed(**columns))
    assert columns.get("id", TRAIN[2]["id"]) in str(caught.value)
    with pytest.raises(ValueError, match=f"1 of 9 questions of eval_dataset cannot be used; .*{message}"):
        trainer(tmp_path, base, dev=changed(**columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"golden_answers": "where"}, "its golden_answers are 'where', not a list of texts"),
        ({"golden_answers": [1914]}, r"its golden_answers are \[1914\], not a list of texts"),
        ({"golden_answers": None}, "it has no golden_answers"),
        ({"question": 1914}, r"no question: row\['question'\] is 1914"),
        ({"id": None}, "it has no id"),
        ({"candidates": "where"}, "candidates is a str, not a list of passages"),
        ({"candidates": {"id": "a", "title": "", "text": "where"}}, "candidates is a dict, not a list of passages"),
        ({"candidates": ["where", "where"]}, "candidate 1: it holds a str"),
        ({"candidates": [{"id": "a", "title": "", "text": 1914}] * 2}, 'candidate 1: "text" is a int'),
        ({"candidates": [{"id": "a", "title": 1914, "text": "where"}] * 2}, 'candidate 1: "title" is a int'),
        ({"candidates": [{"id": "a", "title": "where"}] * 2}, "candidate 1: its text is None"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_columns_of_another_type_are_refused(base: Path, columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"4 of 4 questions of eval_dataset cannot be used; .*{message}"):
        trainer(tmp_path, base, dev=[row | columns for row in DEV])


@pytest.mark.usefixtures("no_model")
def test_found_candidates_are_checked_as_given_ones(base: Path, tmp_path: Path) -> None:
    given = TRAIN[4]["candidates"]
    for number, (candidates, message) in enumerate(
        (
            (given[:1], "has 1 candidates and 2 are needed"),
            ([given[0], {**given[1], "text": "where " * 300}], "its prompt with 2 candidates has 3[0-9]{2} tokens"),
        )
    ):
        finder = Finder(TRAIN)
        finder.known[TRAIN[4]["question"]] = candidates
        name = re.escape(TRAIN[4]["id"])
        with pytest.raises(ValueError, match=f"1 of 9 questions of train cannot be used; .*row '{name}'.* {message}"):
            trainer(tmp_path / str(number), base, train=bare(TRAIN), retriever=finder).train()


def texts(*given: str) -> list[dict[str, str]]:
    return [{"id": str(number), "title": "", "text": text} for number, text in enumerate(given)]


LONG = texts(*["where " * 60] * 3)
DENSE = texts("? " * 30, "? " * 30, *["university " * 9] * 3)
"""The first two have the most tokens, the others the most letters."""
TITLED = [{"id": str(n), "title": "where " * (60 if n < 2 else 1), "text": "where " * 3} for n in range(3)]
SHOWN = {"passage_format": "{title} [{n}] {text}"}


@pytest.mark.parametrize(
    ("candidates", "changes", "message"),
    [
        (LONG, {"max_tokens": 180}, "its prompt with 3 candidates has 1[0-9]{2} tokens.*raise max_tokens"),
        (LONG, {"max_answer_tokens": 140}, "its prompt with 2 passages has 1[0-9]{2} tokens.*raise max_tokens"),
        (DENSE, {"max_answer_tokens": 190}, "its prompt with 2 passages has [0-9]{2} tokens"),
        (TITLED, {"max_answer_tokens": 140} | SHOWN, "its prompt with 2 passages has 1[0-9]{2} tokens"),
        (None, {"max_list_tokens": 3}, r"max_list_tokens=3 would cut lists such as '\[4\] > \[5\]' of 4 tokens"),
        (None, {"max_list_tokens": 3, "constrained": False}, "max_list_tokens=3 would cut lists"),
    ],
)
@pytest.mark.usefixtures("no_model")
def test_what_does_not_fit_is_refused(
    base: Path, candidates: Any, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    train = changed(candidates=candidates) if candidates else TRAIN
    with pytest.raises(ValueError, match=message) as caught:
        trainer(tmp_path / "run", base, train=train, **changes)
    assert not candidates or f"row '{TRAIN[2]['id']}'" in str(caught.value)
    assert not (tmp_path / "run/em.json").exists(), "with a greater cap it is the same folder's run"


def test_prompts_may_be_as_long_as_the_limit_and_no_longer(base: Path, tmp_path: Path) -> None:
    """The longest that any list of any row can give, of both models at once."""
    given: dict[str, Any] = {"train": TRAIN[:3], "dev": DEV[:2]}
    steps = trainer(tmp_path / "free", base, **given).steps
    shown = [{**row, "candidates": row["candidates"][:5]} for row in [*TRAIN[:3], *DEV[:2]]]
    selector = max(len(list_prompt(steps.selector.frame, row, range(5), steps.list_options)) for row in shown)
    generator = max(len(steps.reading(row, places)) for row in shown for places in permutations(range(5), 2))
    caps: dict[str, Any] = {
        "max_list_tokens": 8,
        "max_tokens": selector + 8,
        "max_answer_tokens": selector + 8 - generator,
    }
    for name, what, longest in (
        ("max_list_tokens", "5 candidates", selector),
        ("max_answer_tokens", "2 passages", generator),
    ):
        one_more = caps | {name: caps[name] + 1}
        message = (
            f"its prompt with {what} has {longest} tokens, and max_tokens={caps['max_tokens']} less "
            f"{name}={one_more[name]} leaves {longest - 1}; raise max_tokens"
        )
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path / "run", base, **given, **one_more)
    run = trainer(tmp_path / "run", base, **given, **caps, num_generations=8, eval_sampled=False)
    assert len(run.train()) == 2


@pytest.mark.usefixtures("no_model")
def test_unanswerable_questions_are_counted_and_left_out_of_training_if_asked(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = sum(row["gold"][0] > 4 for row in TRAIN)
    assert lost, "of six candidates five are used"
    for drop, left in ((False, 9), (True, 9 - lost)):
        run, caplog.records[:] = trainer(tmp_path, base, drop_unanswerable=drop), []
        with caplog.at_level(logging.WARNING):
            train = run.prepared(Round(tmp_path, 0), "train", Dataset.from_list(TRAIN))
        assert len(train) == left
        assert f"{lost} of 9 questions have no answer in any candidate ({'left out' if drop else 'kept'}" in caplog.text
        assert len(run.prepared(Round(tmp_path, 0), "dev", Dataset.from_list(TRAIN))) == 9
    assert all(any(row["golden_answers"][0] in one["text"] for one in row["candidates"]) for row in train)
    counted = json.loads((tmp_path / "round-0/left-out-train.json").read_text())
    assert counted == {"questions": 9, "no answer in any candidate": lost}
    assert not (tmp_path / "round-0/left-out-dev.json").exists()
    hopeless = [{**row, "golden_answers": ["where"]} for row in TRAIN]
    with pytest.raises(
        ValueError, match="no question has its answer in a candidate, and drop_unanswerable leaves none"
    ):
        trainer(tmp_path / "none", base, train=hopeless, drop_unanswerable=True).train()


@pytest.mark.usefixtures("no_model")
def test_passages_that_all_fit_are_read_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenising each alone takes minutes with many questions, and says no more."""
    read = []
    monkeypatch.setattr(dro_steps, "reading_prompt", lambda *given: read.append(given[2]) or reading_prompt(*given))
    trainer(tmp_path, base)
    assert [len(passages) for passages in read] == [5] * (len(TRAIN) + len(DEV))
    read.clear()
    trainer(tmp_path, base, train=changed(candidates=LONG), max_answer_tokens=100)
    assert [len(passages) for passages in read[2:7]] == [3, 1, 1, 1, 2], "all, each alone, and the longest two"


@pytest.mark.usefixtures("no_model")
def test_demonstrations_that_cannot_be_learnt_are_refused(base: Path, tmp_path: Path) -> None:
    shown = Dataset.from_list([{"messages": [{"role": "user", "content": "rank"}]}])
    with pytest.raises(ValueError, match="demonstration 1 cannot be used"):
        trainer(tmp_path, base, warm_up_datasets={"selector": shown})
