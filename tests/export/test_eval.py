"""`rlft eval` of a run, of its exports and of its base; what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlft.cli import main

Make = Callable[..., Path]
REWARD = """
def letters(completions, **_):
    return [float(sum(map(ord, said)) % 7) for said in completions]


def hint(completions, hint, **_):
    return [0.0] * len(completions)
"""


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}+1=", "answer": f"{n + 1}"}) + "\n" for n in range(6)))
    (tmp_path / "mine.py").write_text(REWARD)
    return str(path)


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["eval", *arguments, "--json", "--device", "cpu", "--max_new_tokens", "6"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_and_its_exports_say_the_same(
    as_run: Make, adapter: Make, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = as_run(adapter())
    assert main(["export", str(run), "--device", "cpu"]) == 0
    capsys.readouterr()
    flags = ["--data", rows, "--metric", f"{tmp_path}/mine.py:letters", "answer_match", "--samples", "3"]
    found = [figures(capsys, str(place), *flags) for place in (run, run / "export/adapter", run / "export/merged")]
    values = [[list(entry["models"].values()) for entry in of_place] for of_place in found]
    assert values[0] == values[1] == values[2]
    assert [(entry["mode"], entry["metric"]) for entry in found[0]] == [
        (mode, metric) for mode in ("greedy", "sampled") for metric in ("letters", "answer_match")
    ]
    against = figures(capsys, str(run), *flags, "--against", str(run / "export/merged"))
    assert [entry["difference"]["value"] for entry in against] == [0.0] * 4
    base = figures(capsys, str(run), *flags, "--against", "base", "--out", str(tmp_path / "out"))
    assert any(entry["difference"]["value"] for entry in base)
    assert len((tmp_path / "out/rows.jsonl").read_text().splitlines()) == 6 * 2 * (1 + 3)


def test_a_run_is_asked_what_it_held_out_and_nothing_it_trained_on(
    as_run: Make, adapter: Make, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = as_run(adapter(), data={"dataset_name": rows}, recipe={"eval_rows": 2})
    figures(capsys, str(run), "--out", str(tmp_path / "out"))
    asked = [json.loads(line)["prompt"] for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert set(asked) == {"4+1=", "5+1="}  # the last rows, as there is no test split
    assert main(["eval", str(run), "--split", "train"]) == 1
    assert "--split says how --data is read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metric", "answer_match"], "give --data rows.jsonl"),
        (["--data", "{rows}"], "give --metric answer_match"),
        (["--data", "{rows}", "--metric", "anser_match"], "answer_match"),
        (["--data", "{rows}", "--metric", "{mine}:hint"], "requires 'hint'"),
        (["--data", "{rows}", "--metric", "answer_match", "--samples", "-1"], "samples=-1"),
        (["--data", "{rows}", "--metric", "answer_match", "--against", "base"], "is a whole model"),
        (["--data", "{rows}x.jsonl", "--metric", "answer_match"], "no such file"),
        (["--data", "{rows}", "--metric", "answer_match", "--prompt_column", "question"], "no column 'question'"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_a_line(
    flags: list[str], message: str, base: Path, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [flag.replace("{rows}", rows).replace("{mine}", f"{tmp_path}/mine.py") for flag in flags]
    assert main(["eval", str(base), *filled]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) < 10
