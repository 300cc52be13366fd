"""A model's states on labelled rows, one forward a rollout, and the diagnosis of them.

Shapes: B rollouts of one batch; S positions of prompt and completion; T completion tokens; H hidden width; V tokens of
the vocabulary.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.credit.answer import answer_start
from rlft.credit.diagnose.group import LabelledGroup
from rlft.credit.diagnose.rows import LabelledText, read_labelled
from rlft.credit.diagnose.scores import Diagnosis, diagnose, refuse_settings
from rlft.credit.hidden import HiddenTap
from rlft.data.prompts import DataError
from rlft.saved import SAFETENSORS, refuse_pickles

_ENTROPY_TOKENS = 256  # at once: the whole (T, V) in fp32 would be the largest tensor of all


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """A completion as tokens."""

    text: LabelledText
    prompt_ids: list[int]
    ids: list[int]
    """Up to the final answer, if that is left out."""
    error: int | None


def diagnose_model(
    model: str | Path,
    rows: str | Path,
    *,
    batch_size: int = 4,
    hidden: str = "post_norm",
    answer_marker: str | None = None,
    device: str | None = None,
    window: int = 100,
    stride: int = 25,
    distance: str = "wasserstein",
    bins: int = 4,
    permutations: int = 100,
    resamples: int = 500,
    seed: int = 0,
) -> Diagnosis:
    """Read rows, compute a model's states on them, and diagnose SHEAR's scores.

    Args:
        model: a folder with model and tokenizer, or with an adapter.
        rows: JSON Lines as `rlft.credit.diagnose.rows` describes.
        batch_size: rollouts in a forward.
        hidden: `post_norm`, what the LM head reads, or `pre_norm`.
        answer_marker: leave out the tokens behind the last of these, such as `</think>`; an error there is no label.
        device: `cpu`, `cuda`; the GPU if there is one.
        window, stride, distance, bins, permutations, resamples, seed: as in `rlft.credit.diagnose.diagnose`.

    Returns:
        The figures; `groups` counts prompts of one outcome too, whose states are not computed.

    Raises:
        rlft.data.prompts.DataError: if a row breaks a rule, is too long for the model, or its states are not finite.
        ValueError: if the folder holds no model, or as `diagnose`.
    """
    if not Path(model).is_dir():
        raise ValueError(f"there is no folder {str(model)!r}; name one with a model, or with an adapter.")
    if answer_marker == "":
        raise ValueError("answer_marker is empty; give the text that answers stand behind, or leave it out.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1 is needed.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device!r}: {error}") from error
    settings: dict[str, Any] = {"window": window, "stride": stride, "distance": distance}
    settings |= {"bins": bins, "permutations": permutations, "resamples": resamples}
    refuse_settings(**settings)
    groups = read_labelled(rows)
    mixed = [group for group in groups if len({one.correct for one in group}) == 2]
    if answer_marker is not None and not any(answer_marker in one.completion for group in mixed for one in group):
        raise ValueError(f"answer_marker={answer_marker!r} stands in no completion of a group with both outcomes.")
    tokenizer = _loaded(AutoTokenizer, model)
    encoded = [[_encoded(one, tokenizer, answer_marker) for one in group] for group in mixed]
    loaded = _loaded(AutoModelForCausalLM, model, dtype="auto", **SAFETENSORS)
    loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    found = diagnose(labelled_groups(loaded, encoded, batch_size=batch_size, hidden=hidden), **settings, seed=seed)
    return dataclasses.replace(found, counts=found.counts | {"groups": len(groups)})


def labelled_groups(
    model: Any, groups: Sequence[Sequence[_Encoded]], *, batch_size: int, hidden: str
) -> Iterator[LabelledGroup]:
    """States and entropies of groups, one group in memory at a time, with a progress bar.

    Args:
        model: a causal language model in evaluation mode.
        groups: encoded completions.
        batch_size: rollouts in a forward.
        hidden: `post_norm` or `pre_norm`.

    Yields:
        The groups, named by their place in the file.

    Raises:
        rlft.data.prompts.DataError: if a row is too long for the model, or its states are not finite.
    """
    _refuse_long(model, groups)
    tap = HiddenTap(model, hidden)
    with tqdm(total=sum(map(len, groups)), desc="states", unit="rollout") as bar:
        for number, group in enumerate(groups):
            states: list[tuple[Tensor, Tensor]] = []
            for start in range(0, len(group), batch_size):
                batch = group[start : start + batch_size]
                states += _forward(model, tap, batch)
                bar.update(len(batch))
            yield LabelledGroup(
                name=f"{number}: {group[0].text.place}",
                hidden=[states_TH for states_TH, _ in states],
                token_ids=[one.ids for one in group],
                correct=[one.text.correct for one in group],
                first_error=[one.error for one in group],
                entropy=[entropy_T.tolist() for _, entropy_T in states],
            )


def _loaded(kind: Any, folder: str | Path, **options: Any) -> Any:
    try:
        refuse_pickles(folder)
        return kind.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(folder)!r} holds no model with its tokenizer: {error}") from error


def _encoded(text: LabelledText, tokenizer: Any, answer_marker: str | None) -> _Encoded:
    if isinstance(text.prompt, str):
        prompt_ids = tokenizer(text.prompt)["input_ids"]
    else:
        rendered = tokenizer.apply_chat_template(text.prompt, tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    labelled = text.error_at is not None
    if labelled and not tokenizer.is_fast:
        raise DataError(
            f"{text.place}: this model's tokenizer does not tell which characters a token has; labels need it."
        )
    found = tokenizer(text.completion, add_special_tokens=False, return_offsets_mapping=labelled)
    ids = list(found["input_ids"])
    error = None
    if text.error_at is not None:
        error = next((t for t, (_, end) in enumerate(found["offset_mapping"]) if end > text.error_at), None)
    kept = len(ids) if answer_marker is None else answer_start(ids, tokenizer, answer_marker)
    return _Encoded(text, list(prompt_ids), ids[:kept], error if error is not None and error < kept else None)


def _refuse_long(model: Any, groups: Sequence[Sequence[_Encoded]]) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    for one in (one for group in groups for one in group):
        length = len(one.prompt_ids) + len(one.ids)
        if most is not None and length > most:
            raise DataError(f"{one.text.place}: {length} tokens, more than the model's {most}; leave the row out.")
        if not one.prompt_ids:
            raise DataError(f"{one.text.place}: the prompt has no tokens.")


@torch.no_grad()
def _forward(model: Any, tap: HiddenTap, batch: Sequence[_Encoded]) -> list[tuple[Tensor, Tensor]]:
    """States (T, H) and entropies (T,) of each completion; padded on the right, which no token before it sees."""
    lengths = [len(one.prompt_ids) + len(one.ids) for one in batch]
    ids_BS = torch.zeros(len(batch), max(lengths), dtype=torch.long)
    mask_BS = torch.zeros_like(ids_BS)
    for row, (one, length) in enumerate(zip(batch, lengths, strict=True)):
        ids_BS[row, :length] = torch.tensor(one.prompt_ids + one.ids)
        mask_BS[row, :length] = 1
    with tap.capture(max(lengths)) as chunks:
        output = model(input_ids=ids_BS.to(model.device), attention_mask=mask_BS.to(model.device), use_cache=False)
    found = []
    for row, (one, length) in enumerate(zip(batch, lengths, strict=True)):
        start = len(one.prompt_ids)
        states_TH = chunks[0][row, start:length].float().cpu()
        entropy_T = _entropies(output.logits[row, start - 1 : length - 1])
        finite_T = torch.isfinite(states_TH).all(1) & torch.isfinite(entropy_T)
        if not finite_T.all():
            token = int((~finite_T).nonzero()[0])
            raise DataError(
                f"{one.text.place}: the state or the entropy of token {token} is not finite; is the model damaged?"
            )
        found.append((states_TH, entropy_T))
    return found


def _entropies(logits_TV: Tensor) -> Tensor:
    chunks = [
        torch.distributions.Categorical(logits=part.float(), validate_args=False).entropy()
        for part in logits_TV.split(_ENTROPY_TOKENS)
    ]
    return torch.cat(chunks).cpu() if chunks else torch.zeros(0)
