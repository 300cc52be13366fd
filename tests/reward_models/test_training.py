"""Contrastive training: TRL's loss, InfoNCE against its closed form, what is saved, and that it learns."""

import math

import pytest
import torch
from peft import LoraConfig
from trl import RewardTrainer

from rlft.reward_models.audit import audit_scorer, pair_accuracy
from rlft.reward_models.encode import ScorerText, is_encoder
from rlft.reward_models.folder import ScorerError
from rlft.reward_models.info_nce import InfoNCETrainer, soft_maximum
from rlft.reward_models.pair_file import read_pairs
from rlft.reward_models.scorer import Scorer
from rlft.reward_models.training import PairCollator, pair_rows, save_scorer, train_scorer
from tests.reward_models.toy import BACKBONES, config, decoder, make_pairs, spec


def trainer_of(kind, folder, loss, pairs, temperature=1.0):
    """A trainer that has not trained, and the one batch of all its pairs."""
    torch.manual_seed(0)
    model, tokenizer = BACKBONES[kind]()
    tokenizer.padding_side = "right"
    encoder = is_encoder(model, tokenizer)
    rows = pair_rows(pairs, ScorerText(tokenizer, spec(), encoder), loss)
    collator = PairCollator(tokenizer.pad_token_id, encoder, counted=loss == "infonce")
    made, extra = (InfoNCETrainer, {"temperature": temperature}) if loss == "infonce" else (RewardTrainer, {})
    trainer = made(model=model, args=config(folder), train_dataset=rows, processing_class=tokenizer,
                   data_collator=collator, **extra)  # fmt: skip
    return trainer, collator(list(rows))


def loss_and_gradient(trainer, batch):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss, [weight.grad.clone() for weight in trainer.model.parameters() if weight.grad is not None]


def all_scores(trainer, batch):
    inputs = {name: tensor for name, tensor in batch.items() if name != "negatives"}
    return trainer.model(**inputs).logits.squeeze(-1)


def levelled(trainer):
    """All scores 0."""
    for name, weight in trainer.model.named_parameters():
        if "score" in name or "classifier" in name:
            weight.data.zero_()
    return trainer


@pytest.mark.parametrize("kind", BACKBONES)
def test_info_nce_of_one_negative_at_temperature_1_is_trls_loss_bit_for_bit(kind, tmp_path):
    pairs = make_pairs(8, kinds=["swap"])
    plain, plain_gradient = loss_and_gradient(*trainer_of(kind, tmp_path, "bt", pairs))
    ours, gradient = loss_and_gradient(*trainer_of(kind, tmp_path, "infonce", pairs))
    assert ours.item() == plain.item()
    assert all(map(torch.equal, gradient, plain_gradient))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_info_nce_is_the_closed_form_for_any_number_of_negatives(tmp_path, temperature):
    pairs = [*make_pairs(3, kinds=["swap"]), *make_pairs(3, 1, ["none", "swap", "swap"])]
    trainer, batch = trainer_of("decoder", tmp_path, "infonce", pairs, temperature)
    scores = (all_scores(trainer, batch) / temperature).exp().tolist()
    chosen, rest = scores[:6], iter(scores[6:])
    sums = [sum(next(rest) for _ in pair.rejected) for pair in pairs]
    expected = -sum(math.log(c / (c + total)) for c, total in zip(chosen, sums, strict=True)) / 6
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_loss_of_an_all_equal_batch(kind, tmp_path):
    trainer, batch = trainer_of(kind, tmp_path, "bt", make_pairs(4))
    assert levelled(trainer).compute_loss(trainer.model, batch).item() == pytest.approx(math.log(2))
    trainer, batch = trainer_of(kind, tmp_path, "infonce", make_pairs(4))
    assert levelled(trainer).compute_loss(trainer.model, batch).item() == pytest.approx(math.log(3))


def test_swapping_chosen_and_rejected_gives_mirrored_losses(tmp_path):
    """softplus(-d) - softplus(d) = -d, pair by pair."""
    trainer, batch = trainer_of("decoder", tmp_path, "bt", make_pairs(1, kinds=["swap"]))
    chosen, rejected = all_scores(trainer, batch).tolist()
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    mirrored = {name: tensor.flip(0) for name, tensor in batch.items()}
    assert loss - trainer.compute_loss(trainer.model, mirrored).item() == pytest.approx(rejected - chosen, abs=1e-6)


def test_the_soft_maximum_of_one_score_is_the_score():
    scores = torch.randn(5)
    assert soft_maximum(scores, torch.ones(5, dtype=torch.long)).equal(scores)


def test_bradley_terry_trains_on_a_row_for_each_negative():
    model, tokenizer = decoder()
    text = ScorerText(tokenizer, spec(), is_encoder(model, tokenizer))
    pairs = make_pairs(3)
    assert [len(pair_rows(pairs, text, loss)) for loss in ("bt", "infonce")] == [6, 3]
    batch = PairCollator(0, types=True, counted=True)(list(pair_rows(pairs, text, "infonce")))
    assert batch["negatives"].tolist() == [2, 2, 2]
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].shape[0] == 9


def test_only_an_aware_scorer_learns_whose_style_it_is_and_only_from_swap_negatives(tmp_path):
    held = make_pairs(100, 1)
    found = {}
    for form, kinds in (("blind", ["none", "swap"]), ("aware", ["none", "swap"]), ("aware", ["none"])):
        model, tokenizer = decoder()
        trainer = train_scorer(model, make_pairs(300, 0, kinds), spec(form), config(tmp_path, num_train_epochs=4),
                               tokenizer=tokenizer)  # fmt: skip
        assert type(trainer) is RewardTrainer
        audit = audit_scorer(Scorer(trainer.model, tokenizer, spec(form)), held)
        found[form, len(kinds)] = audit["accuracy"], audit["swap_gap"]["mean"]
    assert all(accuracy["none"] >= 0.95 for accuracy, _ in found.values())
    assert found["aware", 2][0]["swap"] >= 0.95
    assert found["aware", 2][1] > 1
    assert 0.2 <= found["blind", 2][0]["swap"] <= 0.8
    assert 0.2 <= found["aware", 1][0]["swap"] <= 0.8
    assert found["blind", 2][1] == 0.0


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("loss", ["bt", "infonce"])
def test_a_trained_scorer_comes_back_from_its_folder(kind, loss, tmp_path):
    model, tokenizer = BACKBONES[kind]()
    train, held = make_pairs(96), make_pairs(20, 1)
    the_spec = spec(temperature=0.5 if loss == "infonce" else 1.0)
    side = tokenizer.padding_side
    trainer = train_scorer(
        model,
        train,
        the_spec,
        config(tmp_path / "out", num_train_epochs=1),
        tokenizer=tokenizer,
        loss=loss,
        held_out=held,
    )
    assert trainer.evaluate()["eval_loss"] > 0
    assert tokenizer.padding_side == side
    save_scorer(trainer, the_spec, tmp_path / "scorer", pairs=train, loss=loss, held_out=held)
    files = {path.suffix for path in (tmp_path / "scorer").iterdir()}
    assert ".safetensors" in files
    assert not files & {".bin", ".pt", ".pkl"}
    assert read_pairs(tmp_path / "scorer" / "held_out.jsonl") == held
    loaded = Scorer.load(tmp_path / "scorer", device="cpu")
    columns = ([pair.query for pair in held], [pair.profile for pair in held], [pair.chosen for pair in held])
    kept = Scorer(trainer.model, trainer.processing_class, the_spec).score(*columns)
    torch.testing.assert_close(loaded.score(*columns), kept, atol=1e-5, rtol=1e-4)


def test_an_adapter_with_its_head_comes_back_over_its_base(tmp_path):
    model, tokenizer = decoder()
    model.model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    peft_config = LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["score"], r=4)
    train, held = make_pairs(200, kinds=["none"]), make_pairs(30, 1, ["none"])
    trainer = train_scorer(
        tmp_path / "base", train, spec(), config(tmp_path, num_train_epochs=6), peft_config=peft_config
    )
    save_scorer(trainer, spec(), tmp_path / "scorer", pairs=train)
    names = {path.name for path in (tmp_path / "scorer").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "scorer.json"} <= names
    assert not {"model.safetensors", "held_out.jsonl"} & names
    loaded = Scorer.load(tmp_path / "scorer", device="cpu")
    columns = ([pair.query for pair in held], [pair.profile for pair in held], [pair.chosen for pair in held])
    kept = Scorer(trainer.model, trainer.processing_class, spec()).score(*columns)
    torch.testing.assert_close(loaded.score(*columns), kept, atol=1e-5, rtol=1e-4)
    assert pair_accuracy(loaded, held)["none"] >= 0.95


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "dpo"}, "bt, infonce"),
        ({"pairs": []}, "no pairs"),
        ({"spec": spec(temperature=0.5)}, "Bradley-Terry has none"),
        ({"loss": "infonce", "center_rewards_coefficient": 0.01}, "center_rewards_coefficient"),
        ({"remove_unused_columns": True}, "remove_unused_columns"),
        ({"peft_config": LoraConfig(target_modules=["q_proj"])}, "modules_to_save"),
        ({"spec": spec(max_length=5)}, "4 of 4 pairs are too long"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, said, tmp_path):
    model, tokenizer = decoder()
    of_trl = {"center_rewards_coefficient", "remove_unused_columns"}
    settings = {name: value for name, value in changes.items() if name in of_trl}
    ours = {name: value for name, value in changes.items() if name not in of_trl}
    given = {"pairs": make_pairs(4), "spec": spec()} | ours
    with pytest.raises(ScorerError, match=said):
        train_scorer(model, args=config(tmp_path, **settings), tokenizer=tokenizer, **given)
