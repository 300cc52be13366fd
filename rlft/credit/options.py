"""The knobs of token credit, as the part of `SHEARConfig` that imports no torch (so that `--help` answers at once)."""

import math
from dataclasses import dataclass, field

DISTANCES = ("wasserstein", "chamfer", "mmd", "cosine", "sinkhorn")
NORMALIZERS = ("group", "rollout", "mean_one")
HIDDEN = ("post_norm", "pre_norm")
STATES = ("auto", "scoring", "loss", "generate", "forward")


def check_mix(mix: float) -> None:
    """Refuse a share that is none.

    Raises:
        ValueError: if it lies outside [0, 1].
    """
    if not 0.0 <= mix <= 1.0:
        raise ValueError(f"mix={mix} must lie in [0, 1]; 1 is SHEAR, 0 is plain GRPO.")


@dataclass
class CreditOptions:
    """How a completion's advantage is spread over its tokens. Defaults are the SHEAR paper's (arXiv 2604.23318).

    Attributes:
        credit: `constant`, `entropy`, `shear`, `package.module:attr` or `path/to/file.py:attr`.
        window: tokens in a span.
        stride: tokens between span starts.
        distance: distance between spans.
        tolerance: largest certified relative gap of a Wasserstein minimum; 0 is exact.
        normalize: what weights are divided by.
        mix: share of the SHEAR weight.
        correct_threshold: a rollout with this total reward or more is correct.
        exclude_answer: leave the final answer out of all spans.
        answer_marker: text after which the final answer begins.
        hidden: which state is compared.
        states: which forward gives the states.
        reward_timeout: seconds one call of a reward function may take.
        record_rollouts: write every rollout to disk.
    """

    credit: str = field(
        default="shear",
        metadata={"help": "Token credit: constant (plain GRPO), entropy, shear, package.module:attr or file.py:attr."},
    )
    window: int = field(default=100, metadata={"help": "SHEAR: tokens in a span."})
    stride: int = field(default=25, metadata={"help": "SHEAR: tokens between span starts, at most window."})
    distance: str = field(
        default="wasserstein", metadata={"help": "SHEAR: wasserstein, chamfer, mmd, cosine or sinkhorn."}
    )
    tolerance: float = field(
        default=0.0,
        metadata={"help": "SHEAR: certified relative gap allowed in a Wasserstein minimum; 0 is exact."},
    )
    normalize: str = field(
        default="group",
        metadata={"help": "SHEAR: group (paper), rollout (mean weight 1 in each rollout) or mean_one (in each group)."},
    )
    mix: float = field(default=1.0, metadata={"help": "SHEAR: weights become 1 - mix + mix * omega."})
    correct_threshold: float = field(
        default=0.5, metadata={"help": "A rollout whose total reward reaches this is correct."}
    )
    exclude_answer: bool = field(
        default=False,
        metadata={"help": "SHEAR: keep the final answer out of all spans (its tokens get the mean weight)."},
    )
    answer_marker: str = field(
        default="</think>",
        metadata={"help": "With exclude_answer: the answer begins after the last of these."},
    )
    hidden: str = field(
        default="post_norm",
        metadata={"help": "SHEAR: state compared, post_norm (what the LM head reads) or pre_norm."},
    )
    states: str = field(
        default="auto",
        metadata={
            "help": "SHEAR: forward that gives the states: scoring (TRL's), loss, generate, forward (an extra one), "
            "or auto, the cheapest of these that the run has."
        },
    )
    reward_timeout: float = field(
        default=600.0,
        metadata={"help": "Seconds one call of a reward function may take before the run stops."},
    )
    record_rollouts: bool = field(
        default=True, metadata={"help": "Write every rollout with its token credit to output_dir/record."}
    )

    def check_credit_options(self) -> None:
        """Refuse values that cannot work, before any model is loaded.

        Raises:
            ValueError: with the value, the rule and the knob.
        """
        if not 1 <= self.stride <= self.window:
            raise ValueError(
                f"window={self.window}, stride={self.stride}: spans need 1 <= stride <= window; "
                "lower --stride or raise --window."
            )
        if not 0.0 <= self.tolerance < 1.0:
            raise ValueError(f"tolerance={self.tolerance} must lie in [0, 1); --tolerance 0 is exact, 0.01 is 1 %.")
        if self.tolerance and self.distance != "wasserstein":
            raise ValueError(f"tolerance={self.tolerance} certifies minima of wasserstein, not {self.distance}.")
        check_mix(self.mix)
        if math.isnan(self.correct_threshold):
            raise ValueError("correct_threshold is NaN, which no reward reaches; give a number, such as 0.5.")
        if self.exclude_answer and not self.answer_marker:
            raise ValueError("exclude_answer needs an answer_marker, the text after which the answer begins.")
        if self.reward_timeout <= 0:
            raise ValueError(f"reward_timeout={self.reward_timeout} must be a positive number of seconds.")
        known = {"distance": DISTANCES, "normalize": NORMALIZERS, "hidden": HIDDEN, "states": STATES}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}.")
