"""Rows that filters and mixing take: token ids with a name, written by the model or kept from old data.

An item is a plain dict, so that it is a line of JSON: `{id, seed_id, ids, text, seed_tokens, logprob, gen}`. Only `id`
and `ids` are always needed; rows of real text have no more. `seed_tokens` says how many of `ids` were the prompt and
`logprob` is the mean log-probability of the others, in nats.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Item = Mapping[str, Any]


def refuse_items(items: Sequence[Item], what: str) -> None:
    """Refuse rows that cannot be told apart or counted.

    Args:
        items: the rows.
        what: what they are, for the message.

    Raises:
        ValueError: for a row without an `id` string or an `ids` list, with more prompt tokens than tokens, and for an
            id that comes twice.
    """
    known = set()
    for place, item in enumerate(items):
        if not isinstance(item.get("id"), str) or not isinstance(item.get("ids"), list | tuple):
            raise ValueError(f"{what}, row {place}: needs `id`, a string, and `ids`, a list; it has {sorted(item)}.")
        if item["id"] in known:
            raise ValueError(f"{what}: id {item['id']!r} comes twice, so the same text may; give each row its own id.")
        if not 0 <= item.get("seed_tokens", 0) <= len(item["ids"]):
            raise ValueError(
                f"{what}, {item['id']!r}: seed_tokens={item['seed_tokens']} of {len(item['ids'])} ids; it counts "
                "those of the prompt."
            )
        known.add(item["id"])


def generated_ids(item: Item) -> Sequence[int]:
    """The ids after the prompt; all of them where the item has none."""
    return item["ids"][item.get("seed_tokens", 0) :]
