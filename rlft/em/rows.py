"""From weighed trajectories to the rows that the M-step trains on.

One row per trajectory, and one per branch: `{input_ids, labels, weights, mass}`, labels -100 on what the environment
wrote. The gold answer stands where the sampled one would.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset

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
    """Rows of one trajectory that ends with the gold answer (EXSEARCH eq. 5), but for those without any weight.

    Every row counts the same in the normaliser of a batch: counted by its tokens, a sum over them would be divided by
    the tokens of the rows that it happens to share a batch with, which in batches of one row is the mean.

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
        if any(weights):
            yield {"input_ids": ids, "labels": labels, "weights": weights, "mass": 1.0}


def demonstration_rows(shown: Trajectory) -> Iterator[dict[str, Any]]:
    """The row of a demonstration, every trained token of which counts the same: plain fine-tuning."""
    for row in training_rows(shown, 1.0, 1.0, EMOptions(token_reduction="sum")):
        yield row | {"mass": float(sum(label != IGNORED for label in row["labels"]))}


_SCHEMA = pyarrow.schema(
    {
        "input_ids": pyarrow.list_(pyarrow.int32()),
        "labels": pyarrow.list_(pyarrow.int32()),
        "weights": pyarrow.list_(pyarrow.float32()),
        "mass": pyarrow.float64(),
    }
)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], batch: int = 256) -> int:
    """Write rows to an Arrow file, a batch at a time; the file appears complete or not at all.

    Returns:
        How many rows there were.
    """
    temporary, count, rows = path.with_name(f".{path.name}.{os.getpid()}"), 0, iter(rows)
    with pyarrow.OSFile(str(temporary), "wb") as sink, pyarrow.ipc.new_stream(sink, _SCHEMA) as writer:
        while made := [dict(row) for row in islice(rows, batch)]:
            writer.write_batch(pyarrow.RecordBatch.from_pylist(made, _SCHEMA))
            count += len(made)
    os.replace(temporary, path)
    return count


def read_rows(path: Path) -> Dataset:
    """The rows of a file, mapped into memory."""
    return Dataset.from_file(str(path))
