"""Rollouts of GRPO's record, and what PrLM wrote for its held-out users."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlft.record.jsonl import read_jsonl
from rlft.record.rollouts import RolloutRow
from rlft.record.token_texts import Reader
from rlft.report.item import ENVIRONMENT, MASKED, PROMPT, TRAINED, Item, ItemGroup, Part, plain, runs_of_roles

_ROLES = {"t": TRAINED, "e": ENVIRONMENT, "m": MASKED}
HELD_OUT = {"before": "held_out_before.jsonl", "after": "held_out_after.jsonl"}


def item_group(rows: Sequence[RolloutRow], read: Reader | None, threshold: float) -> ItemGroup:
    """A group of GRPO.

    Args:
        rows: its G rollouts.
        read: from ids to token texts; None where no tokenizer is known: completions are then shown as text.
        threshold: a rollout with this reward or more is correct.
    """
    first = rows[0]
    items = [_item(row, read, None if row.reward is None else row.reward >= threshold) for row in rows]
    return ItemGroup(f"step {first.step}", f"group {first.group}", [plain(PROMPT, first.prompt)], items)


def held_out_groups(record: Path) -> Iterator[ItemGroup]:
    """Answers to held-out prompts, before training beside after it; nothing where they were not kept.

    Args:
        record: the run's `record` folder.
    """
    found: dict[tuple[Any, ...], list[tuple[str, dict[str, Any]]]] = {}
    for when, name in HELD_OUT.items():
        for row in read_jsonl(record / name) if (record / name).is_file() else []:
            found.setdefault((row["retriever"], row["k"], row["id"]), []).append((when, row))
    for (retriever, k, name), answers in found.items():
        prompt = [plain(PROMPT, _text(answers[0][1]["prompt"]))]
        items = [Item([("", f"{when} training")], [plain(MASKED, _text(row["completion"]))]) for when, row in answers]
        yield ItemGroup(f"held out: {retriever}, k={k}", str(name), prompt, items)


def _item(row: RolloutRow, read: Reader | None, outcome: bool | None) -> Item:
    facts = [("reward", _number(row.reward))]
    if len(row.rewards) > 1:
        facts += [(name, _number(value)) for name, value in row.rewards.items()]
    facts.append(("advantage", f"{row.advantage:+.3g}"))
    trained = [weight for weight, role in zip(row.credit, _roles(row), strict=True) if role == TRAINED]
    if any(weight != 1 for weight in trained):
        facts.append(("mean weight", _number(sum(trained) / len(trained))))
    facts.append(("", f"{len(row.token_ids)} tokens{', cut at the length limit' if row.finish == 'length' else ''}"))
    return Item(facts, _parts(row, read), outcome)


def _parts(row: RolloutRow, read: Reader | None) -> list[Part]:
    if read is None:
        return [plain(TRAINED, row.completion)]
    weights = row.credit if any(weight != 1 for weight in row.credit) else None
    return runs_of_roles(read(row.token_ids), weights, _roles(row))


def _roles(row: RolloutRow) -> list[str]:
    """Roles of the tokens; in a record that does not say, a weight of 0 stands for a token that is not trained on."""
    if row.roles:
        return [_ROLES[role] for role in row.roles]
    return [TRAINED if weight else MASKED for weight in row.credit]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _text(messages: Any) -> str:
    """A text, or the texts of a conversation."""
    if isinstance(messages, str):
        return messages
    turns: Iterable[Any] = messages
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
