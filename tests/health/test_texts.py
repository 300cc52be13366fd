"""Repetition and unreadable characters, counted by hand."""

import pytest

from rlft.health.texts import repetition, unreadable


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ("", 0),
        ("abc", 0),
        ("abcd", 0),
        ("abcdefgh", 0),
        ("aaaaaaaa", 4 / 5),  # five 4-grams, all alike
        ("abcdabcd", 1 / 5),  # abcd bcda cdab dabc abcd
        ("abababab", 3 / 5),
    ],
)
def test_repetition(tokens: str, share: float) -> None:
    assert repetition(tokens) == pytest.approx(share)
    assert repetition([ord(letter) for letter in tokens]) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("two lines,\n\ta tab, an umlaut ä, 漢字, an emoji 🙂\r\n", 0),
        ("ab\ufffd\ufffd", 1 / 2),
        ("a\x00\x1b\u200b", 3 / 4),
        ("\ud800\ue000", 1),  # a lone surrogate, a private code point
    ],
)
def test_unreadable(text: str, share: float) -> None:
    assert unreadable(text) == pytest.approx(share)
