"""Pulls weights back to where they stood: EWC (arXiv 1612.00796, eq. 3) and L2, the rivals of replay.

    penalty = strength / 2 * sum_i F_i (theta_i - theta*_i)^2            F_i = 1 for L2

Its gradient, strength * F_i (theta_i - theta*_i), is added to each weight's own as that is computed, so that the loss
which is trained and logged stays the trainer's.

F is the diagonal of the Fisher information per token, over old text and labels drawn from the model itself:
F_i = mean over blocks of (d/d theta_i of sum_t log p(y_t given x_<t))^2 / T. The loss is a mean over tokens as well, so
`strength` is about the number of old tokens that stand behind the anchor for each new one, times the caution one wants.
Public code divides sums of squared batch means by other counts, so its strengths (1e6 to 1e8 in the code released with
STOC) do not carry over.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class Anchor:
    """The penalty on a model's trainable weights.

    Args:
        model: as it is now: theta*.
        strength: see above; at least 0.
        importance: F by parameter name, from `fisher_diagonal`; None for L2.

    Raises:
        ValueError: for a negative strength, or importance that does not fit the trainable weights.
    """

    def __init__(self, model: nn.Module, strength: float, importance: Mapping[str, Tensor] | None = None):
        weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if strength < 0:
            raise ValueError(f"strength={strength} must be at least 0, which pulls nothing.")
        if importance is not None and importance.keys() != weights.keys():
            raise ValueError(
                f"importance of {len(importance)} weights for {len(weights)} trainable ones: compute it on this model, "
                "after its layers were frozen."
            )
        self.strength, self.weights, self.importance = strength, weights, importance
        self.start = {name: weight.detach().clone() for name, weight in weights.items()}
        self._hooks: list[Any] = []

    def attach(self, parts: int) -> None:
        """Add the penalty's gradient from now on.

        Args:
            parts: backward passes that make one optimiser step; each adds its part.
        """
        for name, weight in self.weights.items():
            self._hooks.append(weight.register_hook(partial(self._pulled, name, parts)))

    def detach(self) -> None:
        """Add nothing any more."""
        while self._hooks:
            self._hooks.pop().remove()

    def penalty(self) -> float:
        """Its value now."""
        with torch.no_grad():
            parts = [
                (self._pull(name) * (weight - self.start[name])).sum().double() for name, weight in self.weights.items()
            ]
        return float(sum(parts)) / 2

    def _pulled(self, name: str, parts: int, gradient: Tensor) -> Tensor:
        return gradient + (self._pull(name) / parts).to(gradient.dtype)

    def _pull(self, name: str) -> Tensor:
        change = self.weights[name].detach() - self.start[name]
        return self.strength * (change if self.importance is None else self.importance[name] * change)


def fisher_diagonal(model: Any, blocks: Iterable[list[int]], seed: int) -> dict[str, Tensor]:
    """The diagonal Fisher information per token of the trainable weights.

    Args:
        model: a causal language model; left in the mode it was in, without gradients.
        blocks: token ids of old text, one backward pass each.
        seed: of the labels.

    Returns:
        By parameter name, in float32.

    Raises:
        ValueError: for no blocks, or one of a single token.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    total = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    labels = torch.Generator(device=model.device).manual_seed(seed)
    training, count = model.training, 0
    model.eval()
    for count, ids in enumerate(blocks, start=1):
        if len(ids) < 2:
            raise ValueError(f"block {count - 1} of old text has {len(ids)} tokens; the model predicts from two on.")
        likelihood = _log_likelihood(model, ids, labels)
        gradients = torch.autograd.grad(likelihood, list(weights.values()), materialize_grads=True)
        for name, gradient in zip(weights, gradients, strict=True):
            total[name] += gradient.float() ** 2 / (len(ids) - 1)
    model.train(training)
    if not count:
        raise ValueError("EWC needs old text to see which weights matter, and there is none: pass old_dataset.")
    return {name: value / count for name, value in total.items()}


def _log_likelihood(model: Any, ids: list[int], labels: torch.Generator) -> Tensor:
    """Of labels drawn from the model's own distribution at each place of a block."""
    ids_1T = torch.tensor([ids], device=model.device)
    logp_TV = model(input_ids=ids_1T).logits[0, :-1].float().log_softmax(-1)
    drawn_T1 = torch.multinomial(logp_TV.detach().exp(), 1, generator=labels)
    return logp_TV.gather(1, drawn_T1).sum()
