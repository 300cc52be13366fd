"""From texts to what a scorer's backbone reads. Question and answer are never cut.

    encoder (BERT type)   [CLS] profile question [SEP] answer [SEP], token types 0 and 1, scored at [CLS]
    decoder               (start) profile question answer end, padded on the right, scored at the last real token

The three texts are tokenised apart, so that a cut falls where it should and none changes another's tokens. What users
and models wrote can hold no control token: `rlft.rollouts.neutral` breaks them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlft.reward_models.folder import ScorerError
from rlft.reward_models.harmless import Harmless
from rlft.reward_models.spec import ITEM_FIELDS, ScorerSpec
from rlft.reward_models.users import Item

Texts = tuple[str, str, str]
"""Profile, question and answer, as they are read."""
_Values = tuple[str | None, ...]
"""Of an item, in the order of `ITEM_FIELDS`."""


class TooLong(ScorerError):
    """A question and its answer, or with `over_length="error"` a profile, that do not fit."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text for the model."""

    ids: list[int]
    types: list[int]
    """Of an encoder's tokens; all 0 for a decoder."""
    head: int
    """How many of the ids stand before the answer; all answers to one prompt share them."""


class ScorerText:
    """Encodes for one tokenizer, spec and kind of backbone.

    Args:
        tokenizer: with a padding token; for an encoder with [CLS] and [SEP].
        spec: templates and lengths.
        encoder: whether the backbone reads pairs; see `is_encoder`.

    Raises:
        ScorerError: if the tokenizer cannot serve such a backbone.
    """

    def __init__(self, tokenizer: Any, spec: ScorerSpec, encoder: bool) -> None:
        pad, unknown = tokenizer.pad_token_id, tokenizer.unk_token_id
        if pad is None or pad == unknown:
            raise ScorerError(
                f"the tokenizer's padding token is {tokenizer.pad_token!r}, its unknown token {tokenizer.unk_token!r}; "
                "the last real token cannot be told from padding. Set a padding token of its own."
            )
        self.tokenizer, self.spec, self.encoder = tokenizer, spec, encoder
        self._harmless = Harmless(tokenizer)
        self._frame = _pair_frame(tokenizer) if encoder else _text_frame(tokenizer)

    def texts(self, query: str, items: Sequence[Item], answer: str) -> Texts:
        """Profile, question and answer as they are read, with control strings broken: what a score depends on."""
        return self.all_texts([query], [items], [answer])[0]

    def all_texts(
        self, queries: Sequence[str], profiles: Sequence[Sequence[Item]], answers: Sequence[str]
    ) -> list[Texts]:
        """`texts` of B answers. What stands beside several of them is read once, and all new texts together."""
        asked = list(zip(queries, map(self._shown, profiles), strict=True))
        different = dict.fromkeys(asked)
        values = (value for _, items in different for item in items for value in item if value is not None)
        broken = self._harmless.broken([*queries, *answers, *values])
        prompts = {one: self._prompt(*one, broken) for one in different}
        form = self.spec.answer.format
        return [(*prompts[one], form(answer=broken[answer])) for one, answer in zip(asked, answers, strict=True)]

    def _shown(self, items: Sequence[Item]) -> tuple[_Values, ...]:
        """What the templates can show of a profile: nothing of it in the blind form."""
        if self.spec.form == "blind":
            return ()
        values = ([item.get(name) for name in ITEM_FIELDS] for item in items)
        return tuple(tuple(None if value is None else str(value) for value in of_item) for of_item in values)

    def _prompt(self, query: str, items: tuple[_Values, ...], broken: dict[str, str]) -> tuple[str, str]:
        read = [
            {name: None if value is None else broken[value] for name, value in zip(ITEM_FIELDS, item, strict=True)}
            for item in items
        ]
        profile, question, _ = self.spec.texts(broken[query], read, "")
        return profile, question

    def tokenize(self, texts: Iterable[str]) -> None:
        """Tokenise many texts at once, and remember them."""
        self._harmless.ids(texts)

    def encode(self, texts: Texts) -> Encoded:
        """Token ids of what `texts` gave.

        Raises:
            TooLong: if question and answer do not fit in `max_length`, or the profile does not and may not be cut.
        """
        ids = self._harmless.ids(texts)
        profile, query, answer = (ids[text] for text in texts)
        before, between, after = self._frame
        fixed = len(before) + len(query) + len(between) + len(answer) + len(after)
        room = self.spec.max_length - fixed
        if room < 0 or (len(profile) > room and self.spec.over_length == "error"):
            raise TooLong(
                f"{fixed} tokens without the profile and {len(profile)} of the profile, but max_length="
                f"{self.spec.max_length}; question and answer are never cut, the profile only with over_length='cut'. "
                f"Raise max_length or leave the row out. Question: {texts[1][:80]!r}."
            )
        if not answer:
            raise ScorerError(f"the answer {texts[2][:80]!r} has no tokens, so there is nothing to score.")
        head, tail = [*before, *profile[:room], *query, *between], [*answer, *after]
        return Encoded([*head, *tail], [0] * len(head) + [int(self.encoder)] * len(tail), len(head))


def is_encoder(model: Any, tokenizer: Any) -> bool:
    """Whether a sequence-classification model reads pairs with [CLS] and [SEP] (else it scores its last token).

    Models of transformers that score the last token call their head `score`.

    Raises:
        ScorerError: for a model of neither kind.
    """
    base = getattr(model, "get_base_model", lambda: model)()
    if hasattr(base, "score"):
        return False
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise ScorerError(
            f"{type(base).__name__} does not score its last token, and its tokenizer has no [CLS] and [SEP] to read "
            "pairs with; use a BERT type with its own tokenizer, or a decoder."
        )
    return True


def _pair_frame(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """Special tokens before, between and after two texts, seen from the tokenizer's own pairs."""
    probe = tokenizer("a", "b")
    ids, owners = probe["input_ids"], probe.sequence_ids(0)
    if 0 not in owners or 1 not in owners:
        raise ScorerError(f"{type(tokenizer).__name__} reads neither 'a' nor 'b'; it cannot read pairs of texts.")
    first, second = owners.index(0), owners.index(1)
    last_of_first = len(owners) - 1 - owners[::-1].index(0)
    last = len(owners) - 1 - owners[::-1].index(1)
    return ids[:first], ids[last_of_first + 1 : second], ids[last + 1 :]


def _text_frame(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """A start token where the tokenizer puts one, and an end token where padding cannot be mistaken for it."""
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id in tokenizer("")["input_ids"][:1] else []
    end = tokenizer.eos_token_id
    return start, [], [] if end is None or end == tokenizer.pad_token_id else [end]
