"""DRO's model where every list can be summed over: ordered lists of 2 of 4 candidates, 12 in all.

    p(y | x) = sum_z p(z | type of x) p(y | place in z of the candidate that answers x)

Questions of a type share the selector's logits, and questions whose gold candidate stands in the same place (first,
second, absent) the generator's. The type says where the gold candidate is likely to be, not where it is.
Shapes: N questions, T types, Z lists, C candidates, P places, A answers. Torch, float64, differentiable.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, permutations
from math import factorial, prod

import torch
from torch import Tensor

CANDIDATES, TYPES, ANSWERS = 4, 4, 3
LISTS = tuple(permutations(range(CANDIDATES), 2))
FIRST, SECOND, ABSENT = range(3)
PLACES_CZ = torch.tensor([[FIRST if a == c else SECOND if b == c else ABSENT for a, b in LISTS] for c in range(4)])


@dataclass(frozen=True)
class Questions:
    """Each has a type, a gold candidate, and an observed answer."""

    types_N: Tensor
    golds_N: Tensor
    answers_N: Tensor


@dataclass(frozen=True)
class ListWorld:
    """A selector and a generator."""

    log_select_TZ: Tensor
    log_answer_PA: Tensor

    @classmethod
    def of_logits(cls, theta: Tensor, form: str) -> "ListWorld":
        """From one flat vector: the selector's logits, of every list (`table`) or of every id (`ids`), and those of the
        answers."""
        cut = theta.numel() - 3 * ANSWERS
        select, answer_PA = theta[:cut].reshape(TYPES, -1), theta[cut:].reshape(3, ANSWERS)
        log_select_TZ = select.log_softmax(1) if form == "table" else _one_id_after_another(select)
        return cls(log_select_TZ, answer_PA.log_softmax(1))

    @classmethod
    def of_probabilities(cls, select_TZ: Tensor, answer_PA: Tensor) -> "ListWorld":
        """From tables."""
        return cls(select_TZ.log(), answer_PA.log())

    def log_likelihood_NZ(self, questions: Questions) -> Tensor:
        """log p(y | x, z)."""
        return self.log_answer_PA[PLACES_CZ[questions.golds_N], questions.answers_N[:, None]]

    def log_joint_NZ(self, questions: Questions) -> Tensor:
        """log p(y, z | x)."""
        return self.log_select_TZ[questions.types_N] + self.log_likelihood_NZ(questions)

    def log_evidence(self, questions: Questions) -> Tensor:
        """sum_x log p(y | x)."""
        return self.log_joint_NZ(questions).logsumexp(1).sum()

    def posterior_NZ(self, questions: Questions) -> Tensor:
        """p(z | x, y)."""
        return self.log_joint_NZ(questions).softmax(1)

    def m_step(self, questions: Questions, weights_NZ: Tensor, step: float = 1.0, train: str = "both") -> "ListWorld":
        """The tables that maximise sum w log p(z, y | x), or a `step` of the way there.

        `train` is `both`, `selector` or `generator`. The objective is concave in the tables, so that a part of the way
        raises it too.
        """
        select_TZ, answer_PA = self.log_select_TZ.exp(), self.log_answer_PA.exp()
        places_NZ = PLACES_CZ[questions.golds_N]
        answers_NZ = questions.answers_N[:, None].expand_as(places_NZ)
        if train != "generator":
            counts_TZ = torch.zeros_like(select_TZ).index_add(0, questions.types_N, weights_NZ)
            select_TZ = torch.lerp(select_TZ, counts_TZ / counts_TZ.sum(1, keepdim=True), step)
        if train != "selector":
            counts_PA = torch.zeros_like(answer_PA).index_put((places_NZ, answers_NZ), weights_NZ, accumulate=True)
            answer_PA = torch.lerp(answer_PA, counts_PA / counts_PA.sum(1, keepdim=True), step)
        return self.of_probabilities(select_TZ, answer_PA)


def true_world() -> ListWorld:
    """A selector that puts the candidate of the type's number first, a generator that reads the first place best."""
    weights = [[6.0 if a == t else 2.0 if b == t else 0.5 for a, b in LISTS] for t in range(TYPES)]
    select_TZ = torch.tensor(weights, dtype=torch.float64)
    return ListWorld.of_probabilities(
        select_TZ / select_TZ.sum(1, keepdim=True), _answers("90 5 5 / 55 35 10 / 10 30 60")
    )


def warm_world(seed: int = 0) -> ListWorld:
    """A selector and a generator after a poor warm-up: both know something, and little."""
    logits_TZ = torch.randn(TYPES, len(LISTS), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return ListWorld((0.5 * logits_TZ).log_softmax(1), _answers("50 30 20 / 40 35 25 / 25 35 40").log())


def questions_of(world: ListWorld, count: int, seed: int = 0) -> Questions:
    """Questions of every type; in two of three the gold candidate has the type's number."""
    generator = torch.Generator().manual_seed(seed)
    types_N = torch.arange(count) % TYPES
    chances_NC = torch.full((count, CANDIDATES), 1 / 9).scatter(1, types_N[:, None], 2 / 3)
    golds_N = torch.multinomial(chances_NC, 1, generator=generator).squeeze(1)
    lists_N = torch.multinomial(world.log_select_TZ[types_N].exp(), 1, generator=generator).squeeze(1)
    answers_PA = world.log_answer_PA[PLACES_CZ[golds_N, lists_N]].exp()
    return Questions(types_N, golds_N, torch.multinomial(answers_PA, 1, generator=generator).squeeze(1))


def multisets(chances_S: list[float], size: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every sample of `size` states, order aside, with its probability."""
    for states in combinations_with_replacement(range(len(chances_S)), size):
        orders = factorial(size) / prod(factorial(states.count(state)) for state in set(states))
        yield states, orders * prod(chances_S[state] for state in states)


def _one_id_after_another(scores_TC: Tensor) -> Tensor:
    """p(a) p(b | a), both a softmax of the same scores over the ids that are left."""
    columns = []
    for a, b in LISTS:
        left = [c for c in range(CANDIDATES) if c != a]
        first, second = scores_TC.log_softmax(1)[:, a], scores_TC[:, left].log_softmax(1)[:, left.index(b)]
        columns.append(first + second)
    return torch.stack(columns, 1)


def _answers(percent: str) -> Tensor:
    return torch.tensor([[float(p) / 100 for p in row.split()] for row in percent.split("/")], dtype=torch.float64)
