"""Text from outside, made harmless: a passage or a question can neither open nor close a turn nor fake an action.

Wherever text spells a control string (a special token, a marker such as `<QUERY>`, a turn delimiter such as `[INST]`),
its brackets become parentheses: `<|im_end|>` reads `(|im_end|)`, in whatever case, width and spacing it was
written. What holds no brackets gets a dot after its first letter: `H·uman:`. Most vocabularies have parentheses, so
the text stays readable to the model and to people.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_BRACKETS = {"<": "(", ">": ")", "[": "(", "]": ")", "{": "(", "}": ")"}

REMEMBERED = 8192
"""Texts whose result is kept: the samples of a question see the same passages again and again."""


class Neutraliser:
    """Breaks control strings in text.

    Args:
        tokenizer: its special tokens, and its other added tokens that hold a bracket (`<tool_call>`), are controls.
            A token of one character is an ordinary character, whatever it is used for, and so is the unknown token's
            id, which any character may turn into.
        markers: further control strings.
        allowed: strings that are no controls, in whatever case, although the tokenizer says so.
    """

    def __init__(self, tokenizer: Any, markers: Iterable[str] = (), allowed: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        spared = {_folded(string) for string in allowed}
        strings = {*_added(tokenizer), *markers}
        self.strings = frozenset(s for s in strings if len(_folded(s)) > 1 and _folded(s) not in spared)
        vocabulary = tokenizer.get_vocab()
        ids = {vocabulary[string] for string in self.strings if string in vocabulary}
        self.control_ids: frozenset[int] = frozenset(ids - {tokenizer.unk_token_id})
        self._folded = {_folded(string) for string in self.strings}
        self._beginnings = {string[:length] for string in self._folded for length in range(1, len(string) + 1)}
        openings = "".join(_spellings().get(string[0], "") for string in self._folded)
        self._openings = re.compile(f"[{re.escape(openings)}]" if openings else r"(?!)")
        self._remembered = lru_cache(REMEMBERED)(self._neutralised)

    def __call__(self, text: str) -> str:
        """`text` with every control string broken; unchanged if there is none.

        Tokenised on its own, the result holds no control token either, whatever the tokenizer's own normalisation does.

        Raises:
            ValueError: if a control token is left even after all punctuation was taken out.
        """
        return self._remembered(text)

    def _neutralised(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate, which no tokenizer reads
        compatible = unicodedata.normalize("NFKC", text)
        for candidate in (text, compatible, re.sub(r"[^\w\s]|_", " ", compatible)):
            harmless = self._broken(candidate)
            if self.control_ids.isdisjoint(encode(self._tokenizer, harmless)):
                return harmless
        raise ValueError(
            f"{text[:200]!r} still holds a control token after its control strings were broken; the tokenizer turns "
            "ordinary words into control tokens: mend its normalizer or its added tokens."
        )

    def controls_among(self, ids: Iterable[int]) -> list[int]:
        """The control tokens among `ids`, in order."""
        return [token for token in ids if token in self.control_ids]

    def _broken(self, text: str) -> str:
        place = 0
        while found := self._openings.search(text, place):
            place = found.start()
            if end := self._control_end(text, place):
                text = text[:place] + _break(text[place:end]) + text[end:]
            place += 1  # not `end`: another control string may begin inside this one
        return text

    def _control_end(self, text: str, start: int) -> int | None:
        """Where the shortest control string that begins at `start` ends; blanks within it do not matter."""
        seen = ""
        for place in range(start, len(text)):
            seen += _folded(text[place])
            if seen in self._folded:
                return place + 1
            if seen not in self._beginnings:
                return None
        return None


def encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of `text` as it stands: control strings are read as control tokens, and nothing is put before or after."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _added(tokenizer: Any) -> set[str]:
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special or not _BRACKETS.keys().isdisjoint(token.content)} | set(
        tokenizer.all_special_tokens
    )


def _folded(text: str) -> str:
    """`text` without case, width and blanks."""
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


@lru_cache
def _spellings() -> dict[str, str]:
    """Characters by what their folding begins with: `<` has a small and a full-width form."""
    spellings: dict[str, str] = {}
    for character in map(chr, (*range(0xD800), *range(0xE000, 0x10000))):
        if folded := _folded(character):
            spellings[folded[0]] = spellings.get(folded[0], "") + character
    return spellings


def _break(control: str) -> str:
    parentheses = "".join(_BRACKETS.get(unicodedata.normalize("NFKC", character), character) for character in control)
    return parentheses if parentheses != control else f"{control[0]}·{control[1:]}"
