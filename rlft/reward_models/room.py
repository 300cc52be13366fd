"""Does a text fit in a reward model? Seen before one is loaded or trained, on a skeleton without weights."""

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rlft.reward_models.encode import ScorerText, Texts, TooLong, is_encoder
from rlft.reward_models.folder import ScorerError, check_tokenizer, read_scorer_folder
from rlft.reward_models.pair_file import Pair
from rlft.reward_models.scorer import check_model
from rlft.reward_models.spec import ScorerSpec
from rlft.reward_models.users import Item


def scorer_text(config: Any, tokenizer: Any, spec: ScorerSpec) -> ScorerText:
    """How a backbone will read.

    Args:
        config: its configuration.
        tokenizer: its tokenizer, of which a copy is used.
        spec: templates and lengths.

    Raises:
        ScorerError: if no reward model can be made of it, as `train_scorer` would find.
        ValueError: if transformers has no sequence-classification model of this kind.
    """
    config, tokenizer = copy.deepcopy(config), copy.deepcopy(tokenizer)
    config.num_labels = 1
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    with torch.device("meta"):
        skeleton = AutoModelForSequenceClassification.from_config(config)
    check_model(skeleton, tokenizer, spec)
    return ScorerText(tokenizer, spec, is_encoder(skeleton, tokenizer))


def backbone_text(
    name: str, spec: ScorerSpec, *, config: Any = None, tokenizer: Any = None, **options: Any
) -> ScorerText:
    """How a backbone by name will read.

    Args:
        name: folder or Hub id.
        spec: templates and lengths.
        config, tokenizer: its own; None loads them.
        **options: of loading, such as the revision.

    Raises:
        ValueError: if it is not there, or no reward model can be made of it.
    """
    try:
        config = AutoConfig.from_pretrained(name, **options) if config is None else config
        tokenizer = AutoTokenizer.from_pretrained(name, **options) if tokenizer is None else tokenizer
        return scorer_text(config, tokenizer, spec)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no reward model can be made of {name!r}: {_first_line(error)}. Give another --scorer_model (a folder or "
            "Hub id), or see --scorer_max_length."
        ) from error


def folder_text(folder: Path, task: str) -> ScorerText:
    """How a reward model that is there reads.

    Args:
        folder: that `save_scorer` wrote.
        task: that is to be scored.

    Raises:
        ScorerError: if the folder is incomplete, or of another task or tokenizer.
    """
    found = read_scorer_folder(folder, task)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise ScorerError(
            f"{folder}: the reward model's tokenizer cannot be read ({_first_line(error)}); put its own files back, or "
            "train the reward model again."
        ) from error
    check_tokenizer(found, tokenizer)
    return scorer_text(AutoConfig.from_pretrained(found.adapter_base or str(folder)), tokenizer, found.spec)


def misfits(
    text: ScorerText, queries: Sequence[str], profiles: Sequence[Sequence[Item]], answers: Sequence[str]
) -> list[str | None]:
    """Why answers cannot be read: `too_long` with their question, or `no_tokens` of their own; None if they can.

    Args:
        text: how the reward model reads.
        queries, profiles, answers: B each.
    """
    texts = text.all_texts(queries, profiles, answers)
    text.tokenize(one for three in texts for one in three)
    return [_misfit(text, three) for three in texts]


def pairs_with_room(text: ScorerText, pairs: Sequence[Pair]) -> tuple[list[Pair], dict[str, int]]:
    """Pairs all of whose answers can be read, and how many others there are, by reason."""
    answers = [(pair, answer) for pair in pairs for answer in (pair.chosen, *pair.rejected)]
    queries, profiles = [pair.query for pair, _ in answers], [pair.profile for pair, _ in answers]
    found = iter(misfits(text, queries, profiles, [answer for _, answer in answers]))
    flaws = [[next(found) for _ in (pair.chosen, *pair.rejected)] for pair in pairs]
    kept = [pair for pair, of_pair in zip(pairs, flaws, strict=True) if not any(of_pair)]
    left_out = Counter(next(filter(None, of_pair)) for of_pair in flaws if any(of_pair))
    return kept, {reason: left_out[reason] for reason in ("too_long", "no_tokens")}


def _misfit(text: ScorerText, three: Texts) -> str | None:
    try:
        text.encode(three)
    except TooLong:
        return "too_long"
    except ScorerError:
        return "no_tokens"
    return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip(" :.")
