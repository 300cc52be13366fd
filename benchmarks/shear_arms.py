"""The arms of benchmarks/shear_study.py: credit functions by name, built in ones and controls that are plug-ins here.

Every arm is a function from a `rlft.credit.Group` to token weights, as docs/credit.md describes. Spans start at every
token (stride 1).

    grpo                  weight 1
    WINDOW/NORMALIZER     SHEAR, e.g. `1/rollout`, `8/group`; `1/mix` is half `1/rollout`, half weight 1
    shuffled              `1/rollout` with the outcomes permuted inside each group
    random                the weights of `1/rollout`, permuted inside each rollout
    lexical               `2/rollout` on one-hot token ids in the place of hidden states; with a window of 1 every token
                          would have a twin opposite, and all distances would be zero
    oracle                the decisive token weighs four times another

    WINDOW/contrast       spans weigh max(0, d - e), where e is the distance to the nearest span of another rollout with
                          the same outcome, so that what is merely new, far from both sides, weighs nothing; pooled and
                          divided as in WINDOW/rollout. `1/contrast-mix` is half that, half weight 1
    WINDOW/ratio          the same with d / (e + a hundredth of the rollout's mean e) in the place of max(0, d - e)

`1/mean_one` weighs a token by side mean x (rollout mean / side mean) x (token / rollout mean), where a side is the
correct or the wrong rollouts of a group. An arm `1/keep:...` keeps some of these three factors:

    1/keep:side           constant inside each side: the sign balance alone
    1/keep:side+rollout   constant inside each rollout
    1/keep:side+token     no reweighting of rollouts inside a side
    1/keep:rollout+token  each side divided by its own mean: all but the sign balance; also written `1/sides`
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rlft.credit import Group
from rlft.credit.constant import constant
from rlft.credit.shear import shear, shear_weights, span_scores
from rlft.credit.spans import max_over_covering, spans
from rlft.tiny.needle import oracle_weights

Plain = Callable[[Group], list[Tensor]]
FACTORS = ("side", "rollout", "token")


class Arm:
    """A credit function with a name, its needs, and what the oracle must be told.

    Args:
        name: as listed above.
        seed: of permutations.
    """

    def __init__(self, name: str, seed: int):
        self.__name__, self.rng = name, random.Random(seed)
        self.needs = frozenset() if name in ("grpo", "oracle", "lexical") else frozenset({"hidden"})
        self.decisive: list[int] = []
        """Token index of the decisive tag in each group to come, the next one first."""
        self._weigh = self._found(name)

    def __call__(self, group: Group) -> list[Tensor]:
        return self._weigh(group)

    def _found(self, name: str) -> Plain:
        named: dict[str, Plain] = {
            "grpo": constant,
            "oracle": self._oracle,
            "shuffled": self._shuffled,
            "random": self._random,
            "lexical": lexical,
        }
        if name in named:
            return named[name]
        window, _, rest = name.partition("/")
        options: dict[str, Any] = {"window": int(window), "stride": 1}
        if rest == "mix":
            return lambda group: shear(group, normalize="rollout", mix=0.5, **options)
        if rest in ("contrast", "contrast-mix", "ratio"):
            return lambda group: against_own_side(group, int(window), rest == "ratio", 0.5 if "mix" in rest else 1.0)
        if rest == "sides" or rest.startswith("keep:"):
            kept = ["rollout", "token"] if rest == "sides" else rest.removeprefix("keep:").split("+")
            return lambda group: factors(group, shear(group, normalize="mean_one", **options), kept)
        return lambda group: shear(group, normalize=rest, **options)

    def _oracle(self, group: Group) -> list[Tensor]:
        decisive = self.decisive.pop(0)
        return [torch.tensor(oracle_weights(decisive, length)) for length in group.lengths]

    def _shuffled(self, group: Group) -> list[Tensor]:
        assert group.hidden is not None
        correct = group.correct.tolist()
        self.rng.shuffle(correct)
        return shear_weights(group.hidden, correct, window=1, stride=1, normalize="rollout")

    def _random(self, group: Group) -> list[Tensor]:
        weights = shear(group, window=1, stride=1, normalize="rollout")
        return [weight_T[self.rng.sample(range(len(weight_T)), len(weight_T))] for weight_T in weights]


def lexical(group: Group) -> list[Tensor]:
    """Token identity in place of hidden states: `2/rollout` on one-hot ids."""
    width = 1 + max(int(ids.max()) for ids in group.completion_ids if len(ids))
    states = [one_hot(ids, width).float() for ids in group.completion_ids]
    return shear_weights(states, group.correct.tolist(), window=2, stride=1, normalize="rollout")


def against_own_side(group: Group, window: int, ratio: bool, mix: float) -> list[Tensor]:
    """SHEAR weights from the distance to the opposing side relative to that to the own side, mean 1 in each rollout.

    A rollout that is alone on its side has nothing to compare with and gets plain SHEAR weights.

    Args:
        group: G rollouts with `hidden`.
        window: tokens in a span; spans start at every token.
        ratio: divide by the own side's distance instead of subtracting it.
        mix: share of these weights; the rest is 1.

    Returns:
        G tensors (T_i,).
    """
    weights = [torch.ones(length) for length in group.lengths]
    if group.hidden is None or not group.mixed:
        return weights
    correct = group.correct.tolist()
    opposing = span_scores(group.hidden, correct, window=window, stride=1)
    for i, (states, score_K) in enumerate(zip(group.hidden, opposing, strict=True)):
        others = [group.hidden[j] for j in range(len(correct)) if j != i and correct[j] == correct[i]]
        if score_K is None:
            continue
        if others:
            own_K = span_scores([states, *others], [True] + [False] * len(others), window=window, stride=1)[0]
            assert own_K is not None
            score_K = score_K / (own_K + 0.01 * own_K.mean()) if ratio else np.maximum(score_K - own_K, 0)
        omega_T = max_over_covering(score_K, spans(len(states), window, 1), len(states))
        if omega_T.mean() > 0:
            weights[i] = torch.from_numpy(1 - mix + mix * omega_T / omega_T.mean()).float()
    return weights


def factors(group: Group, weights: Sequence[Tensor], kept: Sequence[str]) -> list[Tensor]:
    """Side mean x rollout mean over side mean x token over rollout mean; factors that are not kept become 1.

    Args:
        group: G rollouts; one with a single outcome keeps its weights.
        weights: G tensors (T_i,) with group mean 1.
        kept: some of `side`, `rollout`, `token`.

    Returns:
        G tensors (T_i,).
    """
    if set(kept) - set(FACTORS):
        raise ValueError(f"{'+'.join(kept)}: known factors are {', '.join(FACTORS)}.")
    if not group.mixed:
        return list(weights)
    sides = [torch.cat([w for w, right in zip(weights, group.correct, strict=True) if right == r]) for r in (0, 1)]
    found = []
    for weight_T, right in zip(weights, group.correct.tolist(), strict=True):
        side, rollout = sides[right].mean(), weight_T.mean()
        parts = {"side": side, "rollout": _ratio(rollout, side), "token": _ratio(weight_T, rollout)}
        found.append(torch.ones_like(weight_T) * torch.stack([parts[name] + 0 * weight_T for name in kept]).prod(0))
    return found


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The ratio, or 1 where everything that it compares weighs nothing."""
    return above / below if below > 0 else torch.ones_like(above)
