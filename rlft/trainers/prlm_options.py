"""The knobs of PrLM, as the part of `PrLMConfig` that imports no torch (so that `--help` answers at once)."""

import math
from dataclasses import dataclass

from rlft.credit.options import CreditOptions
from rlft.em.options import option
from rlft.rewards.personal import THINK_END

TERM_WEIGHTS = {
    "rouge": "rouge_weight",
    "think_format": "format_weight",
    "personalization": "personalization_weight",
}
"""Which option weighs a reward of this name."""


@dataclass
class PrLMOptions(CreditOptions):
    """What is rewarded, with which weight, and how often the reward model is checked on the policy's fresh answers.

    Weights are those of the paper's code (arXiv 2508.07342); each field's help says what it is.
    """

    credit: str = option("constant", "Token credit: constant (plain GRPO, the paper's), entropy, shear, or a spec.")
    scorer: str | None = option(None, "Folder of the reward model, as rlft.reward_models.save_scorer writes it.")
    answer_key: str | None = option(
        None, "Key of the answer's dict, such as title; None takes all that follows the thinking."
    )
    think_end: str | None = option(THINK_END, "What closes the thinking; None for a policy that does not think.")
    rouge_tokens: str = option("rouge_score", "Tokenisation of ROUGE: rouge_score (LaMP's), or released (PrLM's code).")
    no_answer: float | None = option(
        None, "Personalisation reward where there is no answer, or the prompt's placeholder; None leaves it unscored."
    )
    rouge_weight: float = option(1.0, "Weight of the reward named rouge.")
    format_weight: float = option(0.1, "Weight of the reward named think_format.")
    personalization_weight: float = option(0.1, "Weight of the reward named personalization.")
    drift_steps: int = option(0, "Steps between checks of the reward model on fresh pairs; 0, or without one: none.")
    drift_threshold: float = option(0.6, "Pair accuracy below which a drift check raises the alarm; chance is 0.5.")
    drift_stop: bool = option(False, "End training when a drift check raises the alarm.")

    def check_prlm_options(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: naming the option, its value and its rule.
        """
        for name in TERM_WEIGHTS.values():
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be finite and at least 0, which leaves it out.")
        if self.think_end == "":
            raise ValueError("think_end='' closes nothing; give the closing tag, or None if the policy does not think.")
        if self.no_answer is not None and not math.isfinite(self.no_answer):
            raise ValueError(f"no_answer={self.no_answer} must be a finite number, or None.")
        if self.drift_steps < 0 or not 0 <= self.drift_threshold <= 1:
            raise ValueError(
                f"drift_steps={self.drift_steps} must be at least 0, drift_threshold={self.drift_threshold} in [0, 1]."
            )
