"""rollouts-*.jsonl.gz: what is written comes back, whatever moment the writer dies at."""

import gzip
import json
import math
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlft.record import RolloutLog, RolloutRow, read_rollouts
from tests import scripts

ROW = RolloutRow(
    step=3,
    policy_step=3,
    group=1,
    prompt="1+1=",
    completion="NaN",  # text is never taken for a number
    token_ids=[5, 6, 7],
    rewards={"exact_match": 1.0, "format": None},
    reward=1.0,
    advantage=-0.5,
    credit=[1.25, 0.5, 2.0],
    finish="stop",
)
BATCH_ROWS = 3


def batch(number: int) -> list[RolloutRow]:
    """Batch `number`, its text hard to compress, so that it spans several pages of the file."""
    noise = random.Random(number)
    text = "".join(chr(noise.randrange(32, 0x2FFF)) for _ in range(3000))
    return [replace(ROW, step=number, group=group, prompt=text) for group in range(BATCH_ROWS)]


def steps(folder: Path) -> list[int]:
    return [row.step for row in read_rollouts(folder)]


def test_rows_of_all_ranks_come_back(tmp_path: Path) -> None:
    RolloutLog(tmp_path, rank=1).append([replace(ROW, step=8)])
    log = RolloutLog(tmp_path, rank=0)
    log.append([ROW, replace(ROW, finish="length", reward=None)])
    log.append([])
    log.append([replace(ROW, prompt='"\n\u2028\ud800', token_ids=[], credit=[])])
    rows = list(read_rollouts(tmp_path))
    assert rows == [
        ROW,
        replace(ROW, finish="length", reward=None),
        replace(ROW, prompt='"\n\u2028\ud800', token_ids=[], credit=[]),
        replace(ROW, step=8),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "rollouts-00000.jsonl.gz",
        "rollouts-00001.jsonl.gz",
    ]


def test_the_file_is_plain_gzip_of_strict_json(tmp_path: Path) -> None:
    log = RolloutLog(tmp_path, rank=0)
    log.append([replace(ROW, advantage=math.nan, credit=[math.inf, 1 / 3, 123456.789])])
    log.append([ROW])
    with gzip.open(log.path, "rt") as file:
        first, second = (json.loads(line, parse_constant=pytest.fail) for line in file)
    assert first["advantage"] == "NaN"
    assert first["credit"] == ["Infinity", 0.33333, 123460.0]
    assert list(second) == list(RolloutRow.__slots__)
    read, _ = read_rollouts(tmp_path)
    assert math.isnan(read.advantage)
    assert read.credit == [math.inf, 0.33333, 123460.0]


def test_truncation_at_every_byte_loses_no_complete_batch(tmp_path: Path) -> None:
    log = RolloutLog(tmp_path, rank=0)
    log.append([ROW])
    log.append([replace(ROW, step=4)])
    kept = log.path.stat().st_size
    log.append([replace(ROW, step=5)] * 2)
    whole = log.path.read_bytes()
    for size in range(kept, len(whole)):
        log.path.write_bytes(whole[:size])
        assert steps(tmp_path) == [3, 4]
        RolloutLog(tmp_path, rank=0).append([replace(ROW, step=6)])
        assert steps(tmp_path) == [3, 4, 6]
    log.path.write_bytes(whole)
    RolloutLog(tmp_path, rank=0)
    assert log.path.read_bytes() == whole


def test_a_torn_rank_does_not_hide_the_others(tmp_path: Path) -> None:
    for rank in range(2):
        log = RolloutLog(tmp_path, rank)
        log.append([replace(ROW, step=10 * rank)])
        log.append([replace(ROW, step=10 * rank + 1)])
        log.path.write_bytes(log.path.read_bytes()[:-1])
    assert steps(tmp_path) == [0, 10]


WRITER = """
import sys
from tests.record.test_rollouts import batch
from rlft.record import RolloutLog
log = RolloutLog(sys.argv[1], rank=0)
number = int(sys.argv[2])
while True:
    log.append(batch(number))
    print(number, flush=True)
    number += 1
"""


def test_a_killed_writer_loses_no_batch_that_it_finished(tmp_path: Path) -> None:
    """SIGKILL at random moments, again and again on one file; read meanwhile, while it is being written."""
    script, said, record = tmp_path / "writer.py", tmp_path / "said", tmp_path / "record"
    script.write_text(WRITER)
    record.mkdir()
    noise = random.Random(0)
    done = 0
    for _ in range(12):
        said.unlink(missing_ok=True)
        (writer,) = scripts.begin(script, str(record), str(done), out=said)
        while not (said.exists() and said.stat().st_size) and writer.is_alive():
            time.sleep(0.001)
        time.sleep(noise.uniform(0, 0.03))
        live = steps(record)
        writer.kill()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        finished = [int(line) for line in said.read_text().splitlines(keepends=True) if line.endswith("\n")]
        rows = list(read_rollouts(record))
        count = len(rows) // BATCH_ROWS
        acknowledged = finished[-1] + 1 if finished else done + 1
        assert acknowledged <= count <= acknowledged + 1
        assert rows == [row for number in range(count) for row in batch(number)]
        assert [row.step for row in rows][: len(live)] == live
        done = count


def test_damage_that_no_kill_makes_is_reported_not_cut_off(tmp_path: Path) -> None:
    log = RolloutLog(tmp_path, rank=0)
    log.append([ROW])
    good = log.path.stat().st_size
    log.append([ROW])
    log.append([ROW])
    data = bytearray(log.path.read_bytes())
    data[good + 30] ^= 0xFF
    log.path.write_bytes(data)
    with pytest.raises(ValueError, match=f"byte {good} is damaged"):
        steps(tmp_path)
    with pytest.raises(ValueError, match=f"truncate -s {good}"):
        RolloutLog(tmp_path, rank=0)
    assert log.path.read_bytes() == data


def test_credit_must_fit_the_tokens() -> None:
    with pytest.raises(ValueError, match="2 credit weights for 3 completion tokens"):
        replace(ROW, credit=[1.0, 1.0])


def test_a_missing_folder_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    assert steps(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="record"):
        steps(tmp_path / "recrod")
