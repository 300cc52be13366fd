"""The monitor of EM rounds: what it writes, says again on a resume, and stops; the replay's figures of STOC."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlft.em.stages import Round
from rlft.record.jsonl import JsonLines, read_jsonl
from rlft.trainers.health import ALARMS, HealthError
from rlft.trainers.round_health import RoundHealth
from rlft.trainers.stoc_figures import replay_figures

OF_STEP = {"round": 1, "step": 3, "rule": "zero_gradient", "message": "m", "value": 1.0, "over": False}


def health(folder: Path, **changes: Any) -> RoundHealth:
    settings = {"on_alarm": "warn", "num_generations": 8, "weighting": "likelihood", "greater_is_better": None}
    return RoundHealth(folder, SimpleNamespace(**(settings | {"metric_for_best_model": "greedy_em"} | changes)))


def judged(folder: Path, kept: int, **changes: Any) -> list[dict[str, Any]]:
    """Alarms on the disk after rounds 0 and 1, of which the second kept so many of 64 questions."""
    watched = health(folder, **changes)
    for number in (0, 1):
        current = Round(folder, number)
        if number:
            figures = {"questions": 64.0, "kept": float(kept), "ess_histogram": [1, 2]}
            (current.folder / "weights.json").write_text(json.dumps(figures))
        watched.see(current, {"greedy_em": 0.9 - 0.5 * number, "round": number}, 64)
    return read_jsonl(folder / "record" / ALARMS)


def test_alarms_of_rounds_stand_beside_those_of_steps_and_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "record").mkdir()
    JsonLines(tmp_path / "record" / ALARMS).append(OF_STEP)
    with caplog.at_level(logging.WARNING):
        first = judged(tmp_path, kept=1)
    assert first[0] == OF_STEP
    assert [(line["round"], line["step"], line["rule"]) for line in first[1:]] == [
        (1, 0, "dropped_questions"),
        (1, 0, "worse_round"),
    ]
    assert "HEALTH ALARM at round 1, dropped_questions: 63 of 64 questions" in caplog.text
    caplog.clear()
    assert judged(tmp_path, kept=1) == first, "a run that goes on comes by its rounds again"
    assert not caplog.text
    assert [line["rule"] for line in judged(tmp_path, kept=64)] == ["zero_gradient", "worse_round"], "done anew, better"


def test_a_run_that_is_to_stop_ends_with_the_round_and_goes_on_after_it(tmp_path: Path) -> None:
    with pytest.raises(
        HealthError, match=r"round 1, dropped_questions: .* Figures: weights\.json and dev\.json in "
    ) as end:
        judged(tmp_path, kept=1, on_alarm="stop")
    assert "--resume_from_checkpoint true --on_alarm warn goes on" in end.value.what_now(tmp_path)
    assert len(judged(tmp_path, kept=1, on_alarm="stop")) == 2


def test_the_number_of_a_round_as_its_metric_never_falls(tmp_path: Path) -> None:
    assert [line["rule"] for line in judged(tmp_path, kept=1, metric_for_best_model="round")] == ["dropped_questions"]


def test_figures_of_replay(tmp_path: Path) -> None:
    (tmp_path / "mix.json").write_text(json.dumps({"replay_items": 40, "repeats": 10}))
    assert replay_figures(tmp_path) == {"replay/repeats": 0.25}, "real replay: nothing was written"
    found = {"written": 50, "kept": 35, "dropped": {"empty": 2, "repetition": 8, "new_subject": 5}}
    (tmp_path / "filter.json").write_text(json.dumps(found))
    assert replay_figures(tmp_path) == {"replay/degenerate": 0.2, "replay/repeats": 0.25}, "near-duplicates are kept"
    (tmp_path / "mix.json").write_text(json.dumps({"replay_items": 0, "repeats": 0}))
    (tmp_path / "filter.json").unlink()
    assert replay_figures(tmp_path) == {}, "no replay"
