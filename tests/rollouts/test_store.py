import gzip
import math
import random
from pathlib import Path
from typing import Any

import pytest

from rlft.rollouts import store
from rlft.rollouts.store import from_dict, read_shard, to_dict, write_shard
from rlft.rollouts.trajectory import FinishReason, Segment, Trajectory


def trajectory(seed: int, depth: int = 1) -> Trajectory:
    rng = random.Random(seed)
    ids = [rng.randrange(10**6) for _ in range(5)]
    logprobs = [math.log(rng.random()) for _ in ids]
    segments = [Segment(ids, True, "act", logprobs), Segment(ids[::-1], False, "search")]
    fields = {"id": f"q{seed}", "answer": 'é "quoted"\n\u2028', "facts": [None, [1.5]]}
    branches = [trajectory(seed + 1, depth - 1)] if depth else []
    return Trajectory([1, 2], segments, rng.choice(list(FinishReason)), fields, branches)


ITEMS: list[tuple[dict[str, Any], Trajectory]] = [
    ({"id": str(seed), "sample": 0}, trajectory(seed)) for seed in range(9)
]


def test_a_shard_reads_back_equal_to_the_last_bit(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard.jsonl.gz", ITEMS)
    assert read_shard(tmp_path / "shard.jsonl.gz") == ITEMS
    assert isinstance(read_shard(tmp_path / "shard.jsonl.gz")[0][1].finish, FinishReason)
    assert [file.name for file in tmp_path.iterdir()] == ["shard.jsonl.gz"]


def test_equal_items_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "one", ITEMS)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_shard(tmp_path / "two", iter(ITEMS))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", [])
    assert read_shard(tmp_path / "shard") == []


def test_a_writer_that_dies_leaves_the_old_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", ITEMS)

    def dying() -> Any:
        yield ITEMS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "shard", dying())
    assert read_shard(tmp_path / "shard") == ITEMS
    assert [file.name for file in tmp_path.iterdir()] == ["shard"]


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-20], lambda b: b"", lambda b: b"{}", lambda b: b[:40] + b"x" + b[41:]]
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "shard"
    write_shard(path, ITEMS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path}.*delete"):
        read_shard(path)


@pytest.mark.parametrize("line", [b"[1]", b'{"key": {}}', b'{"key": {}, "trajectory": {"prompt_ids": []}}', b"{"])
def test_a_line_that_is_no_trajectory_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "shard"
    path.write_bytes(gzip.compress(store._line(*ITEMS[0]) + line + b"\n"))
    with pytest.raises(ValueError, match="line 2"):
        read_shard(path)


def test_a_log_probability_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    broken = Trajectory([1], [Segment([2], True, "act", [math.nan])], FinishReason.STOP)
    with pytest.raises(ValueError, match="'id': 'q7'.*not finite"):
        write_shard(tmp_path / "shard", [({"id": "q7"}, broken)])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_finish_is_refused() -> None:
    with pytest.raises(ValueError, match="bored"):
        from_dict({**to_dict(trajectory(0)), "finish": "bored"})
