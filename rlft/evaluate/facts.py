"""Recall of facts: how well a model completes sentences up to a value, over the whole of a probe set.

Metrics of arXiv 2605.10640, experiments: hFTA and sFTA (hit of the argmax, and probability, of an answer's first
token), soft token accuracy (mean probability of its tokens; on KnowEdit with the end token as one of them, here
`soft_end`), EM (the answer occurs in what is generated). `exact` is ours: all tokens of the answer are the argmax,
given those before them. A row with several accepted answers counts once:
its value is the mean over them, where the released code takes the mean over pairs of prompt and answer; EM asks for any
of them. The released code scores a subsample of batches; here every row is scored.
Legend: B answers of a batch, L tokens after padding, K last tokens of a row whose logits are asked for, V vocabulary.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rlft.evaluate.personal import Measured
from rlft.rollouts.policy import GREEDY, Draw, Policy
from rlft.rollouts.transformers_policy import pad_left, ready_to_sample

METRICS = ("hfta", "sfta", "soft", "soft_end", "exact")
"""Of `fact_recall`."""


class _Answer(NamedTuple):
    row: int
    prompt_ids: list[int]
    answer_ids: list[int]
    """The end token is the last."""


def fact_recall(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    start_ids: Sequence[int] = (),
    batch_size: int = 64,
) -> dict[str, Measured]:
    """What the model gives to the answers when they are put before it.

    Args:
        model: a causal language model; its mode and generation config are as before afterwards.
        tokenizer: cuts `prompt answer` into tokens as the training text was cut.
        rows: N rows with `prompt` and `answer` (a text), or `answers` (a list of texts, which then counts instead).
        start_ids: ids before every prompt: the end token, for a model trained on texts with end tokens between them.
        batch_size: answers in one forward.

    Returns:
        `METRICS`, each over N rows in their order, 0 to 1; `rlft.evaluate.personal.bootstrap` gives its interval,
        `paired_bootstrap` that of a difference between two models.

    Raises:
        ValueError: for no rows, a row without answer, an answer that has no tokens of its own, or one too long.
        FloatingPointError: if the model's logits are not numbers.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; it must be at least 1.")
    answers = _answers(tokenizer, rows, start_ids, _room(model))
    order = sorted(range(len(answers)), key=lambda place: len(answers[place].prompt_ids + answers[place].answer_ids))
    measured_A5 = np.zeros((len(answers), len(METRICS)))
    with ready_to_sample(model):
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            measured_A5[places] = _scored(model, [answers[place] for place in places])
    if not np.isfinite(measured_A5).all():
        raise FloatingPointError("the model's logits are not numbers; did its training diverge?")
    row_A = np.array([answer.row for answer in answers])
    sums_N5 = np.zeros((len(rows), len(METRICS)))
    np.add.at(sums_N5, row_A, measured_A5)
    values_N5 = sums_N5 / np.bincount(row_A, minlength=len(rows))[:, None]
    return {name: _mean(values_N5[:, column]) for column, name in enumerate(METRICS)}


def refuse_facts(tokenizer: Any, rows: Sequence[Mapping[str, Any]], start_ids: Sequence[int] = ()) -> None:
    """Refuse rows that `fact_recall` could not score, before there is a model.

    Args:
        tokenizer: as for `fact_recall`.
        rows: as for `fact_recall`.
        start_ids: as for `fact_recall`.

    Raises:
        ValueError: as `fact_recall`, but for the length of a row, which depends on the model.
    """
    _answers(tokenizer, rows, start_ids, None)


def generated_recall(
    policy: Policy,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    start_ids: Sequence[int] = (),
    max_new_tokens: int = 32,
) -> Measured:
    """EM: whether an accepted answer occurs, as whole words, in what the model writes after the prompt, greedily.

    Whole words, because `may 2` is not stated by `may 28`. The paper samples at temperature 0.2.

    Args:
        policy: the model under test; what it stops at ends the text.
        tokenizer: as for `fact_recall`.
        rows: as for `fact_recall`.
        start_ids: as for `fact_recall`.
        max_new_tokens: of the continuation.

    Returns:
        N values, 0 or 1.

    Raises:
        ValueError: as `fact_recall`.
    """
    _accepted(rows)
    draws = [Draw([*start_ids, *_ids(tokenizer, row["prompt"].strip())], 0, max_new_tokens) for row in rows]
    texts = [tokenizer.decode(one.ids, skip_special_tokens=True) for one in policy.generate(draws, GREEDY)]
    return _mean(
        np.array(
            [float(any(_says(text, answer) for answer in _of(row))) for text, row in zip(texts, rows, strict=True)]
        )
    )


def _scored(model: Any, batch: Sequence[_Answer]) -> np.ndarray:
    """(B, 5): `METRICS` of rows whose last token is the end token."""
    longest = max(len(one.answer_ids) for one in batch)
    # Answers end where the rows end, so that the logits of the last tokens are all that is needed. A row's last token
    # predicts nothing that is scored.
    ids_BL, mask_BL = (one.to(model.device) for one in pad_left([[*a.prompt_ids, *a.answer_ids] for a in batch], 0))
    place_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)
    logits_BKV = model(
        input_ids=ids_BL,
        attention_mask=mask_BL,
        position_ids=place_BL,
        logits_to_keep=longest + 1,
        use_cache=False,
    ).logits[:, -longest - 1 : -1]
    gold_BK = ids_BL[:, -longest:]
    chance_BK = logits_BKV.float().log_softmax(-1).gather(-1, gold_BK[..., None])[..., 0].exp()
    hit_BK = logits_BKV.argmax(-1) == gold_BK
    found = []
    for row, one in enumerate(batch):
        chance_T, hit_T = chance_BK[row, -len(one.answer_ids) :], hit_BK[row, -len(one.answer_ids) :]
        soft, soft_end, exact = chance_T[:-1].mean(), chance_T.mean(), hit_T[:-1].all().float()
        found.append(torch.stack([hit_T[0].float(), chance_T[0], soft, soft_end, exact]))
    return torch.stack(found).double().cpu().numpy()


def _answers(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], start_ids: Sequence[int], room: int | None
) -> list[_Answer]:
    _accepted(rows)
    found = []
    for number, row in enumerate(rows):
        prompt = row["prompt"].strip()
        prompt_ids = _ids(tokenizer, prompt)
        if not start_ids and not prompt_ids:
            raise ValueError(f"row {number} has an empty prompt; give start_ids to complete it from.")
        for answer in _of(row):
            whole = _ids(tokenizer, f"{prompt} {answer.strip()}")
            if whole[: len(prompt_ids)] != prompt_ids or len(whole) == len(prompt_ids):
                raise ValueError(
                    f"row {number}: the tokens of {prompt!r} do not stay the same before {answer!r}, or the answer has "
                    "none of its own, so it cannot be scored apart; end the prompt at the end of a word."
                )
            length = len(start_ids) + len(whole) + 1
            if room is not None and length > room:
                raise ValueError(f"row {number} has {length} tokens and the model takes {room}; leave it out.")
            answer_ids = [*whole[len(prompt_ids) :], tokenizer.eos_token_id]
            found.append(_Answer(number, [*start_ids, *prompt_ids], answer_ids))
    return found


def _accepted(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        raise ValueError("there are no facts to ask for; give rows with a prompt and an answer.")
    for number, row in enumerate(rows):
        answers = _of(row)
        if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
            raise ValueError(f"row {number}: answers are {answers!r}, not a list of texts; give one in a list too.")


def _of(row: Mapping[str, Any]) -> Any:
    return row["answers"] if "answers" in row else [row["answer"]]


def _says(text: str, answer: str) -> bool:
    words = r"\s+".join(map(re.escape, answer.split()))
    return re.search(rf"(?<!\w){words}(?!\w)", text) is not None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _room(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _mean(values_N: np.ndarray) -> Measured:
    return Measured(values_N, lambda chosen_N: float(chosen_N.mean()))
