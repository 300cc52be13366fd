"""Rows of text as samples of token ids, the form that seeds, replay and mixing take."""

from collections.abc import Iterable, Mapping
from typing import Any

from rlft.replay.items import refuse_items
from rlft.stream import IGNORED

Sample = dict[str, Any]
MAX_UNKNOWN = 0.2
"""Share of tokens that may be unknown to the tokenizer."""
FORMS = "text, prompt and completion, or input_ids"


def samples_of(rows: Iterable[Mapping[str, Any]], tokenizer: Any, what: str) -> list[Sample]:
    """Tokenise rows.

    Args:
        rows: `{text}`, learnt as a whole; `{prompt, completion}`, of which the completion is learnt; or `{input_ids}`
            with `labels` or without. An `id` names a row, else its place does; `subject` says whom it is about.
        tokenizer: adds its own start token where it does so for a text.
        what: what the rows are, for messages.

    Returns:
        `{id, ids, labels, subject}`, the last two where the row has them; `ids` end with the end token.

    Raises:
        ValueError: for no rows, a row of another form, one without a token, an id that comes twice, and a text of
            which the tokenizer knows too little.
    """
    found = [_sample(row, place, tokenizer, what) for place, row in enumerate(rows)]
    if not found:
        raise ValueError(f"{what} has no rows.")
    refuse_items(found, what)
    _refuse_unknown_words(found, tokenizer, what)
    return found


def _refuse_unknown_words(samples: list[Sample], tokenizer: Any, what: str) -> None:
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        return
    shares = [sample["ids"].count(unknown) / len(sample["ids"]) for sample in samples]
    if sum(shares) / len(shares) > MAX_UNKNOWN:
        worst = samples[max(range(len(shares)), key=shares.__getitem__)]["id"]
        raise ValueError(
            f"{what}: {sum(shares) / len(shares):.0%} of the tokens are {tokenizer.unk_token!r}, words that the "
            f"tokenizer does not know, most of them in {worst!r}; take a model that can read this text."
        )


def _sample(row: Mapping[str, Any], place: int, tokenizer: Any, what: str) -> Sample:
    name = str(row["id"]) if row.get("id") is not None else str(place)
    if isinstance(row.get("text"), str):
        ids, labels = tokenizer(row["text"])["input_ids"], None
    elif isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        ids, labels = _completed(row["prompt"], row["completion"], tokenizer, f"{what}, {name!r}")
    elif row.get("input_ids") is not None and len(row["input_ids"]):
        ids, labels = _listed(row["input_ids"]), _listed(row.get("labels"))
    else:
        raise ValueError(f"{what}, {name!r} has columns {', '.join(sorted(row))}; a row is {FORMS}, and not empty.")
    if not set(ids) - set(tokenizer.all_special_ids):
        raise ValueError(f"{what}, {name!r} holds no token but special ones; leave it out.")
    if labels is not None and len(labels) != len(ids):
        raise ValueError(f"{what}, {name!r} has {len(ids)} input_ids and {len(labels)} labels.")
    if ids[-1] != tokenizer.eos_token_id:
        ids = [*ids, tokenizer.eos_token_id]
        labels = None if labels is None else [*labels, tokenizer.eos_token_id]
    sample = {"id": name, "ids": ids}
    if labels is not None:
        sample["labels"] = labels
    return sample | ({"subject": str(row["subject"])} if row.get("subject") else {})


def _listed(values: Any) -> Any:
    """A list, of an array or tensor too."""
    return values if values is None else [int(value) for value in values]


def _completed(prompt: str, completion: str, tokenizer: Any, where: str) -> tuple[list[int], list[int]]:
    end = {tokenizer.eos_token_id}
    before = [token for token in tokenizer(prompt)["input_ids"] if token not in end]
    ids = [token for token in tokenizer(prompt + completion)["input_ids"] if token not in end]
    if ids[: len(before)] != before or len(ids) == len(before):
        raise ValueError(
            f"{where}: the tokens of the prompt do not stay the same before its completion, or the completion has "
            "none; end the prompt at the end of a word and begin the completion with the blank."
        )
    return ids, [IGNORED] * len(before) + ids[len(before) :]
