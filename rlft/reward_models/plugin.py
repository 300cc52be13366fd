"""A scorer as a TRL reward: rho = sigmoid(s) of the answer that a completion gives (PrLM, arXiv 2508.07342).

No torch until the first batch is scored.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlft.reward_models.folder import read_scorer_folder
from rlft.rewards.outcomes import Outcome, RewardError
from rlft.rewards.personal import THINK_END, extract_answer

if TYPE_CHECKING:
    from rlft.reward_models.scorer import Scorer

Reward = Callable[..., list[float | None]]


def personalization(
    *,
    folder: str | Path,
    key: str | None,
    task: str | None = None,
    think_end: str | None = THINK_END,
    no_answer: float | None = None,
    device: str | None = None,
) -> Reward:
    """Reward answers by a scorer's folder, which is checked now and loaded when the first batch is scored.

    Args:
        folder: that `save_scorer` wrote.
        key: where the answer stands, as for `rlft.rewards.personal.extract_answer`.
        task: that is trained on; a scorer of another one is refused. None takes any.
        think_end: what closes the thinking.
        no_answer: score of a completion without an answer, or with one that the scorer has no room for. None leaves
            it out; the paper's code gives -10 on one task, which in a group of four hides all other differences.
        device: None takes the current GPU, or the CPU where there is none.

    Returns:
        A TRL reward named `personalization`, see `scorer_reward`.

    Raises:
        ScorerError: if the folder cannot be used.
    """
    read_scorer_folder(folder, task)
    loaded: list[Scorer] = []

    def scorer() -> "Scorer":
        from rlft.reward_models.scorer import Scorer

        if not loaded:
            loaded.append(Scorer.load(folder, task=task, device=device))
        return loaded[0]

    return _reward(scorer, key, think_end, no_answer)


def scorer_reward(
    scorer: "Scorer", *, key: str | None, think_end: str | None = THINK_END, no_answer: float | None = None
) -> Reward:
    """Reward answers by a scorer in memory.

    Args:
        scorer: the scorer.
        key: as for `personalization`, and the others too.
        think_end: what closes the thinking.
        no_answer: score where there is nothing to score.

    Returns:
        A TRL reward named `personalization` of the columns `query` and `profile_items`, the items that the policy was
        shown, which a blind scorer does not need. It logs the shares `rewards/personalization/unparseable` (no answer),
        `.../too_long` and `.../known` (scored before).
    """
    return _reward(lambda: scorer, key, think_end, no_answer)


def _reward(find: Callable[[], "Scorer"], key: str | None, think_end: str | None, no_answer: float | None) -> Reward:
    def reward(
        completions: Sequence[Any],
        query: Sequence[str],
        profile_items: Sequence[Sequence[Any]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        scorer = find()
        if profile_items is None and scorer.spec.form == "aware":
            raise RewardError(
                "reward 'personalization': an aware scorer reads the column 'profile_items', the items that each "
                "prompt shows, and the dataset has none. Add it, or train a blind scorer."
            )
        profiles = (
            [[] for _ in completions] if profile_items is None else [list(items or []) for items in profile_items]
        )
        answers = [extract_answer(completion, key, think_end) for completion in completions]
        said = [place for place, answer in enumerate(answers) if answer is not None]
        hits = scorer.hits
        scores = scorer.score_what_fits(
            [query[place] for place in said],
            [profiles[place] for place in said],
            [answers[place] or "" for place in said],
        )
        if log_metric is not None and answers:
            log_metric(f"rewards/personalization/{Outcome.UNPARSEABLE}", answers.count(None) / len(answers))
            log_metric("rewards/personalization/too_long", scores.count(None) / len(answers))
            log_metric("rewards/personalization/known", (scorer.hits - hits) / len(answers))
        rewards: list[float | None] = [no_answer] * len(answers)
        for place, score in zip(said, scores, strict=True):
            if score is not None:
                rewards[place] = _sigmoid(score)
        return rewards

    reward.__name__ = reward.__qualname__ = "personalization"
    return reward


def _sigmoid(score: float) -> float:
    """1 / (1 + exp(-score)), also where exp(-score) is too large for a float."""
    return 0.5 * (1 + math.tanh(0.5 * score))
