"""The knobs of an EM run, as the part of a method's configuration that imports no torch (`--help` answers at once)."""

from dataclasses import dataclass, field
from typing import Any

WEIGHTINGS = ("likelihood", "uniform", "rejection")
ALIASES = ("max", "logsumexp", "first")
REDUCTIONS = ("mean", "sum")
BASELINES = ("none", "group")


def option(default: Any, text: str) -> Any:
    """A dataclass field with the text that `--help` shows."""
    return field(default=default, metadata={"help": text})


@dataclass
class EMOptions:
    """How trajectories are drawn, weighed and learnt from, round by round. Defaults are EXSEARCH's (arXiv 2505.20128).

    Each field's help says what it is; equation numbers are the paper's.
    """

    num_rounds: int = option(5, "EM rounds: sample, weigh, learn, validate.")
    questions_per_round: int = option(0, "Training questions of a round, taken in turn; 0 takes all.")
    num_generations: int = option(8, "Trajectories sampled per question (K).")
    patience: int = option(1, "Rounds without a better dev metric before the run stops; 0 never stops.")
    restart_from_warm_up: bool = option(False, "Learn every round from round 0, not from the round before.")
    shard_questions: int = option(128, "Questions in a shard, the unit in which a killed E-step goes on.")
    score_batch_tokens: int = option(16_384, "Tokens in a batch of the scorer; bounds its memory.")
    warm_up_epochs: float = option(2.0, "Passes over the demonstrations of the warm-up.")

    weighting: str = option(
        "likelihood", "likelihood of the gold answer (eq. 4), uniform, or rejection (exact match, else nothing)."
    )
    weight_temperature: float = option(1.0, "Weights are softmax(log-likelihood / temperature) over the K.")
    length_norm: bool = option(False, "Divide the answer's log-likelihood by its tokens.")
    aliases: str = option("max", "Several gold answers: max, logsumexp or first of their log-likelihoods.")
    ess_floor: float = option(0.0, "Smooth weights until the effective sample size is this share of K; 0 is off.")
    uniform_mix: float = option(0.0, "Share of uniform weights mixed in.")
    max_weight: float = option(1.0, "Largest weight of one trajectory within its question; 1 is off.")
    min_weight: float = option(1e-3, "Trajectories with a smaller weight are not trained on; saves time.")
    min_best_loglik: float | None = option(
        None, "Drop a question whose best log-likelihood is below this: every sample is wrong. None is off."
    )
    min_spread: float = option(0.0, "Drop a question whose log-likelihoods differ by less: it teaches noise.")
    baseline: str = option("none", "group: weights less 1/K on the search tokens (lower variance, on-policy only).")

    token_reduction: str = option("mean", "mean or sum over a trajectory's tokens, before its weight.")
    search_coef: float = option(1.0, "Coefficient of the search tokens' loss (lambda_R).")
    answer_coef: float = option(1.0, "Coefficient of the answer tokens' loss (lambda_A).")

    def check_em(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: naming the option, its value and its rule.
        """
        for name, allowed in (
            ("weighting", WEIGHTINGS),
            ("aliases", ALIASES),
            ("token_reduction", REDUCTIONS),
            ("baseline", BASELINES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(allowed)}.")
        for name, least in (("num_rounds", 0), ("num_generations", 1), ("patience", 0), ("questions_per_round", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.shard_questions < 1:
            raise ValueError(f"shard_questions={self.shard_questions} must be at least 1.")
        if not self.weight_temperature > 0:
            raise ValueError(f"weight_temperature={self.weight_temperature} must be positive.")
        if self.score_batch_tokens < 1 or not self.warm_up_epochs > 0:
            raise ValueError(
                f"score_batch_tokens={self.score_batch_tokens} must be at least 1, "
                f"warm_up_epochs={self.warm_up_epochs} positive."
            )
        for name in ("min_spread", "search_coef", "answer_coef"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0, and finite.")
        for name in ("ess_floor", "uniform_mix", "min_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1).")
        if not 1 / self.num_generations <= self.max_weight <= 1:
            raise ValueError(
                f"max_weight={self.max_weight} must be from 1/num_generations={1 / self.num_generations:.3g} to 1."
            )
