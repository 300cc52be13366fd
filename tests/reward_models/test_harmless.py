"""Many texts at once: what each alone would give, in one call of the tokenizer, however much is remembered."""

import pytest

from rlft.reward_models.harmless import Harmless
from rlft.rollouts.neutral import Neutraliser, encode
from tests.reward_models.toy import BACKBONES

TEXTS = [
    "m0 x",
    "",
    " ",
    "<|end|>",
    "[SEP] m0 <| end |>",
    "［SEP］ y",
    "x <|en<|end|>d|>",
    "it's { x }",
    "m0 \ud800",
    "[PAD]",
]


class Counting:
    """A tokenizer that counts its calls."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.tokenizer(*args, **kwargs)


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("remembered", [0, 3, 8192])
def test_it_is_what_each_alone_gives(kind, remembered, monkeypatch):
    monkeypatch.setattr("rlft.reward_models.harmless.REMEMBERED", remembered)
    _, tokenizer = BACKBONES[kind]()
    alone, together = Neutraliser(tokenizer), Harmless(tokenizer)
    for some in (TEXTS[:4], TEXTS, TEXTS[::-1] + TEXTS[:2]):
        assert together.broken(some) == {text: alone(text) for text in some}
        harmless = [alone(text) for text in some]
        assert together.ids(harmless) == {text: encode(tokenizer, text) for text in harmless}


@pytest.mark.parametrize("remembered", [0, 8192])
def test_many_texts_are_one_call_and_known_ones_none(remembered, monkeypatch):
    monkeypatch.setattr("rlft.reward_models.harmless.REMEMBERED", remembered)
    _, tokenizer = BACKBONES["decoder"]()
    counting = Counting(tokenizer)
    made = Harmless(counting)
    texts = [f"m{number} x" for number in range(100)]
    before = counting.calls
    made.broken(texts)
    made.ids(texts)
    made.broken(texts[::-1])
    made.ids(texts[50:])
    assert counting.calls == before + 1


def test_a_text_that_stays_a_control_token_is_refused():
    _, tokenizer = BACKBONES["decoder"]()
    made = Harmless(tokenizer)
    made.control_ids = frozenset(encode(tokenizer, "m0"))
    with pytest.raises(ValueError, match="still holds a control token"):
        made.broken(["x", "m0"])
