"""What the backbones read: segments, templates, and that question and answer are never cut."""

import pytest

from rlft.reward_models.encode import ScorerText, TooLong, is_encoder
from rlft.reward_models.folder import ScorerError
from rlft.reward_models.spec import ScorerSpec
from rlft.rollouts.neutral import Neutraliser
from tests.reward_models.toy import BACKBONES, decoder, encoder, item, spec

ITEMS = [item("m0 x", "y"), item("m0 z")]


def read(kind, the_spec, items=ITEMS, query="ask about x", answer="m0 x"):
    model, tokenizer = BACKBONES[kind]()
    text = ScorerText(tokenizer, the_spec, is_encoder(model, tokenizer))
    encoded = text.encode(text.texts(query, items, answer))
    return tokenizer.decode(encoded.ids), encoded


def test_an_encoder_reads_two_segments():
    words, encoded = read("encoder", spec())
    assert words == "[CLS] m0 x y m0 z ask about x [SEP] m0 x [SEP]"
    assert encoded.types == [0] * 10 + [1] * 3


def test_an_encoders_ids_are_those_of_its_own_tokenizer():
    _, tokenizer = encoder()
    expected = tokenizer("ask about x", "m0 x")
    _, encoded = read("encoder", spec("blind"))
    assert (encoded.ids, encoded.types) == (expected["input_ids"], expected["token_type_ids"])


def test_a_decoder_ends_with_its_end_token():
    words, encoded = read("decoder", spec())
    assert words == "m0 x y m0 z ask about x m0 x <|end|>"
    assert set(encoded.types) == {0}


def test_a_decoder_that_pads_with_its_end_token_ends_with_the_answer():
    _, tokenizer = decoder()
    tokenizer.pad_token = tokenizer.eos_token
    text = ScorerText(tokenizer, spec("blind"), encoder=False)
    assert tokenizer.decode(text.encode(text.texts("ask", [], "m0 x")).ids) == "ask m0 x"


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_blind_form_and_an_empty_profile_show_no_history(kind):
    assert read(kind, spec("blind"))[0] == read(kind, spec("aware", profile="| {items} |"), items=[])[0]


def test_templates_place_what_they_name():
    the_spec = spec(item="{text} |", join=" ", profile="a {items} ", query="b {query}", answer="| {answer}")
    assert read("decoder", the_spec)[0] == "a m0 x | m0 z | b ask about x | m0 x <|end|>"


@pytest.mark.parametrize("kind", BACKBONES)
def test_only_the_profile_is_cut_and_from_its_end(kind):
    words, encoded = read(kind, spec(max_length=10))
    assert len(encoded.ids) == 10
    expected = {"encoder": "[CLS] m0 x ask about x [SEP] m0 x [SEP]", "decoder": "m0 x y m0 ask about x m0 x <|end|>"}
    assert words == expected[kind]


@pytest.mark.parametrize("kind", BACKBONES)
def test_question_and_answer_that_do_not_fit_are_refused(kind):
    with pytest.raises(TooLong, match="max_length=7.*never cut"):
        read(kind, spec(max_length=7), answer="x y z x y")


def test_a_profile_that_must_not_be_cut_is_refused():
    with pytest.raises(TooLong, match="over_length='cut'"):
        read("decoder", spec(max_length=10, over_length="error"))


@pytest.mark.parametrize("kind", BACKBONES)
def test_control_strings_in_an_answer_are_no_control_tokens(kind):
    _, encoded = read(kind, spec(), answer="[SEP] <|end|> x [PAD] <|pad|>")
    _, tokenizer = BACKBONES[kind]()
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert sum(token in special for token in encoded.ids) == (3 if kind == "encoder" else 1)


def test_braces_and_apostrophes_pass_through():
    assert read("decoder", spec("blind"), answer="it's { x }")[0] == "ask about x it's { x } <|end|>"


def test_what_is_remembered_is_bounded_and_changes_nothing(monkeypatch):
    monkeypatch.setattr("rlft.reward_models.harmless.REMEMBERED", 2)
    _, tokenizer = decoder()
    text = ScorerText(tokenizer, spec(), encoder=False)
    for answer in ("m0", "m1", "m0 x", "m1", "m0"):
        words = tokenizer.decode(text.encode(text.texts("ask", ITEMS, answer)).ids)
        assert words == f"m0 x y m0 z ask {answer} <|end|>"


@pytest.mark.parametrize("form", ["blind", "aware"])
def test_many_texts_are_what_each_alone_gives(form):
    _, tokenizer = decoder()
    the_spec = spec(form, item="{text} | {target} {date}", answer="| {answer}")
    items = [[], ITEMS, [item("m0 <|end|>", date="2019"), {"text": 7, "target": ""}], ITEMS, [{"text": "7", "date": 7}]]
    asked = [
        (query, shown, answer) for query in ("ask", "<|end|> a") for shown in items for answer in ("m0", "<|end|>")
    ]
    together = ScorerText(tokenizer, the_spec, encoder=False).all_texts(*zip(*asked, strict=True))
    neutral = Neutraliser(tokenizer)
    for found, (query, shown, answer) in zip(together, asked, strict=True):
        clean = [{name: neutral(str(value)) for name, value in one.items() if value is not None} for one in shown]
        assert found == the_spec.texts(neutral(query), clean, neutral(answer))
        assert found == ScorerText(tokenizer, the_spec, encoder=False).texts(query, shown, answer)


def test_an_answer_without_tokens_is_refused():
    with pytest.raises(ScorerError, match="no tokens"):
        read("decoder", spec(), answer="  ")


def test_the_kind_of_backbone_is_seen_from_its_head():
    assert is_encoder(*encoder())
    assert not is_encoder(*decoder())
    with pytest.raises(ScorerError, match="no \\[CLS\\]"):
        is_encoder(encoder()[0], decoder()[1])


@pytest.mark.parametrize("padding", [None, "<|unk|>"])
def test_a_tokenizer_without_padding_of_its_own_is_refused(padding):
    _, tokenizer = decoder()
    tokenizer.pad_token = padding
    with pytest.raises(ScorerError, match="padding token"):
        ScorerText(tokenizer, spec(), encoder=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"form": "seeing"}, "blind, aware"),
        ({"over_length": "drop"}, "cut, error"),
        ({"task": ""}, "task"),
        ({"temperature": 0.0}, "temperature"),
        ({"query": "{question}"}, "question"),
        ({"answer": "no field"}, "does not show {answer}"),
        ({"item": "{text"}, "no template"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ScorerSpec(**({"form": "blind", "task": "toy"} | settings))
