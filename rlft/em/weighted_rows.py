"""The rows of weighted fine-tuning: `{input_ids, labels, weights}`, one label and one weight a token.

Shapes: T tokens of a row, B rows of a batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from rlft.compat import SFTCollator

IGNORED = -100


@dataclass
class WeightedCollator(SFTCollator):
    """TRL's collator, and `weights` (B, T) fp32 beside `labels`, 0 on padding."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad and stack rows `{input_ids, labels, weights}`."""
        batch = super().torch_call(examples)
        weights_BT = torch.zeros(batch["labels"].shape)
        for row, example in enumerate(examples):
            weights_BT[row, : len(example["weights"])] = torch.tensor(example["weights"])
        return batch | {"weights": weights_BT}


def check_rows(dataset: Any, name: str, max_length: int | None) -> None:
    """Refuse rows that could not be trained on as they are.

    Raises:
        TypeError: if it is not a `datasets.Dataset`.
        ValueError: naming the first row whose columns are missing or differ in length, that is longer than
            `max_length`, has no trained token, or a weight that is not finite in fp32.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"{name} is a {type(dataset).__name__}; a datasets.Dataset of whole rows is needed.")
    columns = ["input_ids", "labels", "weights"]
    if missing := [column for column in columns if column not in dataset.column_names]:
        raise ValueError(f"{name} lacks {', '.join(missing)}; it has {', '.join(dataset.column_names)}.")
    for number, row in enumerate(dataset.select_columns(columns).with_format("numpy")):
        lengths = [len(row[column]) for column in columns]
        if fault := _fault(row, lengths, max_length):
            raise ValueError(
                f"{name}, row {number} ({lengths[0]} ids, {lengths[1]} labels, {lengths[2]} weights): {fault}"
            )


def _fault(row: Mapping[str, Any], lengths: list[int], max_length: int | None) -> str | None:
    if len(set(lengths)) > 1:
        return "one label and one weight per id are needed."
    if max_length is not None and lengths[0] > max_length:
        return f"longer than max_length={max_length}, and cutting it could take the answer. Raise --max_length."
    if not (row["labels"][1:] != IGNORED).any():
        return "no token is trained (labels after the first are all -100). Leave it out."
    finite = np.isfinite(row["weights"])
    if not finite.all():
        return f"weight {row['weights'][~finite][0]} is not finite."
    return None
