"""Recorded groups: whole across processes, once each, the rows of the last training in the folder."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlft.record import RolloutLog, RolloutRow, record_dir
from rlft.record.groups import iter_groups, record_of, settings_of
from tests.record.test_rollouts import ROW


def row(step: int, group: int, completion: str = "a", prompt: str = "1+1=") -> RolloutRow:
    return replace(ROW, step=step, group=group, completion=completion, prompt=prompt)


def texts(run: Path) -> list[tuple[int, int, str]]:
    return [(rows[0].step, rows[0].group, "".join(row.completion for row in rows)) for rows in iter_groups(run)]


def test_groups_that_straddle_processes_are_joined_in_order_of_steps(tmp_path: Path) -> None:
    for rank, letters in enumerate("ab"):
        log = RolloutLog(record_dir(tmp_path), rank)
        for step in range(3):
            log.append([row(step, 2 * rank, letters), row(step, 1, letters), row(step, 1, letters.upper())])
    expected = [(step, group, text) for step in range(3) for group, text in ((0, "a"), (1, "aAbB"), (2, "b"))]
    assert texts(tmp_path) == expected
    assert texts(tmp_path / "record") == expected


def test_of_steps_that_a_later_training_repeats_the_later_rows_count(tmp_path: Path) -> None:
    log = RolloutLog(record_dir(tmp_path), 0)
    for step, text in ((0, "a"), (1, "b"), (2, "c"), (1, "B"), (2, "C"), (3, "d"), (3, "D")):
        log.append([row(step, 0, text), row(step, 0, text)])
    assert texts(tmp_path) == [(0, 0, "aa"), (1, 0, "BB"), (2, 0, "CC"), (3, 0, "DD")]


def test_two_batches_of_one_step_with_other_prompts_are_both_kept(tmp_path: Path) -> None:
    log = RolloutLog(record_dir(tmp_path), 0)
    log.append([row(0, 0, "a", "x")])
    log.append([row(0, 0, "b", "y")])
    assert texts(tmp_path) == [(0, 0, "a"), (0, 0, "b")]


def test_a_torn_last_batch_is_left_out(tmp_path: Path) -> None:
    log = RolloutLog(record_dir(tmp_path), 0)
    log.append([row(0, 0, "a")])
    log.append([row(1, 0, "b")])
    log.path.write_bytes(log.path.read_bytes()[:-5])
    assert texts(tmp_path) == [(0, 0, "a")]


def test_settings_lie_in_one_mapping_and_may_be_absent(tmp_path: Path) -> None:
    record_dir(tmp_path)
    assert settings_of(tmp_path) == {}
    (tmp_path / "config.yaml").write_text("recipe:\n  smoke: true\ntraining:\n  window: 8\nalone: 1\n")
    assert settings_of(tmp_path) == {"smoke": True, "window": 8, "alone": 1}


@pytest.mark.parametrize(("text", "said"), [("- 1\n", "holds a list"), ("a: [", "is not YAML")])
def test_a_damaged_configuration_is_refused(tmp_path: Path, text: str, said: str) -> None:
    record_dir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        settings_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [("training:\n  window: null\n", "window is None"), ("correct_threshold: many\n", "correct_threshold is 'many'")],
)
def test_a_setting_that_is_no_number_is_refused_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    record_dir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {said}, not a number")):
        settings_of(tmp_path)


def without_rewards(written: bytes) -> bytes:
    record = json.loads(written)
    del record["rewards"]
    return json.dumps(record, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (lambda _written: b"hello\n", "holds no rollouts but b'hello"),
        (without_rewards, "a row is no rollout (KeyError('rewards'))"),
        (lambda written: written[: len(written) // 2], "a row is no rollout (JSONDecodeError("),
        (lambda written: written.replace(b'"prompt"', b'"asked"'), "a row is no rollout (TypeError("),
    ],
)
def test_a_part_that_is_no_rollout_is_refused_with_its_file(
    tmp_path: Path, damaged: Callable[[bytes], bytes], said: str
) -> None:
    log = RolloutLog(record_dir(tmp_path), 0)
    log.append([row(0, 0)])
    good = log.path.read_bytes()
    log.path.write_bytes(good + gzip.compress(damaged(gzip.decompress(good))))
    with pytest.raises(ValueError, match=re.escape(f"{log.path}: ") + ".*" + re.escape(said)):
        list(iter_groups(tmp_path))


def test_folders_that_are_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no folder `record`"):
        record_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        record_of(tmp_path / "absent")
