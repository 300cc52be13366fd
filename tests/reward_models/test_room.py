"""What a backbone has room for, seen without its weights."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from rlft.reward_models.encode import ScorerText, is_encoder
from rlft.reward_models.folder import ScorerError
from rlft.reward_models.pair_file import Pair
from rlft.reward_models.room import backbone_text, misfits, pairs_with_room, scorer_text
from tests.reward_models.toy import BACKBONES, encoder, item, spec


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_skeleton_reads_as_the_model_does(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = BACKBONES[kind]()
    for one in (model, tokenizer):
        one.save_pretrained(tmp_path)
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", lambda *_: pytest.fail("model loaded"))
    asked: Any = ("ask about x", [item("m0 x")], "m0 it's")
    wanted = ScorerText(tokenizer, spec(), is_encoder(model, tokenizer))
    for text in (scorer_text(model.config, tokenizer, spec()), backbone_text(str(tmp_path), spec())):
        assert text.encode(text.texts(*asked)) == wanted.encode(wanted.texts(*asked))


def test_misfits_have_reasons() -> None:
    model, tokenizer = encoder()
    text = scorer_text(model.config, tokenizer, spec(max_length=16))
    queries = ["ask about x", "ask about x", "ask " * 20, "ask about x"]
    answers = ["m0 x", "x " * 20, "x", "\u200b"]
    assert misfits(text, queries, [[]] * 4, answers) == [None, "too_long", "too_long", "no_tokens"]
    pairs = [
        Pair(str(place), "u", query, [], answer if answer.strip() else "x", ["y", answer], ["none", "swap"])
        for place, (query, answer) in enumerate(zip(queries, answers, strict=True))
    ]
    kept, counts = pairs_with_room(text, pairs)
    assert (kept, counts) == (pairs[:1], {"too_long": 2, "no_tokens": 1})
    assert pairs_with_room(text, []) == ([], {"too_long": 0, "no_tokens": 0})


def test_what_cannot_be_a_reward_model_is_refused(tmp_path: Path) -> None:
    model, tokenizer = encoder()
    with pytest.raises(ScorerError, match="has 64 positions"):
        scorer_text(model.config, tokenizer, spec(max_length=65))
    with pytest.raises(ValueError, match="no reward model can be made of .*--scorer_model"):
        backbone_text(str(tmp_path / "none"), spec())
