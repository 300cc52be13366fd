"""The stream: nothing lost, every pass in an order of its own, blocks the same whoever asks for them first."""

from typing import Any

import numpy as np
import pytest

from rlft.stream import IGNORED, Stream

END = 0


def samples(count: int = 7) -> list[dict[str, Any]]:
    return [
        {"id": str(n), "ids": [10 * (n + 1) + place for place in range(1 + n % 4)] + [END] * (n % 2)}
        for n in range(count)
    ]


def read(stream: Stream, blocks: int) -> tuple[list[int], list[int]]:
    rows = [stream.block(number) for number in range(blocks)]
    return [token for ids, _ in rows for token in ids], [label for _, labels in rows for label in labels]


def cut(ids: list[int]) -> list[tuple[int, ...]]:
    """The samples of a text, each without its end token."""
    found: list[list[int]] = [[]]
    for token in ids:
        if token == END:
            found.append([])
        else:
            found[-1].append(token)
    assert found[-1] == []
    return [tuple(sample) for sample in found[:-1]]


@pytest.mark.parametrize("length", [2, 5, 24, 100])
def test_each_pass_holds_every_sample_once(length: int) -> None:
    stream = Stream(samples(), end_id=END, length=length, seed=3)
    whole = len(stream.ids_N)
    ids, labels = read(stream, -(-3 * whole // length))
    assert labels == ids
    passes = [cut(ids[start : start + whole]) for start in (0, whole, 2 * whole)]
    wanted = sorted(tuple(token for token in sample["ids"] if token != END) for sample in samples())
    assert [sorted(found) for found in passes] == [wanted] * 3
    assert passes[0] != passes[1] != passes[2]


def test_blocks_are_the_same_in_any_order_of_asking() -> None:
    there, back = (Stream(samples(), end_id=END, length=5, seed=3) for _ in range(2))
    forward = [there.block(number) for number in range(20)]
    assert [back.block(number) for number in reversed(range(20))] == forward[::-1]
    assert forward != [Stream(samples(), end_id=END, length=5, seed=4).block(number) for number in range(20)]
    assert there.dataset(20)[3] == {"input_ids": forward[3][0], "labels": forward[3][1]}
    assert len(there.dataset(20)) == 20


def test_prompts_and_first_tokens_are_ignored_where_asked() -> None:
    rows = [{"id": "a", "ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"id": "b", "ids": [8, 9, END]}]
    ids, labels = read(Stream(rows, end_id=END, length=7, seed=0), 1)
    assert dict(zip(ids, labels, strict=True)) == {5: IGNORED, 6: 6, 7: 7, 8: 8, 9: 9, END: END}
    ids, labels = read(Stream(rows, end_id=END, length=7, seed=0, learn_after_end=False), 1)
    assert dict(zip(ids, labels, strict=True)) == {5: IGNORED, 6: 6, 7: 7, 8: IGNORED, 9: 9, END: END}


def test_what_follows_an_end_inside_a_sample_is_ignored_too() -> None:
    rows = [{"id": "a", "ids": [5, 6, END, 7, 8, END]}]
    assert Stream(rows, end_id=END, length=6, seed=0, learn_after_end=False).block(0)[1] == [
        *(IGNORED, 6, END),
        *(IGNORED, 8, END),
    ]


def test_blocks_of_passes() -> None:
    stream = Stream([{"ids": [1] * 99}], end_id=END, length=30, seed=0)
    assert [stream.blocks(passes) for passes in (0.1, 1, 2.7)] == [1, 3, 9]


def test_shares_of_a_pass_do_not_depend_on_where_blocks_fall() -> None:
    rows = [{"ids": [1] * 30}, {"ids": [2] * 10}]
    ids, _ = read(Stream(rows, end_id=END, length=7, seed=1), 6)
    assert np.bincount(ids, minlength=3).tolist() == [2, 30, 10]


@pytest.mark.parametrize(
    ("rows", "length", "message"),
    [
        ([], 8, "0 samples"),
        ([{"ids": [1]}], 1, "blocks of 1"),
        ([{"id": "a", "ids": []}], 8, "'a' has 0 ids"),
        ([{"id": "a", "ids": [1, 2], "labels": [1]}], 8, "2 ids and 1 labels"),
    ],
)
def test_bad_input(rows: list[dict[str, Any]], length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stream(rows, end_id=END, length=length, seed=0)
