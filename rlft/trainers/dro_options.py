"""The knobs of DRO beside those of EM, as the part of `DROConfig` that imports no torch."""

from dataclasses import dataclass
from typing import Any

from rlft.em.lists import DEDUP
from rlft.em.options import option
from rlft.rollouts.list_text import ListOptions
from rlft.rollouts.reading import ReadingOptions
from rlft.trainers.sampler_options import SamplerOptions

OBJECTIVES = ("em", "grpo")
GRPO_REWARDS = ("likelihood", "exact_match")


@dataclass
class DROOptions(SamplerOptions):
    """What a list looks like, how it is sampled, and which of the two models learn (arXiv 2505.03075, section 3)."""

    candidates: int = option(20, "Passages the selector chooses from (n), the first ones the retriever finds.")
    list_size: int = option(5, "Passages in a list (K), which the generator reads in that order.")
    parsing: str = option("strict", "strict takes a list in its canonical spelling only; lenient what names K numbers.")
    invalid_lists: str = option(
        "drop", "Lists that cannot be read: drop, resample (draw again), or pad (fill up in ascending order)."
    )
    resamples: int = option(3, "With invalid_lists=resample: further draws of a list, at most.")
    constrained: bool = option(False, "Sample valid lists only; needs sampler=transformers.")
    shuffle_candidates: bool = option(False, "Training shows candidates in a random order, another in each round.")
    max_list_tokens: int = option(128, "Longest list.")
    max_answer_tokens: int = option(64, "Longest answer.")
    max_tokens: int = option(8192, "Longest prompt with its list or answer; a longer one is refused, never cut.")
    list_instruction: str | None = option(
        None, "Asks for a list, with {passages}, {question}, {count}, {size}; None is the built-in one."
    )
    answer_instruction: str | None = option(
        None, "Asks for the answer, with {passages}, {question}; None is the built-in one."
    )
    closed_book_instruction: str | None = option(None, "Asks without passages, with {question}; None: built in.")
    passage_format: str | None = option(None, "How a passage is shown, with {n}, {title}, {text}; None: built in.")

    token_reduction: str = option("sum", "sum is eq. 5 and 6; mean divides by a list's or an answer's tokens: biased.")
    dedup: str = option("count", "Equal lists: count (one row, summed weight), none, or support (as released, biased).")
    selector_objective: str = option("em", "em (eq. 5), or grpo: advantages of the same lists instead of weights.")
    grpo_reward: str = option("likelihood", "With grpo: likelihood of the gold answer, or exact_match of an answer.")
    freeze_selector: bool = option(False, "Train the generator only.")
    freeze_generator: bool = option(False, "Train the selector only.")
    drop_unanswerable: bool = option(False, "Leave out training questions whose answer stands in no candidate.")
    max_dropped: float = option(0.5, "Share of a round's questions above which dropping them as hopeless is an error.")

    def check_dro(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: naming the option, its value and its rule.
        """
        self.check_sampling()
        for name, allowed in (
            ("dedup", DEDUP),
            ("selector_objective", OBJECTIVES),
            ("grpo_reward", GRPO_REWARDS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(allowed)}.")
        if not 0 <= self.max_dropped <= 1:
            raise ValueError(f"max_dropped={self.max_dropped} must be in [0, 1]; 1 never fails.")
        if self.candidates < self.list_size:
            raise ValueError(
                f"candidates={self.candidates} are fewer than a list's list_size={self.list_size}; retrieve more, or "
                "choose fewer."
            )
        if self.freeze_selector and self.freeze_generator:
            raise ValueError("freeze_selector and freeze_generator leave nothing to train; set one of them at most.")
        if self.constrained and self.sampler != "transformers":
            raise ValueError(
                f"constrained=True needs sampler=transformers, not {self.sampler!r}, which takes no grammar."
            )
        self.list_options()
        self.reading_options()

    def list_options(self) -> ListOptions:
        """What the selector is asked, and how its lists are read.

        Raises:
            ValueError: as `ListOptions`.
        """
        mode: Any = {"parsing": self.parsing, "invalid": self.invalid_lists}
        texts: dict[str, Any] = {"instruction": self.list_instruction, "passage": self.passage_format}
        return ListOptions(
            size=self.list_size,
            resamples=self.resamples,
            constrained=self.constrained,
            max_list_tokens=self.max_list_tokens,
            max_tokens=self.max_tokens,
            **mode,
            **{name: text for name, text in texts.items() if text is not None},
        )

    def reading_options(self) -> ReadingOptions:
        """What the generator is asked.

        Raises:
            ValueError: as `ReadingOptions`.
        """
        texts = {
            "instruction": self.answer_instruction,
            "passage": self.passage_format,
            "closed_book": self.closed_book_instruction,
        }
        return ReadingOptions(
            max_answer_tokens=self.max_answer_tokens,
            max_tokens=self.max_tokens,
            **{name: text for name, text in texts.items() if text is not None},
        )


def refuse_without_effect(args: Any) -> None:
    """Refuse options of a `DROConfig` that another one makes idle.

    Raises:
        ValueError: naming the option, its value and why.
    """
    grpo = args.selector_objective == "grpo"
    idle = {
        "search_coef": args.search_coef != 1 and "the selector learns by itself",
        "answer_coef": args.answer_coef != 1 and "the generator learns by itself",
        "grpo_reward": args.grpo_reward != GRPO_REWARDS[0] and not grpo and "selector_objective is em",
        "baseline": args.baseline != "none" and grpo and "selector_objective=grpo has advantages of its own",
        "selector_objective": grpo and args.freeze_selector and "freeze_selector leaves it untrained",
    }
    for name, why in idle.items():
        if why:
            raise ValueError(f"{name}={getattr(args, name)!r} would have no effect: {why}. Leave it as it comes.")
