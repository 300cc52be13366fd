"""The anchor: its gradient is the penalty's, its Fisher information is the closed form's."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from rlft.replay.anchor import Anchor, fisher_diagonal
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer


class Unigram(nn.Module):
    """Predicts every token from one vector of logits: its Fisher information per token is p (1 - p) on the diagonal."""

    def __init__(self, logits: list[float]):
        super().__init__()
        self.logits_V = nn.Parameter(torch.tensor(logits))
        self.device = torch.device("cpu")

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits_V.expand(*input_ids.shape, -1))


@pytest.fixture
def model() -> Qwen3ForCausalLM:
    return tiny_model(char_tokenizer(), hidden=16, layers=1, heads=2, kv_heads=2)


def gradients(model: nn.Module, parts: int = 1) -> dict[str, Tensor]:
    """Of a loss, cut into equal parts."""
    ids = torch.arange(3, 9)[None]
    model.zero_grad()
    for _ in range(parts):
        (model(input_ids=ids, labels=ids).loss / parts).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", ["l2", "ewc"])
def test_the_gradient_is_that_of_loss_and_penalty(model: Qwen3ForCausalLM, kind: str, parts: int) -> None:
    importance = {name: torch.rand_like(weight) for name, weight in model.named_parameters()} if kind == "ewc" else None
    anchor = Anchor(model, 0.7, importance)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    plain = gradients(model)
    penalty = 0.35 * sum(
        ((importance[name] if importance else 1) * (weight - anchor.start[name]) ** 2).sum()
        for name, weight in model.named_parameters()
    )
    assert anchor.penalty() == pytest.approx(penalty.item(), rel=1e-5)
    own = dict(zip(plain, torch.autograd.grad(penalty, list(model.parameters())), strict=True))
    anchor.attach(parts)
    for name, gradient in gradients(model, parts).items():
        assert torch.allclose(gradient, plain[name] + own[name], atol=1e-5), name
    anchor.detach()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, plain[name])


def test_no_pull_where_it_starts_or_at_strength_zero(model: Qwen3ForCausalLM) -> None:
    plain = gradients(model)
    for strength in (0.0, 5.0):
        anchor = Anchor(model, strength)
        anchor.attach(1)
        assert all(torch.equal(gradient, plain[name]) for name, gradient in gradients(model).items())
        anchor.detach()
        assert anchor.penalty() == 0


def test_fisher_of_a_unigram_model_is_its_closed_form() -> None:
    model = Unigram([0.0, 1.0, -1.0, 0.5])
    probs = model.logits_V.detach().softmax(-1)
    found = fisher_diagonal(model, ([0] * 6 for _ in range(6000)), seed=0)["logits_V"]
    assert torch.allclose(found, probs * (1 - probs), rtol=0.08), (found, probs * (1 - probs))


def test_fisher_leaves_the_model_as_it_was(model: Qwen3ForCausalLM) -> None:
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    model.train()
    first, again = (fisher_diagonal(model, [[3, 4, 5, 6], [7, 8, 9]], seed=1) for _ in range(2))
    assert model.training
    assert all(weight.grad is None and torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert all(torch.equal(first[name], again[name]) and (first[name] >= 0).all() for name in first)
    assert any(value.any() for value in first.values())


def test_frozen_weights_have_neither_fisher_nor_pull(model: Qwen3ForCausalLM) -> None:
    frozen = model.model.layers[0].mlp.up_proj.weight
    frozen.requires_grad = False
    importance = fisher_diagonal(model, [[3, 4, 5]], seed=0)
    assert "model.layers.0.mlp.up_proj.weight" not in importance
    Anchor(model, 1.0, importance).attach(1)
    frozen.requires_grad = True
    with pytest.raises(ValueError, match="after its layers were frozen"):
        Anchor(model, 1.0, importance)


def test_bad_input(model: Qwen3ForCausalLM) -> None:
    with pytest.raises(ValueError, match="strength=-1"):
        Anchor(model, -1.0)
    with pytest.raises(ValueError, match="needs old text"):
        fisher_diagonal(model, [], seed=0)
    with pytest.raises(ValueError, match="block 1 of old text has 1 tokens"):
        fisher_diagonal(model, [[3, 4], [5]], seed=0)


def test_weights_in_bfloat16_are_pulled_in_bfloat16(model: Qwen3ForCausalLM) -> None:
    model = model.to(torch.bfloat16)
    anchor = Anchor(model, 1.0, fisher_diagonal(model, [[3, 4, 5]], seed=0))
    anchor.attach(1)
    assert {gradient.dtype for gradient in gradients(model).values()} == {torch.bfloat16}


def test_a_weight_that_no_label_depends_on_has_no_fisher(model: Qwen3ForCausalLM) -> None:
    model.idle = nn.Parameter(torch.ones(2))
    assert fisher_diagonal(model, [[3, 4, 5]], seed=0)["idle"].tolist() == [0, 0]
