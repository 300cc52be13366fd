"""From weighed trajectories to the rows that the M-step trains on.

One row per trajectory, and one per branch: `{input_ids, labels, weights}`, labels -100 on what the environment wrote.
The gold answer stands where the sampled one would.
"""

from collections.abc import Iterator
from typing import Any

from rlft.em.options import EMOptions
from rlft.em.weighted_rows import IGNORED
from rlft.rollouts.trajectory import Segment, Trajectory


def with_answer(trajectory: Trajectory, answer_ids: list[int]) -> Trajectory:
    """The trajectory with the gold answer, trained on, in the place of a sampled one."""
    kept = [segment for segment in trajectory.segments if segment.label != "answer"]
    gold = Segment(ids=answer_ids, trainable=True, label="answer")
    return Trajectory(
        trajectory.prompt_ids, [*kept, gold], trajectory.finish, trajectory.fields, list(trajectory.branches)
    )


def training_rows(
    trajectory: Trajectory, answer_weight: float, search_weight: float, options: EMOptions
) -> Iterator[dict[str, Any]]:
    """Rows of one trajectory that ends with the gold answer (EXSEARCH eq. 5).

    Args:
        trajectory: from `with_answer`; each of its branches becomes a row with the same weight.
        answer_weight: w of its answer tokens.
        search_weight: w of all other tokens the model wrote.
        options: reduction over tokens, and the coefficients of the two losses.
    """
    for conversation in (trajectory, *trajectory.branches):
        trained = sum(len(segment.ids) for segment in conversation.segments if segment.trainable)
        per_token = 1 / trained if options.token_reduction == "mean" else 1.0
        ids = list(conversation.prompt_ids)
        labels, weights = [IGNORED] * len(ids), [0.0] * len(ids)
        for segment in conversation.segments:
            answer = segment.label == "answer"
            weight = options.answer_coef * answer_weight if answer else options.search_coef * search_weight
            ids += segment.ids
            labels += segment.ids if segment.trainable else [IGNORED] * len(segment.ids)
            weights += [weight * per_token if segment.trainable else 0.0] * len(segment.ids)
        yield {"input_ids": ids, "labels": labels, "weights": weights}
