"""Log-likelihood of gold answers after sampled trajectories: log p(y | x, z) of EXSEARCH (arXiv 2505.20128, eq. 4).

Teacher forced, on the answer's tokens only. What contexts and answers begin with in common is read once: the
instruction by all questions, the question by its samples, a sample by its several gold answers. Every branch then goes
on from a copy of the key-value cache. Logits are made at answer positions only, and their log-softmax in fp32.

Where a cache cannot be copied (sliding windows, recurrent states, positions that depend on the length), every context
and answer is read on its own.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from rlft.em.prefix_tree import Scored, levels_of
from rlft.em.reading import Reader, cache_can_be_copied, positions_depend_on_length

_MOST_LOGITS = 2**27  # values in a batch: 512 MiB in fp32


def score_answers(
    model: nn.Module,
    contexts: Sequence[list[int]],
    answers: Sequence[list[list[int]]],
    *,
    pad_id: int,
    batch_tokens: int = 16_384,
) -> list[list[float]]:
    """Sum of the log-probabilities of each answer's tokens after its context.

    The model is put in evaluation mode meanwhile; autocast is the caller's.

    Args:
        model: a causal language model of transformers, bare or with a PEFT adapter, not wrapped for training.
        contexts: N lists of token ids: everything before the answer, the header of its turn included.
        answers: N lists of A lists of token ids, each up to and including its end of turn.
        pad_id: any id of the vocabulary; which one does not matter.
        batch_tokens: tokens of a batch, padding and copies of shared tokens included; bounds the memory of the cache.

    Returns:
        N lists of A numbers, in nats.

    Raises:
        ValueError: for an empty context or answer, a context without answers, a context with an answer longer than
            the model's positions, or a prompt-learning adapter.
    """
    base: Any = getattr(model, "get_base_model", lambda: model)()
    _refuse(model, base, contexts, answers)
    config = base.config.get_text_config()
    share = cache_can_be_copied(base)
    most_tokens = 1 if positions_depend_on_length(config) else batch_tokens
    sequences = [
        Scored(context, answer, (index, alias))
        for index, (context, of_context) in enumerate(zip(contexts, answers, strict=True))
        for alias, answer in enumerate(of_context)
    ]
    # In order of their tokens those that begin alike stand together; else those of like length should.
    sequences.sort(key=(lambda row: row.read) if share else (lambda row: [len(row.read)]))
    scores = [[0.0] * len(of_context) for of_context in answers]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in _batches(sequences, most_tokens, _MOST_LOGITS // config.vocab_size):
                for (index, alias), score in _score(Reader(model, base, pad_id), batch, share):
                    scores[index][alias] = score
    finally:
        model.train(was_training)
    return scores


def _batches(sequences: list[Scored], most_tokens: int, most_answer_tokens: int) -> Iterator[list[Scored]]:
    """Sequences in order, as many at a time as the limits allow, one at least."""
    batch: list[Scored] = []
    length = answer_tokens = 0
    for sequence in sequences:
        length = max(length, len(sequence.context) + len(sequence.answer))
        answer_tokens += len(sequence.answer)
        if batch and ((len(batch) + 1) * length > most_tokens or answer_tokens > most_answer_tokens):
            yield batch
            batch, length = [], len(sequence.context) + len(sequence.answer)
            answer_tokens = len(sequence.answer)
        batch.append(sequence)
    if batch:
        yield batch


def _score(reader: Reader, batch: list[Scored], share: bool) -> Iterator[tuple[tuple[int, int], float]]:
    """Places and scores of a batch."""
    levels = levels_of(batch) if share else [[edge for sequence in batch for edge in levels_of([sequence])[0]]]
    totals = {sequence.place: 0.0 for sequence in batch}
    places, log_probs = [], []
    for depth, level in enumerate(levels):
        if depth:
            reader.branch([edge.parent for edge in level])
        wanted = [(row, column, token) for row, edge in enumerate(level) for column, token, _ in edge.wanted]
        places += [place for edge in level for _, _, place in edge.wanted]
        log_probs.append(reader.read([edge.ids for edge in level], wanted, more=depth + 1 < len(levels)))
    for place, log_prob in zip(places, torch.cat(log_probs).tolist(), strict=True):
        totals[place] += log_prob
    yield from totals.items()


def _refuse(model: Any, base: Any, contexts: Sequence[list[int]], answers: Sequence[list[list[int]]]) -> None:
    if len(contexts) != len(answers):
        raise ValueError(f"{len(contexts)} contexts but answers for {len(answers)}.")
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError("a prompt-learning adapter puts tokens of its own before the context; use LoRA or the like.")
    most = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    for index, (context, of_context) in enumerate(zip(contexts, answers, strict=True)):
        if not context or not of_context or not all(of_context):
            raise ValueError(
                f"context {index}: {len(context)} tokens, answers of {[len(answer) for answer in of_context]} tokens; "
                "one at least of each is needed. An answer of no tokens has no likelihood."
            )
        length = len(context) + max(map(len, of_context))
        if most is not None and length > most:
            raise ValueError(
                f"context {index} and its answer have {length} tokens, but the model has {most} positions "
                "(max_position_embeddings). Refused rather than cut; shorten trajectories (hops, passages)."
            )
