"""Selector and generator on one base: each as if it were loaded alone, however often they take turns."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rlft.pair_folder import GENERATOR, ROLES, SELECTOR
from rlft.trainers.pair_models import PairModels
from rlft.trainers.round_models import RoundModels
from tests.trainers.dro_runs import save_model

IDS = torch.arange(3, 40)[None]


def lora() -> LoraConfig:
    """A new one each time, as peft writes into it."""
    return LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases, and two rounds of random adapters on the first."""
    folder = tmp_path_factory.mktemp("pair")
    for seed in (0, 1):
        save_model(folder / f"base-{seed}", seed)
    for seed, (number, role) in enumerate((number, role) for number in (0, 1) for role in ROLES):
        torch.manual_seed(seed)
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base-0"), lora())
        adapted.save_pretrained(str(folder / f"round-{number}" / role))
    return folder


def pair(folder: Path, peft_config: Any, selector_base: int = 0) -> PairModels:
    bases = {SELECTOR: selector_base, GENERATOR: 0}
    models = {role: RoundModels(str(folder / f"base-{base}"), peft_config, {}, None) for role, base in bases.items()}
    return PairModels(models)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits  # type: ignore[no-any-return]


def alone(folder: Path) -> Tensor:
    return logits(AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval())


def test_each_is_what_plain_peft_loads_however_they_take_turns(folder: Path) -> None:
    models = pair(folder, lora())
    turns = [
        (0, SELECTOR),
        (0, GENERATOR),
        (0, SELECTOR),
        (1, GENERATOR),
        (1, SELECTOR),
        (1, GENERATOR),
        (0, GENERATOR),
    ]
    wanted = {place: alone(folder / f"round-{place[0]}" / place[1]) for place in set(turns)}
    assert len({values.sum().item() for values in wanted.values()}) == 4, "or it would not matter which is switched on"
    for place in turns:
        model = models.at(folder / f"round-{place[0]}" / place[1])
        assert not model.training
        assert torch.equal(logits(model), wanted[place]), place


def test_there_is_one_base_and_an_adapter_is_loaded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    original = RoundModels.load_base
    monkeypatch.setattr(RoundModels, "load_base", lambda self: loaded.append(1) or original(self))
    models = pair(folder, lora())
    first = models.at(folder / "round-0" / SELECTOR)
    assert all(models.at(folder / "round-0" / role) is first for role in (GENERATOR, SELECTOR, GENERATOR))
    assert len(loaded) == 1
    base = weakref.ref(first.get_base_model())
    models.at(folder / "round-1" / GENERATOR)
    assert len(loaded) == 2
    del first
    gc.collect()
    assert base() is None, "the round before is let go of"


def test_forget_lets_go(folder: Path) -> None:
    models = pair(folder, lora())
    base = weakref.ref(models.at(folder / "round-0" / SELECTOR).get_base_model())
    models.forget()
    assert base() is None
    assert torch.equal(logits(models.at(folder / "round-0" / GENERATOR)), alone(folder / "round-0" / GENERATOR))


@pytest.mark.parametrize("form", ["two bases", "whole models"])
def test_what_shares_no_base_is_loaded_one_at_a_time(folder: Path, form: str, tmp_path: Path) -> None:
    models = pair(folder, lora(), selector_base=1) if form == "two bases" else pair(folder, None)
    wanted = {}
    for seed, role in enumerate(ROLES):
        base: Any = AutoModelForCausalLM.from_pretrained(folder / f"base-{seed}")
        if form == "two bases":
            base = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / f"base-{1 - seed}"), lora())
        base.save_pretrained(str(tmp_path / role))
        wanted[role] = logits(base.eval())
    for role in (SELECTOR, GENERATOR, SELECTOR):
        model = models.at(tmp_path / role)
        assert model is models.at(tmp_path / role)
        assert torch.equal(logits(model), wanted[role])
        other = weakref.ref(model)
        del model
        models.at(tmp_path / (GENERATOR if role == SELECTOR else SELECTOR))
        assert other() is None


def test_adapters_that_train_the_bases_biases_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="bias='lora_only' trains the base's biases, which both adapters share"):
        pair(folder, LoraConfig(bias="lora_only"))
    pair(folder, LoraConfig(bias="lora_only"), selector_base=1)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq"])
def test_adapters_that_change_their_base_as_they_start_are_refused(folder: Path, init: Any) -> None:
    config = LoraConfig(target_modules="all-linear")
    config.init_lora_weights = init
    with pytest.raises(ValueError, match=f"init_lora_weights='{init}' changes the base, .* base of its own"):
        pair(folder, config)
    pair(folder, config, selector_base=1)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal"])
def test_other_adapters_leave_their_base_as_it_is(folder: Path, init: Any) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder / "base-0")
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=init)
    pair(folder, config)
    after = get_peft_model(base, config).get_base_model().state_dict()
    assert all(torch.equal(after[name.replace(".base_layer", "")], before[name]) for name in before if name in after)
    assert any(".base_layer" in name for name in after)


def test_two_revisions_are_two_bases(folder: Path) -> None:
    bases = [RoundModels(str(folder / "base-0"), lora(), {"revision": name}, None) for name in ("v1", "v2")]
    assert not PairModels(dict(zip(ROLES, bases, strict=True))).shared
    assert pair(folder, lora()).shared
