"""A latent-variable model small enough to sum over: trajectories are S states, an answer is J tokens out of V.

    p(z) = softmax(prior_S)        p(y | z) = prod_j softmax(emission_SV[z])[y_j]        p(y) = sum_z p(z) p(y | z)

It stands for EXSEARCH's model with one question, p(z | x) the search and p(y | x, z) the answer after it.
Parameters are one flat vector: prior_S, then emission_SV row by row.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Enumerable:
    """The model at one parameter vector theta (S + S * V,)."""

    def __init__(self, theta: Floats, states: int, vocabulary: int):
        self.theta, self.states, self.vocabulary = theta, states, vocabulary
        self.log_prior_S = _log_softmax(theta[:states])
        self.log_emission_SV = _log_softmax(theta[states:].reshape(states, vocabulary))

    @classmethod
    def random(cls, seed: int, states: int = 6, vocabulary: int = 4, scale: float = 1.0) -> "Enumerable":
        """Normal parameters."""
        theta = np.random.default_rng(seed).normal(0, scale, states * (1 + vocabulary))
        return cls(theta, states, vocabulary)

    def at(self, theta: Floats) -> "Enumerable":
        """The same model elsewhere."""
        return Enumerable(theta, self.states, self.vocabulary)

    def log_likelihood_S(self, answer_J: list[int]) -> Floats:
        """log p(y | z) for every z."""
        return self.log_emission_SV[:, answer_J].sum(1)

    def log_evidence(self, answer_J: list[int]) -> float:
        """log p(y)."""
        return float(np.logaddexp.reduce(self.log_prior_S + self.log_likelihood_S(answer_J)))

    def posterior_S(self, answer_J: list[int]) -> Floats:
        """p(z | y)."""
        return np.exp(self.log_prior_S + self.log_likelihood_S(answer_J) - self.log_evidence(answer_J))

    def search_gradients_SP(self) -> Floats:
        """d log p(z) / d theta, a row for every z."""
        gradients = np.zeros((self.states, self.theta.size))
        gradients[:, : self.states] = np.eye(self.states) - np.exp(self.log_prior_S)
        return gradients

    def answer_gradients_SP(self, answer_J: list[int]) -> Floats:
        """d log p(y | z) / d theta, a row for every z."""
        gradients = np.zeros((self.states, self.theta.size))
        counts_V = np.bincount(answer_J, minlength=self.vocabulary)
        for z in range(self.states):
            start = self.states + z * self.vocabulary
            gradients[z, start : start + self.vocabulary] = counts_V - len(answer_J) * np.exp(self.log_emission_SV[z])
        return gradients

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`count` states from p(z)."""
        return rng.choice(self.states, size=count, p=np.exp(self.log_prior_S))

    def exact_em_round(self, answers_NJ: list[list[int]]) -> "Enumerable":
        """Full posterior, then the parameters that maximise the expected complete log-likelihood."""
        posterior_NS = np.stack([self.posterior_S(answer_J) for answer_J in answers_NJ])
        counts_NV = np.stack([np.bincount(answer_J, minlength=self.vocabulary) for answer_J in answers_NJ])
        prior_S = posterior_NS.mean(0)
        emission_SV = posterior_NS.T @ counts_NV
        emission_SV /= emission_SV.sum(1, keepdims=True)
        with np.errstate(divide="ignore"):
            return self.at(np.concatenate([np.log(prior_S), np.log(emission_SV).ravel()]))


def _log_softmax(values: Floats) -> Floats:
    return values - np.logaddexp.reduce(values, axis=-1, keepdims=True)
