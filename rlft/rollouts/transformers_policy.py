"""Sampling from a causal language model in batches, with a random stream of its own for every draw.

A model that keeps keys and values only is called step by step (`row_decoding`): draws of one context share a row, and
contexts can be carried over from one call to the next. Any other (a recurrent one, a learned prompt) is left to its own
`generate`. Which token comes next is decided by `Chooser`, so that a draw gives the same in any company, up to the
rounding of the forwards.

Legend: B draws of a batch, L prompt length after padding.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from rlft.rollouts.carried_cache import CarriedCache
from rlft.rollouts.chooser import NOT_NUMBERS, Chooser
from rlft.rollouts.drawing import check_draws, generation_of
from rlft.rollouts.policy import Draw, Generation, Sampling
from rlft.rollouts.row_cache import keeps_rows, may_have_holes
from rlft.rollouts.row_decoding import continue_together
from rlft.rollouts.tokens import pad_id_of


class TransformersPolicy:
    """A causal language model of transformers as a policy, on any device, bare or wrapped by PEFT.

    What the model's own `generation_config` asks for (penalties, forced or suppressed tokens, a temperature) has no
    effect. With weights spread by ZeRO-3 or FSDP, call it where they are gathered (`compat.generation_model`): the
    processes do not wait for each other.
    """

    def __init__(self, model: Any, stop_ids: Set[int], pad_id: int, batch_size: int = 64, keep_tokens: int = 0) -> None:
        """
        Args:
            model: `PreTrainedModel` or `PeftModel`. It is used as it stands at each call, so training shows at once.
            stop_ids: ids that end a continuation.
            pad_id: any id of the vocabulary, to pad prompts with; it may be a stop id.
            batch_size: draws that are continued together.
            keep_tokens: most tokens whose keys and values are kept from one call to the next, so that a prompt which
                begins as an earlier one went on, as every turn of a conversation does, is not read again;
                `CarriedCache` says what memory a token takes. To keep all turns of the trajectories under way takes
                twice their tokens, at most. A weight that is replaced or changed in place drops all; after another
                change of what the model computes (a write through `.data`, an adapter switched off) call `forget`. No
                effect on a model with sliding windows or without `position_ids`.

        Raises:
            ValueError: if `batch_size` is below 1, `keep_tokens` below 0, or `pad_id` is not an id of the vocabulary.
        """
        config = model.config.get_text_config()
        self.vocab_size: int = config.vocab_size
        self.max_length: int | None = getattr(config, "max_position_embeddings", None)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; it must be at least 1.")
        if keep_tokens < 0:
            raise ValueError(f"keep_tokens={keep_tokens}; it must be at least 0, which keeps none.")
        if not isinstance(pad_id, int) or not 0 <= pad_id < self.vocab_size:
            raise ValueError(
                f"pad_id={pad_id!r}; it must be an id of the model's vocabulary, 0 to {self.vocab_size - 1}. "
                "A tokenizer without a padding token can lend its end token."
            )
        self.model, self.stop_ids, self.pad_id, self.batch_size = model, frozenset(stop_ids), pad_id, batch_size
        self._by_rows = keeps_rows(model)
        self._carried = CarriedCache(keep_tokens) if keep_tokens and may_have_holes(model) else None
        self._read_by: list[tuple[int, int]] = []

    def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
        """One generation per draw, in order.

        Raises:
            ValueError: for a draw that the model cannot continue, before anything is sampled.
            FloatingPointError: if the model's logits are not numbers.
        """
        check_draws(draws, vocab_size=self.vocab_size, max_length=self.max_length)
        done: dict[int, Generation] = {}
        self._forget_what_other_weights_read()
        with ready_to_sample(self.model):
            for batch in self._batches(draws):
                done.update(zip(batch, self._continue([draws[index] for index in batch], sampling), strict=True))
        return [done[index] for index in range(len(draws))]

    def forget(self) -> None:
        """Let go of all keys and values that are kept."""
        if self._carried:
            self._carried.forget()

    def _forget_what_other_weights_read(self) -> None:
        if self._carried:
            # Weights that were made in inference mode count no versions, and cannot be changed outside of it.
            now = [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in self.model.parameters()]
            if now != self._read_by:
                self.forget()
            self._read_by = now

    def _batches(self, draws: Sequence[Draw]) -> Iterator[list[int]]:
        """Indices of draws with as much to read, so that little is padded, draws of one prompt side by side.

        A batch runs until its last draw has ended, so its longest prompt and its largest cap must fit together.
        """
        batch: list[int] = []
        cap = 0
        prompts = [tuple(draw.prompt_ids) for draw in draws]
        unread = {prompt: len(prompt) - self._kept(prompt) for prompt in set(prompts)}
        caps = [draw.max_new_tokens for draw in draws]
        order = [(unread[prompt], len(prompt), prompt, caps[i], i) for i, prompt in enumerate(prompts)]
        for *_, index in sorted(order):
            cap = max(cap, draws[index].max_new_tokens)
            too_long = self.max_length is not None and len(draws[index].prompt_ids) + cap > self.max_length
            if batch and (len(batch) == self.batch_size or too_long):
                yield batch
                batch, cap = [], draws[index].max_new_tokens
            batch.append(index)
        if batch:
            yield batch

    def _kept(self, prompt: tuple[int, ...]) -> int:
        return self._carried.find(prompt).length if self._carried else 0

    def _continue(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
        prompts = [draw.prompt_ids for draw in draws]
        caps_B = np.array([draw.max_new_tokens for draw in draws])
        chooser = Chooser(draws, sampling, self.model.device)
        if self._by_rows:
            continue_together(self.model, prompts, caps_B, chooser, self.stop_ids, self._carried)
        else:
            self._generate(prompts, caps_B, chooser)
        rows = zip(draws, *chooser.chosen(), strict=True)
        found = [generation_of(draw, ids, logprobs, self.stop_ids) for draw, ids, logprobs in rows]
        if not np.isfinite([value for generation in found for value in generation.logprobs]).all():
            raise FloatingPointError(NOT_NUMBERS)
        return found

    def _generate(self, prompts: Sequence[list[int]], caps_B: np.ndarray, chooser: Chooser) -> None:
        """Let the model's own `generate` do the forwards and keep what it keeps."""
        ids_BL, mask_BL = pad_left(prompts, self.pad_id)
        device = self.model.device
        self.model.generate(
            input_ids=ids_BL.to(device),
            attention_mask=mask_BL.to(device),
            generation_config=GenerationConfig(
                max_new_tokens=int(caps_B.max()),
                do_sample=False,
                eos_token_id=sorted(self.stop_ids) or None,
                pad_token_id=self.pad_id,
                use_cache=True,
            ),
            logits_processor=LogitsProcessorList([_Choice(chooser, len(prompts))]),
            stopping_criteria=StoppingCriteriaList([_Caps(ids_BL.size(1) + torch.from_numpy(caps_B).to(device))]),
            synced_gpus=False,
        )


def policy_of(model: Any, tokenizer: Any, batch_size: int) -> TransformersPolicy:
    """A policy that stops where the tokenizer or the model's generation configuration ends, as TRL's trainers do.

    Args:
        model, batch_size: as for `TransformersPolicy`.
        tokenizer: the model's.
    """
    own = model.generation_config.eos_token_id
    stop_ids = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    pad_id = pad_id_of(tokenizer)
    return TransformersPolicy(model, stop_ids, min(stop_ids, default=0) if pad_id is None else pad_id, batch_size)


class _Choice(LogitsProcessor):
    """Hands `generate` scores whose largest is the chosen token's."""

    def __init__(self, chooser: Chooser, rows: int) -> None:
        self.chooser, self.all_B = chooser, np.arange(rows)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        choice_B = torch.from_numpy(self.chooser.choose(scores, self.all_B, self.all_B)).to(scores.device)
        return scores.scatter(1, choice_B[:, None], torch.inf)


class _Caps(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, lengths_B: Tensor) -> None:
        self.lengths_B = lengths_B

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return input_ids.size(1) >= self.lengths_B


def pad_left(prompts: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts and their attention mask, both (B, L), padded on the left."""
    length = max(map(len, prompts))
    ids_BL = np.full((len(prompts), length), pad_id, np.int64)
    mask_BL = np.zeros((len(prompts), length), np.int64)
    for row, prompt in enumerate(prompts):
        ids_BL[row, length - len(prompt) :] = prompt
        mask_BL[row, length - len(prompt) :] = 1
    return torch.from_numpy(ids_BL), torch.from_numpy(mask_BL)


@contextmanager
def ready_to_sample(model: Any) -> Iterator[None]:
    """No gradients, evaluation mode, and a generation config that asks for nothing; all as before afterwards.

    `generate` fills what its argument leaves open from the model's own config, so that one is put aside.
    """
    owners = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    own = [owner.generation_config for owner in owners]
    training = [module for module in model.modules() if module.training]
    try:
        for owner in owners:
            owner.generation_config = GenerationConfig()
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        for owner, config in zip(owners, own, strict=True):
            owner.generation_config = config
