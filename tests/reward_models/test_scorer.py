"""Scores: those of the model one by one, whatever stands beside them, each content read once."""

import pytest
import torch

from rlft.reward_models.encode import ScorerText, is_encoder
from rlft.reward_models.folder import ScorerError
from rlft.reward_models.scorer import Scorer
from tests.reward_models.toy import BACKBONES, decoder, item, make_pairs, spec

PAIRS = make_pairs(20)
QUERIES = [pair.query for pair in PAIRS]
PROFILES = [[*pair.profile, item("x y z it's")][: 1 + number % 2] for number, pair in enumerate(PAIRS)]
ANSWERS = [f"{pair.chosen} {'y ' * (number % 5)}" for number, pair in enumerate(PAIRS)]


def scorer(kind="decoder", form="aware", settings=None, **spec_settings):
    model, tokenizer = BACKBONES[kind]()
    return Scorer(model, tokenizer, spec(form, **spec_settings), **(settings or {}))


def one_by_one(kind, form):
    """Oracle: the model's own output of each text, alone and without padding."""
    model, tokenizer = BACKBONES[kind]()
    text = ScorerText(tokenizer, spec(form), is_encoder(model, tokenizer))
    scores = []
    for query, profile, answer in zip(QUERIES, PROFILES, ANSWERS, strict=True):
        one = text.encode(text.texts(query, profile, answer))
        types = {"token_type_ids": torch.tensor([one.types])} if kind == "encoder" else {}
        scores.append(model(input_ids=torch.tensor([one.ids]), **types).logits[0, 0].item())
    return torch.tensor(scores)


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("form", ["blind", "aware"])
@pytest.mark.parametrize("batch_tokens", [1, 64, 16_384])
def test_batches_score_as_each_alone(kind, form, batch_tokens):
    torch.manual_seed(0)
    expected = one_by_one(kind, form)
    torch.manual_seed(0)
    made = scorer(kind, form, {"batch_tokens": batch_tokens})
    assert expected.std() > 1e-3
    torch.testing.assert_close(made.score(QUERIES, PROFILES, ANSWERS), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_score_of_an_encoder_and_a_decoder_depends_on_question_profile_and_answer(kind):
    made = scorer(kind)
    base = ("ask about x", [item("m0 x")], "m0 x")
    others = [("ask about y", *base[1:]), (base[0], [item("m1 x")], base[2]), (*base[:2], "m1 x")]
    scores = made.score(*(list(column) for column in zip(base, *others, strict=True)))
    assert len(set(scores.tolist())) == 4


def test_the_blind_form_does_not_depend_on_the_profile():
    made = scorer(form="blind")
    assert made.score(QUERIES, PROFILES, ANSWERS).equal(made.score(QUERIES, PROFILES[::-1], ANSWERS))


def test_each_content_is_read_once():
    made = scorer()
    first = made.score(QUERIES * 2, PROFILES * 2, ANSWERS * 2)
    different = made.misses
    assert different <= 20
    assert made.hits == 40 - different
    assert made.score(QUERIES[::-1], PROFILES[::-1], ANSWERS[::-1]).equal(first[:20].flip(0))
    assert made.misses == different


def test_the_cache_forgets_what_was_used_longest_ago():
    made = scorer(settings={"cache_size": 2})
    for answer in ("m0 x", "m1 x", "m0 x", "m2 x", "m0 x", "m1 x"):
        made.score(["ask"], [[]], [answer])
    assert (made.misses, made.hits) == (4, 2)


def test_temperature_divides_scores():
    torch.manual_seed(0)
    plain = scorer().score(QUERIES, PROFILES, ANSWERS)
    torch.manual_seed(0)
    torch.testing.assert_close(scorer(temperature=0.5).score(QUERIES, PROFILES, ANSWERS), plain * 2)


def test_no_answers_no_scores():
    assert scorer().score([], [], []).shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused_and_not_kept(value):
    made = scorer()
    with torch.no_grad():
        made.model.score.weight.fill_(value)
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="the scorer gave"):
            made.score(["ask"], [[]], ["m0 x"])


def test_unequal_columns_are_refused():
    with pytest.raises(ScorerError, match="2 questions, 1 profiles and 2 answers"):
        scorer().score(["a", "b"], [[]], ["x", "y"])


def test_models_that_cannot_be_scorers_are_refused():
    model, tokenizer = decoder(labels=2)
    with pytest.raises(ScorerError, match="2 outputs"):
        Scorer(model, tokenizer, spec())
    model, tokenizer = decoder()
    with pytest.raises(ScorerError, match="512 positions"):
        Scorer(model, tokenizer, spec(max_length=513))
    tokenizer.add_tokens(["new"])
    with pytest.raises(ScorerError, match="its own tokenizer"):
        Scorer(model, tokenizer, spec())


def test_what_does_not_fit_has_no_score_and_the_rest_is_scored():
    made = scorer(max_length=8)
    profiles, answers = [[item("m0 " * 40)], [], []], ["m0 x", "m0 x y z x", " "]
    found = made.score_what_fits(["ask about x"] * 3, profiles, answers)
    assert found == [made.score(["ask about x"], profiles[:1], answers[:1]).item(), None, None]
    assert (made.misses, made.hits) == (1, 1)
    with pytest.raises(ScorerError, match="max_length=8"):
        made.score(["ask about x"] * 3, profiles, answers)


@pytest.mark.parametrize("batch_tokens", [1, 30, 16_384])
def test_a_shared_prompt_is_read_once_and_changes_no_score(batch_tokens):
    torch.manual_seed(0)
    made = scorer(settings={"batch_tokens": batch_tokens})
    rows = [(pair.query, pair.profile, answer) for pair in PAIRS[:4] for answer in ANSWERS[:6]]
    alone = torch.cat([scorer_of(made).score(*([value] for value in row)) for row in rows])
    read = []
    made.model.register_forward_hook(
        lambda module, args, kwargs, output: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    together = made.score(*(list(column) for column in zip(*rows, strict=True)))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    if batch_tokens == 16_384:
        assert len(read) == 2
        assert read[0] == 5 * len({str(profile) for _, profile, _ in rows})  # prompts of five tokens


def scorer_of(made):
    """The same weights and nothing known."""
    return Scorer(made.model, made.text.tokenizer, made.spec)
