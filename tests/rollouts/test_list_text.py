"""Every row of the documented table, and what else models write in the place of a list."""

import itertools
import random
import subprocess
import sys
from typing import Any

import pytest

from rlft.retrieval.passage import Passage
from rlft.rollouts.list_text import Invalid, ListFault, ListOptions, ListRead, passages_of, read_list, spell
from rlft.rollouts.ranking import parse_ranking

CUT, EMPTY, PROSE, SPELLING, REPEATED, OUT_OF_RANGE, TOO_FEW, TOO_MANY = ListFault
MODES: list[tuple[Any, Invalid]] = [("strict", "drop"), ("lenient", "drop"), ("strict", "pad")]
TABLE: list[tuple[str, int, Any, Any, list[int]]] = [
    # text, K, strict, lenient, padded; printed numbers, n = 20
    ("[2] > [1]", 2, [2, 1], [2, 1], [2, 1]),
    ("[20] > [10] > [1]", 3, [20, 10, 1], [20, 10, 1], [20, 10, 1]),
    ("[7]", 1, [7], [7], [7]),
    (" \n[2] > [1]\n", 2, [2, 1], [2, 1], [2, 1]),
    ("<think>[5] > [4]?</think>\n\n[2] > [1]", 2, [2, 1], [2, 1], [2, 1]),
    ("a</think>[9]</think>[2] > [1]", 2, [2, 1], [2, 1], [2, 1]),
    ("<think>[5] > [4] is", 2, PROSE, TOO_FEW, [1, 2]),
    ("[3] <think> or [4]", 2, PROSE, TOO_FEW, [3, 1]),
    ("[2]>[1]", 2, SPELLING, [2, 1], [2, 1]),
    ("[ 2 ] > [ 1 ]", 2, SPELLING, [2, 1], [2, 1]),
    ("[ 3 ]", 1, SPELLING, [3], [3]),
    ("[2]  > [1]", 2, SPELLING, [2, 1], [2, 1]),
    ("[2] >\n[1]", 2, SPELLING, [2, 1], [2, 1]),
    ("[2] > [1] >", 2, SPELLING, [2, 1], [2, 1]),
    ("[2] > [1].", 2, SPELLING, [2, 1], [2, 1]),
    ("[2], [1]", 2, SPELLING, [2, 1], [2, 1]),
    ("[2] [1]", 2, SPELLING, [2, 1], [2, 1]),
    ("[02] > [1]", 2, SPELLING, [2, 1], [2, 1]),
    ("[+2] > [1]", 2, SPELLING, TOO_FEW, [1, 2]),
    ("2, 1", 2, SPELLING, [2, 1], [2, 1]),
    ("2 > 1", 2, SPELLING, [2, 1], [2, 1]),
    ("21", 2, SPELLING, TOO_FEW, [1, 2]),
    ("???", 2, SPELLING, TOO_FEW, [1, 2]),
    ("[٣] > [1]", 2, SPELLING, TOO_FEW, [1, 2]),
    ("[３] > [1]", 2, SPELLING, TOO_FEW, [1, 2]),
    ("[²]", 1, SPELLING, TOO_FEW, [1]),
    ("٣", 1, SPELLING, TOO_FEW, [1]),
    ("[2] > [2] > [25]", 2, REPEATED, TOO_FEW, [2, 1]),
    ("[2] > [2] > [25]", 1, REPEATED, [2], [2]),
    ("[2] > [2]", 2, REPEATED, TOO_FEW, [2, 1]),
    ("[3] > [2] > [3]", 2, REPEATED, [3, 2], [3, 2]),
    ("[2] > [25]", 2, OUT_OF_RANGE, TOO_FEW, [2, 1]),
    ("[2] > [0]", 2, OUT_OF_RANGE, TOO_FEW, [2, 1]),
    ("[21] > [3] > [4]", 2, OUT_OF_RANGE, [3, 4], [3, 4]),
    ("[2] > [" + "9" * 5000 + "]", 2, OUT_OF_RANGE, TOO_FEW, [2, 1]),
    ("[2]", 2, TOO_FEW, TOO_FEW, [2, 1]),
    ("[2]", 3, TOO_FEW, TOO_FEW, [2, 1, 3]),
    ("[2] > [1] > [3]", 2, TOO_MANY, [2, 1], [2, 1]),
    ("[2] > [1] are best.", 2, PROSE, [2, 1], [2, 1]),
    ("Top 5: [3]", 1, PROSE, [3], [3]),
    ("Top 5: [3]", 2, PROSE, TOO_FEW, [3, 1]),
    ("The best is 4.", 1, PROSE, [4], [4]),
    ("In 2024, 3 and 5", 2, PROSE, [3, 5], [3, 5]),
    ("none of them", 2, PROSE, TOO_FEW, [1, 2]),
    ("[two]", 1, PROSE, TOO_FEW, [1]),
    ("", 2, EMPTY, TOO_FEW, [1, 2]),
    (" \n", 2, EMPTY, TOO_FEW, [1, 2]),
    ("[2] > [1]</think>", 2, EMPTY, TOO_FEW, [1, 2]),
]


def expected(outcome: Any) -> tuple[list[int], ListFault | None]:
    return ([], outcome) if isinstance(outcome, ListFault) else ([number - 1 for number in outcome], None)


@pytest.mark.parametrize(("text", "size", "strict", "lenient", "padded"), TABLE)
def test_the_table(text: str, size: int, strict: Any, lenient: Any, padded: Any) -> None:
    for (parsing, invalid), outcome in zip(MODES, (strict, lenient, padded), strict=True):
        read = read_list(text, 20, ListOptions(size=size, parsing=parsing, invalid=invalid))
        assert (read.places, read.fault) == expected(outcome), (parsing, invalid)
        assert read.padded == (invalid == "pad" and isinstance(lenient, ListFault))


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "padded"),
    [
        ("[2] > [1]", CUT, [2, 1], [2, 1]),
        ("[2] > [1] > [", CUT, [2, 1], [2, 1]),
        ("[2] > [1", CUT, CUT, [2, 1]),
        ("[12] > [", CUT, CUT, [12, 1]),
        ("", CUT, CUT, [1, 2]),
        ("I think that", CUT, CUT, [1, 2]),
        ("<think>[5] > [4] and", CUT, CUT, [1, 2]),
    ],
)
def test_cut_texts(text: str, strict: Any, lenient: Any, padded: Any) -> None:
    for (parsing, invalid), outcome in zip(MODES, (strict, lenient, padded), strict=True):
        read = read_list(text, 20, ListOptions(size=2, parsing=parsing, invalid=invalid), cut=True)
        assert (read.places, read.fault) == expected(outcome), (parsing, invalid)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 2), (4, 4), (12, 2)])
def test_every_list_is_read_as_it_is_spelled(count: int, size: int) -> None:
    for parsing, invalid in MODES:
        options = ListOptions(size=size, parsing=parsing, invalid=invalid)
        for places in itertools.permutations(range(count), size):
            assert read_list(spell(places), count, options) == ListRead(list(places), None)


def test_what_is_read_is_a_list_whatever_was_written() -> None:
    """Strict reads canonical spellings alone; all modes give K different places or a fault, lenient the more often."""
    rng = random.Random(0)
    seen: set[ListFault | None] = set()
    for _ in range(20_000):
        pieces = rng.choices(["[1]", "[2]", "[4]", "[5]", "[0]", *4 * [" > "], ">", "3", "a", " ", "</think>"], k=5)
        text, cut = "".join(pieces), rng.random() < 0.1
        strict, lenient, padded = (
            read_list(text, 4, ListOptions(size=2, parsing=parsing, invalid=invalid), cut) for parsing, invalid in MODES
        )
        seen.add(strict.fault)
        for read in (strict, lenient, padded):
            assert (len(set(read.places)), bool(read.fault)) in {(2, False), (0, True)}
            assert all(0 <= place < 4 for place in read.places)
        if strict.fault is None:
            assert text.rpartition("</think>")[2].strip() == spell(strict.places)
            assert lenient == padded == strict
        if lenient.fault is None:
            assert padded == lenient
        assert padded.fault is None
        said = parse_ranking(text.rpartition("</think>")[2], 4)
        assert padded.places[: len(said)] == said[:2]
    assert seen == {None, *ListFault}


def test_fewer_passages_than_a_list_takes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"size=5 different passages out of 4; lower size"):
        read_list("[1]", 4, ListOptions())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": 0}, "size=0"),
        ({"max_list_tokens": 0, "max_tokens": -1}, "max_list_tokens=0, max_tokens=-1"),
        ({"resamples": -1}, "resamples=-1"),
        ({"parsing": "loose"}, "parsing='loose'"),
        ({"invalid": "skip"}, "invalid='skip'"),
        ({"instruction": "{question}"}, r"instruction='{question}' must hold {passages}"),
        ({"instruction": "{passages}"}, r"must hold {question}"),
        ({"passage": "{text}"}, r"passage='{text}' must hold {n}"),
    ],
)
def test_bad_options_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ListOptions(**fields)


def test_no_further_draws_is_an_option() -> None:
    assert ListOptions(invalid="resample", resamples=0).resamples == 0


def test_passages_come_in_either_form() -> None:
    passage = Passage("a", "T", "x", 1.0)
    rows = [passage, {"id": "b", "title": "U", "text": "y"}, {"id": 3, "contents": '"V"\nz'}]
    found = passages_of(rows, "q1")
    assert found[0] is passage
    assert [(one.id, one.title, one.text) for one in found[1:]] == [("b", "U", "y"), ("3", "V", "z")]


@pytest.mark.parametrize("bad", ["text", None, {"id": "b"}, {"id": "b", "text": " "}, {"text": "x"}])
def test_what_is_no_passage_is_refused_by_place(bad: Any) -> None:
    with pytest.raises(ValueError, match="row 'q1', passage 1: "):
        passages_of([{"id": "a", "text": "x"}, bad], "q1")


def test_reading_lists_needs_no_torch() -> None:
    modules = ", ".join(f"rlft.rollouts.{name}" for name in ("list_text", "permutation", "reading"))
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; assert 'torch' not in sys.modules"], check=True)
