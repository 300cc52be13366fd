"""The rules of the health monitor. Each is a measure of the metrics so far, a limit, a likely cause and a knob.

A rule is judged at every log that has one of the metrics it `reads`. "Start" and "now" are means over the first and the
last ten logs. `dead_groups` and `zero_gradient` do not both speak of one run: dead groups explain a gradient of zero.
"""

from dataclasses import dataclass

from rlft.health.history import RECENT, History, Measure, Seen
from rlft.health.measures import (
    FINITE,
    LEAST_ENTROPY,
    LEAST_KL,
    LEVEL_LOGS,
    TASK,
    entropy_rise,
    entropy_share,
    kl_jump,
    length_factor,
    level,
    metric_fall,
    no_gradient,
    not_finite,
)


@dataclass(frozen=True)
class Rule:
    """One way for a run to go wrong."""

    name: str
    reads: tuple[str, ...]
    """Metrics; a log with one of them is judged."""
    measure: Measure
    limit: float
    when: str
    """When the alarm is raised, with a place for the limit."""
    cause: str
    """The likely one."""
    knob: str
    """What to do about it."""
    below: bool = False
    """Values below the limit are bad, not those above."""

    def judge(self, history: History) -> tuple[Seen, bool] | None:
        """What is seen, and whether it is bad; None while that is unknown."""
        seen = self.measure(history)
        return None if seen is None else (seen, seen.value < self.limit if self.below else seen.value > self.limit)

    @property
    def threshold(self) -> str:
        """`when`, with the limit in it."""
        return self.when.format(self.limit)


RULES = (
    Rule(
        "non_finite",
        FINITE,
        not_finite,
        limit=0,
        when="any of loss, `grad_norm`, reward, KL or entropy is not finite",
        cause="overflow in half precision, a division by zero in a reward, or a learning rate that blew the weights up",
        knob="set --bf16 or --dtype float32, lower --learning_rate, and look at the rewards of that batch",
    ),
    Rule(
        "entropy_collapse",
        ("entropy",),
        entropy_share,
        limit=0.1,
        below=True,
        when="`entropy` is below {:g} of the start's, and the reward has not risen",
        cause="the policy says the same whatever it is asked, so groups have nothing to compare",
        knob="lower --learning_rate, raise --temperature or --epsilon_high, or set --beta above 0",
    ),
    Rule(
        "entropy_blow_up",
        ("entropy",),
        entropy_rise,
        limit=3,
        when=f"`entropy` is above {{:g}} times the start's (or {LEAST_ENTROPY:g} nats, if that is more)",
        cause="steps are too large, or train on noise, and the policy falls apart into random text",
        knob="lower --learning_rate or --max_grad_norm, enlarge the batch, or set --beta above 0",
    ),
    Rule(
        "repetition",
        ("health/repetition",),
        level("health/repetition", "{:.2f} of the 4-grams in a completion are repeats"),
        limit=0.5,
        when=f"`health/repetition`, the mean of {LEVEL_LOGS} logs, is above {{:g}}",
        cause="completions run in circles: the policy collapsed, or length is rewarded",
        knob="lower --learning_rate, set --beta above 0, take the best checkpoint, or make the reward punish loops",
    ),
    Rule(
        "truncation",
        ("completions/clipped_ratio",),
        level("completions/clipped_ratio", "{:.2f} of the completions were cut at --max_completion_length"),
        limit=0.5,
        when=f"`completions/clipped_ratio`, the mean of {LEVEL_LOGS} logs, is above {{:g}}",
        cause="the limit is too short for this task, or the policy does not end its answers",
        knob="raise --max_completion_length; check the stop token and the chat template; look at the completions",
    ),
    Rule(
        "dead_groups",
        ("frac_reward_zero_std",),
        level("frac_reward_zero_std", "in {:.2f} of the groups all completions have one reward", RECENT),
        limit=0.95,
        when=f"`frac_reward_zero_std`, the mean of {RECENT} logs, is above {{:g}}",
        cause="problems are too easy or too hard, or the reward is never met: nothing can be learnt from such groups",
        knob="choose other problems, raise --num_generations or --temperature, or grade the reward more finely",
    ),
    Rule(
        "zero_gradient",
        ("grad_norm",),
        no_gradient,
        limit=0.99,
        when=f"`grad_norm` is 0 in all of {RECENT} logs, and groups are not all dead",
        cause="every token is masked, clipped or without credit, or all weights are frozen",
        knob="see --mask_truncated_completions, --epsilon, the credit function, and what is trainable",
    ),
    Rule(
        "kl_spike",
        ("kl",),
        kl_jump,
        limit=10,
        when=f"`kl` is above {{:g}} times the median of all logs before (or of {LEAST_KL:g}, if that is more)",
        cause="one update threw the policy far from the reference",
        knob="lower --learning_rate or --max_grad_norm, raise --beta, and set --disable_dropout true",
    ),
    Rule(
        "clipping",
        ("clip_ratio/region_mean",),
        level("clip_ratio/region_mean", "the importance ratio of {:.2f} of the tokens is clipped"),
        limit=0.3,
        when=f"`clip_ratio/region_mean`, the mean of {LEVEL_LOGS} logs, is above {{:g}}",
        cause="a batch is used for so many or so large updates that the policy has left it behind",
        knob="lower --learning_rate, --num_iterations or --steps_per_generation",
    ),
    Rule(
        "engine_mismatch",
        ("sampling/sampling_logp_difference/mean",),
        level("sampling/sampling_logp_difference/mean", "log-probs of engine and trainer differ by {:.3g} on average"),
        limit=0.1,
        when=f"`sampling/sampling_logp_difference/mean`, of {LEVEL_LOGS} logs, is above {{:g}}",
        cause="vLLM samples from other weights, another precision or another temperature than the trainer scores with",
        knob="synchronise weights, use one --dtype in both, and keep --vllm_importance_sampling_correction",
    ),
    Rule(
        "metric_divergence",
        (TASK,),
        metric_fall,
        limit=0.1,
        when="two evaluations in a row are {:g} of the best below it, more than chance, and the reward is no lower",
        cause="the policy exploits the reward, which no longer stands for the task",
        knob="read the completions, mend the reward, set --beta above 0, and take the best checkpoint",
    ),
    Rule(
        "unreadable_text",
        ("health/unreadable",),
        level("health/unreadable", "{:.2f} of the characters are replacement or non-printable characters"),
        limit=0.05,
        when=f"`health/unreadable`, the mean of {LEVEL_LOGS} logs, is above {{:g}}",
        cause="the policy collapsed to bytes that are no text, or the tokenizer is not the model's",
        knob="lower --learning_rate, go back to the best checkpoint, and check the tokenizer",
    ),
    Rule(
        "length_drift",
        ("completions/mean_length",),
        length_factor,
        limit=3,
        when="`completions/mean_length` is {:g} times the start's, or that part of it, and the reward has not risen",
        cause="length is rewarded or punished by accident, or the policy forgets to stop, or to think",
        knob="look at the reward by length, use --loss_type dr_grpo or dapo, or lower --learning_rate",
    ),
)
