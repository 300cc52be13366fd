"""PrLM's reward functions and their weights, and the check, before any model is loaded, that the rows can feed them.

    r = 1.0 (F1 of ROUGE-1 + ROUGE-2 + ROUGE-L) + 0.1 [thinking closed] + 0.1 sigmoid(s)

with the weights of the paper's code (arXiv 2508.07342); s is the reward model's score of the answer. No torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlft.reward_models.folder import read_scorer_folder
from rlft.reward_models.plugin import personalization
from rlft.rewards import RewardError, check_columns
from rlft.rewards.boundary import reward_name
from rlft.rewards.personal import rouge, think_format
from rlft.trainers.prlm_options import TERM_WEIGHTS

Reward = Callable[..., Any]


def prlm_rewards(args: Any) -> list[Reward]:
    """`rouge`, `think_format` where thinking is closed by a tag, `personalization` where there is a reward model.

    Args:
        args: a `PrLMConfig`.

    Raises:
        ValueError: if a term has a weight but cannot be computed, or weights are given by place.
        ScorerError: if the folder of the reward model cannot be used.
    """
    if args.reward_weights is not None:
        raise ValueError(
            f"reward_weights={args.reward_weights} weigh reward_funcs, and none are given: PrLM's own rewards have "
            f"--{', --'.join(TERM_WEIGHTS.values())}."
        )
    if args.think_end is None and args.format_weight:
        raise ValueError(
            f"format_weight={args.format_weight} rewards the tag that closes the thinking, and think_end is None; set "
            "--format_weight 0."
        )
    if args.scorer is None and args.personalization_weight:
        raise ValueError(
            f"personalization_weight={args.personalization_weight} and no reward model: give its folder with --scorer, "
            "or train without that term with --personalization_weight 0."
        )
    answer: dict[str, Any] = {"key": args.answer_key, "think_end": args.think_end}
    rewards = [rouge(tokens=args.rouge_tokens, **answer)]
    if args.think_end is not None:
        rewards.append(think_format(think_end=args.think_end))
    if args.scorer is not None:
        rewards.append(personalization(folder=args.scorer, no_answer=args.no_answer, **answer))
    return rewards


def weights_of(rewards: Sequence[Any], args: Any) -> list[float]:
    """A weight for each reward: TRL's `reward_weights` if given, else that of its name, else 1.

    Raises:
        ValueError: for another number of weights than rewards.
    """
    if args.reward_weights is None:
        names = [TERM_WEIGHTS.get(reward_name(reward)) for reward in rewards]
        return [1.0 if name is None else getattr(args, name) for name in names]
    if len(args.reward_weights) != len(rewards):
        raise ValueError(f"reward_weights={args.reward_weights} for {len(rewards)} reward_funcs; one each is needed.")
    return list(args.reward_weights)


def check_rows(rows: Any, name: str, rewards: Iterable[Any], *, texts: Iterable[str] = (), aware: bool = False) -> None:
    """Refuse a dataset that the rewards cannot score.

    Args:
        rows: a dataset, several by name, or None.
        name: for the message.
        rewards: TRL reward functions.
        texts: columns that must not be blank.
        aware: whether the reward model reads `profile_items`.

    Raises:
        RewardError: naming the column or the first bad row, and the number of them.
    """
    if rows is None:
        return
    if isinstance(rows, Mapping) and not hasattr(rows, "column_names"):
        for part, some in rows.items():
            check_rows(some, f"{name}[{part!r}]", rewards, texts=texts, aware=aware)
        return
    columns = list(rows.column_names or ())
    check_columns(rewards, columns)
    if aware and "profile_items" not in columns:
        raise RewardError(
            f"{name} lacks the column 'profile_items', the items that each prompt shows, which the reward model reads "
            f"(its form is aware). Columns: {', '.join(columns)}. Add it, or train a blind scorer."
        )
    for column in texts:
        blank = [place for place, text in enumerate(rows[column]) if text is None or not str(text).strip()]
        if blank:
            raise RewardError(
                f"{name}: {len(blank)} of {len(rows)} rows have an empty {column!r}, the first is row {blank[0]}; "
                "leave such rows out."
            )


def reads_profile(folder: str | None) -> bool:
    """Whether the reward model of this folder reads `profile_items`.

    Raises:
        ScorerError: if the folder cannot be used.
    """
    return folder is not None and read_scorer_folder(folder).spec.form == "aware"
