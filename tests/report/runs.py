"""Run folders of every method, made by the writers that the trainers use, and what a page carries."""

import gzip
import json
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from rlft.record import JsonLines, RolloutLog, RolloutRow, record_dir
from rlft.record.folder import write_whole
from rlft.record.jsonl import json_lines, to_json
from rlft.record.provenance import save_provenance
from rlft.rollouts.store import write_shard
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory
from tests.record.test_rollouts import ROW

WORDS = ["end", "ask", "find", "passage", "answer", "paris", "wrong"]


def save_tokenizer(folder: Path) -> None:
    """Ids are places in `WORDS`, joined by blanks."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="end")).save(str(folder / "tokenizer.json"))


def rollout(weights: Sequence[float] = (0.5, 1.0, 2.0), reward: float | None = 1.0, **fields: Any) -> RolloutRow:
    fields = {"advantage": 0.0 if reward is None else reward - 0.5, "rewards": {"exact": reward}} | fields
    ids = [place % len(WORDS) for place in range(len(weights))]
    return replace(ROW, token_ids=ids, credit=list(weights), reward=reward, **fields)


def write_record(folder: Path, rows: Sequence[RolloutRow], config: str = "training:\n  credit: shear\n") -> Path:
    log = RolloutLog(record_dir(folder), 0)
    for step in sorted({row.step for row in rows}):
        log.append([row for row in rows if row.step == step])
    (folder / "config.yaml").write_text(config)
    save_tokenizer(folder)
    return folder


def write_rounds(folder: Path) -> Path:
    """Two questions of EXSEARCH, of which the second was dropped, and a held-out one."""
    metrics = JsonLines(record_dir(folder) / "metrics.jsonl")
    for number in (0, 1):
        home = folder / f"round-{number}"
        save_tokenizer(home)
        write_whole(home / "dev.json", to_json({"greedy_em": 0.25 + number / 2, "sampled_em": 0.1}))
        write_whole(home / "test-0.json", to_json({"greedy_em": 0.5 * number, "greedy_hops": 2.0}))
    for step in (1, 2):
        metrics.append({"round": 1, "step": step, "loss": 1.0 / step})
    searched = Trajectory(
        prompt_ids=[1, 5],
        segments=[Segment([2, 5], True, "act"), Segment([3, 5], False, "search"), Segment([4, 0], True, "act")],
        finish=FinishReason.STOP,
        fields={"id": "q1", "answer": "paris"},
        branches=[Trajectory([1], [Segment([6], True, "choice")], FinishReason.STOP)],
    )
    keys = [{"id": name, "sample": sample} for name in ("q1", "q2") for sample in (0, 1)]
    write_shard(home / "trajectories-00000.jsonl.gz", [(key, searched) for key in keys])
    write_shard(home / "dev-greedy-00000.jsonl.gz", [({"id": "q3", "sample": 0}, searched)])
    weighed = {"id": "q1", "scores_K": [-1.0, None], "weights_K": [1.0, 0.0], "dropped": None, "ess": 1.0}
    dropped = {"id": "q2", "scores_K": [-9.0, -9.0], "weights_K": None, "dropped": "all_wrong", "ess": None}
    write_whole(home / "weights.jsonl", json_lines([weighed, dropped]))
    counts = {"questions": 2.0, "kept": 1.0, "dropped/all_wrong": 1.0, "dropped/unscored": 0.0, "ess_ratio": 0.5}
    write_whole(home / "weights.json", to_json(counts | {"unscored": 1.0}))
    write_whole(home / "rows.json", to_json({"selector_rows": 7, "generator_rows": 9}))
    write_whole(folder / "round-0" / "left-out-train.json", to_json({"questions": 12, "no answer in any candidate": 5}))
    (folder / "config.yaml").write_text("training:\n  num_rounds: 3\n  num_generations: 2\n  candidates: 20\n")
    save_provenance(folder, bases={}, rows={}, left_out={"train: question is held out": 3})
    return folder


def write_arms(folder: Path) -> Path:
    """Two arms of STOC: one without replay, one whose filter took an item out."""
    (folder / "none" / "replay").mkdir(parents=True)
    told = "{alpha: 0.5, per_device_train_batch_size: 3, gradient_accumulation_steps: 4, max_length: 64}"
    (folder / "config.yaml").write_text(f"recipe:\n  arms: [none, self]\n  recall: hfta\ntraining:\n  self: {told}\n")
    for arm in ("none", "self"):
        log = JsonLines(record_dir(folder / arm) / "metrics.jsonl")
        log.append({"step": 0, "probe/old/hfta": 0.75})
        log.append({"step": 2, "loss": 1.5, "probe/old/hfta": 0.5})
        save_tokenizer(folder / arm)
    replay = folder / "self" / "replay"
    replay.mkdir()
    written = [{"id": f"s/{n}", "seed_id": "s", "ids": [1, 2, n], "seed_tokens": 1, "logprob": -0.5} for n in (3, 6)]
    new = {"id": "new", "ids": [1, 4, 0], "labels": [-100, 4, 0], "source": "new"}
    _packed(replay / "written-00000.jsonl.gz", written)
    _packed(replay / "mix.jsonl.gz", [new, written[0] | {"source": "replay"}])
    found = {"written": 2, "kept": 1, "dropped": {"repetition": 1, "empty": 0}, "reasons": {"s/6": "repetition"}}
    write_whole(replay / "filter.json", to_json(found))
    mixed = {"alpha": 0.5, "new_items": 1, "new_tokens": 1234, "replay_items": 1, "replay_tokens": 1230}
    write_whole(replay / "mix.json", to_json(mixed))
    return folder


def _packed(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress(json_lines(rows).encode()))


def carried(document: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The index of a page's rollouts, and its groups with `where` and `name`."""
    found = re.findall(r'<script type="text/plain" class="(index|block)">([\w+/=]*)</script>', document)
    index, *blocks = [json.loads(gzip.decompress(b64decode(content))) for _, content in found]
    groups = [group for block in blocks for group in block]
    places = [{"where": index["where"][entry[0]], "name": entry[1]} for entry in index["groups"]]
    return index, [place | group for place, group in zip(places, groups, strict=True)]


def roles_and_texts(index: dict[str, Any], parts: Sequence[Any]) -> list[tuple[str, str]]:
    return [(index["roles"][role], "".join(texts)) for role, _label, texts, *_ in parts]
