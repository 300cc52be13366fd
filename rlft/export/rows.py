"""Token ids that the models of a run have read: its prompts with what followed them. Imports no torch."""

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rlft.record.groups import iter_groups
from rlft.rollouts.store import read_shard
from rlft.run_folder import RunFolder

ROWS, TOKENS = 8, 256
_SHARDS = {"": "trajectories-*", "selector": "*lists-*", "generator": "*-answers-*"}
_TEXT = "A run that recorded no rollouts is compared on this sentence: 12 + 30 = 42, and nothing else follows."


def rows_of(run: RunFolder, role: str, tokenizer: Any) -> tuple[list[list[int]], str]:
    """Rows to compare models on.

    Args:
        run: the run.
        role: of the model: empty, selector or generator.
        tokenizer: the model's.

    Returns:
        At most `ROWS` rows of at most `TOKENS` ids, and what they are, in words.

    Raises:
        ValueError: if the run's record is damaged.
    """
    recorded = (ids[:TOKENS] for ids in _recorded(run, role or _role_of(run), tokenizer) if len(ids) > 1)
    if rows := list(islice(recorded, ROWS)):
        return rows, f"{len(rows)} texts of the run, prompts with what followed them"
    return [tokenizer(_TEXT)["input_ids"][:TOKENS]], "a fixed sentence, as the run recorded no rollouts"


def _role_of(run: RunFolder) -> str:
    """A role's folder that was named by itself has that role all the same."""
    return run.folder.name if run.folder.name in _SHARDS else ""


def _recorded(run: RunFolder, role: str, tokenizer: Any) -> Iterator[list[int]]:
    if run.method in ("shear", "prlm") and any(run.run.glob("record/rollouts-*")):
        for group in iter_groups(run.run):
            prompt_ids = tokenizer(group[0].prompt, add_special_tokens=False)["input_ids"]
            yield [*prompt_ids, *group[0].token_ids]
    elif run.method in ("exsearch", "dro"):
        for path in sorted(run.run.glob(f"round-*/{_SHARDS[role]}.jsonl.gz")):
            for _, trajectory in read_shard(path):
                yield [*trajectory.prompt_ids, *trajectory.completion_ids]
    elif (mix := run.folder / "replay" / "mix.jsonl.gz").is_file():
        with gzip.open(mix, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["ids"]
