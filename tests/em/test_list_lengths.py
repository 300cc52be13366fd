"""Lists that take more tokens to write learn as fast as others (DRO, eq. 5): rows and loss of the trainer itself."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from rlft.em.lists import weigh_lists
from rlft.em.options import EMOptions
from rlft.em.rows import training_rows
from rlft.em.weighing import WeightOptions
from rlft.em.weighted_sft import WeightedSFTTrainer
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.list_text import spell
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory
from tests.em.sft_cases import model, settings, tokenizer

LISTS = ((8,), (9,))
"""Written `[9]` and `[10]`, in 4 and 5 tokens with the end of the turn."""
SAMPLES = 3


def log_probability(selector: Any, list_of: Trajectory) -> Tensor:
    ids = torch.tensor([list_of.prompt_ids + list_of.completion_ids])
    written = len(list_of.completion_ids)
    log_TV = selector(input_ids=ids).logits[0, -written - 1 : -1].log_softmax(-1)
    return log_TV.gather(1, ids[0, -written:, None]).sum()


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


class Lesson:
    """A selector, its two lists, and the trainer on every sample of them with equal rewards, row by row."""

    def __init__(self, folder: Path, reduction: str) -> None:
        frame, options = ChatFrame(tokenizer()), EMOptions(token_reduction=reduction)
        self.selector = model().eval()
        self.parameters = [*self.selector.parameters()]
        prompt_ids = frame.opening("which passage?")
        segments = [Segment(frame.turn_ids(spell(places)), trainable=True, label="list") for places in LISTS]
        assert [len(segment.ids) for segment in segments] == [4, 5]
        lists = [Trajectory(prompt_ids, [segment], FinishReason.STOP) for segment in segments]
        self.log_Z = [log_probability(self.selector, one) for one in lists]
        self.rows_of: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        for drawn in product(range(2), repeat=SAMPLES):
            weighed = weigh_lists([LISTS[z] for z in drawn], [-3.0] * SAMPLES, WeightOptions(), "none")
            shares = zip(drawn, weighed.search_K or [], strict=True)
            self.rows_of[drawn] = [row for z, w in shares for row in training_rows(lists[z], 0.0, w, options)]
        everything = Dataset.from_list(sum(self.rows_of.values(), []))
        self.trainer = WeightedSFTTrainer(
            self.selector, settings(folder), train_dataset=everything, processing_class=tokenizer()
        )

    def gradient(self, rows: list[dict[str, Any]]) -> Tensor:
        """Of the trainer's loss of one batch."""
        (batch,), count = self.trainer.get_batch_samples(iter([self.trainer.data_collator(rows)]), 1, "cpu")
        loss = self.trainer.compute_loss(self.selector, batch, num_items_in_batch=count)
        return flat(torch.autograd.grad(loss, self.parameters))

    def expected(self, *, together: bool) -> Tensor:
        """Over every sample, both lists being as likely; its rows are one batch, or one each."""
        total = torch.zeros(sum(weight.numel() for weight in self.parameters))
        for rows in self.rows_of.values():
            batches = [rows] if together else [[row] for row in rows]
            total += sum(map(self.gradient, batches), torch.zeros_like(total)) / len(self.rows_of)
        return total / total.norm()

    def truth(self) -> Tensor:
        """Of -sum_i w_i log p(z_i; theta), expected: equal rewards leave the mean over the lists."""
        total = flat(torch.autograd.grad(-torch.stack(self.log_Z).mean(), self.parameters))
        return total / total.norm()


@pytest.mark.parametrize("together", [True, False], ids=["a batch of all", "batches of one"])
def test_lists_of_any_length_are_learnt_in_proportion_to_their_weights(tmp_path: Path, together: bool) -> None:
    """With a sum over tokens, in whatever batches; a mean over tokens prefers the shorter list."""
    lessons = {reduction: Lesson(tmp_path, reduction) for reduction in ("sum", "mean")}
    gap = {name: (lesson.expected(together=together) - lesson.truth()).norm() for name, lesson in lessons.items()}
    assert gap["sum"] < 1e-4
    assert gap["mean"] > 0.02
