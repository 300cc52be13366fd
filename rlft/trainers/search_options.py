"""The knobs of EXSEARCH beside those of EM, as the part of `ExSearchConfig` that imports no torch."""

from dataclasses import dataclass
from typing import Any

from rlft.em.options import option
from rlft.rollouts.search_text import SearchOptions
from rlft.trainers.sampler_options import SamplerOptions


@dataclass
class SearchTrainingOptions(SamplerOptions):
    """What a search looks like, how it is sampled, and which trajectories are kept (arXiv 2505.20128, section 3)."""

    max_hops: int = option(8, "Searches in a trajectory, at most (T_max); then the answer is asked for.")
    passages: int = option(5, "Passages shown for a query.")
    select: bool = option(False, "The model picks the passages among `retrieved` ones (a trained action of its own).")
    retrieved: int = option(10, "With select: passages retrieved for a query.")
    max_turn_tokens: int = option(256, "Longest turn of the model.")
    max_answer_tokens: int = option(64, "Longest answer.")
    max_tokens: int = option(8192, "Longest trajectory, prompt and gold answer included; a longer one is refused.")
    instruction: str | None = option(None, "Text of the first turn, with {question}; None is the built-in one.")
    passage_format: str | None = option(None, "How a passage is shown, with {n}, {title}, {text}; None: built in.")
    answer_request: str | None = option(None, "Asks for the answer, with {question}; None is the built-in one.")

    max_empty_facts: int = option(2, "Trajectories with more empty facts are not trained on.")
    drop_malformed: bool = option(False, "Trajectories with an unreadable turn are not trained on.")

    def check_search(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ValueError: naming the option, its value and its rule.
        """
        self.check_sampling()
        if self.max_empty_facts < 0:
            raise ValueError(f"max_empty_facts={self.max_empty_facts} must be at least 0.")
        self.search_options()

    def search_options(self) -> SearchOptions:
        """What a search looks like.

        Raises:
            ValueError: for a count below 1, or a template without what it has to show.
        """
        names = ("max_hops", "passages", "select", "retrieved", "max_turn_tokens", "max_answer_tokens", "max_tokens")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        texts = {"instruction": self.instruction, "passage": self.passage_format, "answer_request": self.answer_request}
        given |= {name: text for name, text in texts.items() if text is not None}
        return SearchOptions(**given)
