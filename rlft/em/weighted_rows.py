"""The rows of weighted fine-tuning: `{input_ids, labels, weights}`, one label and one weight a token, and `mass`.

Shapes: T tokens of a row, B rows of a batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from rlft.compat.sft import SFTCollator

IGNORED = -100


@dataclass
class WeightedCollator(SFTCollator):
    """TRL's collator, with `weights` (B, T) fp32, 0 on padding, and `mass` (B,) beside `labels`."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad and stack rows `{input_ids, labels, weights}`, with or without `mass`."""
        batch = super().torch_call(examples)
        weights_BT = torch.zeros(batch["labels"].shape)
        for row, example in enumerate(examples):
            weights_BT[row, : len(example["weights"])] = torch.tensor(example["weights"])
        mass_B = torch.tensor([float(mass_of(example)) for example in examples], dtype=torch.float64)
        return batch | {"weights": weights_BT, "mass": mass_B}


def mass_of(row: Mapping[str, Any]) -> float:
    """What a row counts in the normaliser: its `mass`, or else its trained tokens with a weight other than 0."""
    if row.get("mass") is not None:
        return float(row["mass"])
    return float(((np.asarray(row["labels"])[1:] != IGNORED) & (np.asarray(row["weights"])[1:] != 0)).sum())


def check_rows(dataset: Any, name: str, max_length: int | None) -> float:
    """Refuse rows that could not be trained on as they are.

    Returns:
        Mean weight of the rows: sum of |weights| of trained tokens over the sum of masses; 0 if all are 0.

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
    weight = mass = 0.0
    kept = [*columns, "mass"] if "mass" in dataset.column_names else columns
    for number, row in enumerate(dataset.select_columns(kept).with_format("numpy")):
        lengths = [len(row[column]) for column in columns]
        if fault := _fault(row, lengths, max_length):
            raise ValueError(
                f"{name}, row {number} ({lengths[0]} ids, {lengths[1]} labels, {lengths[2]} weights): {fault}"
            )
        weight += float(np.abs(row["weights"][1:][row["labels"][1:] != IGNORED].astype(np.float64)).sum())
        mass += mass_of(row)
    return weight / mass if mass else 0.0


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
    if not 0 <= row.get("mass", 0.0) < np.inf:
        return f"mass {row['mass']} must be at least 0, and finite."
    return None
