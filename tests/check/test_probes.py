"""Rewards of known worth, and what the probes say of them."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from rlft.check.probes import ends_after, findings, probe, spellings
from rlft.cli import main
from rlft.rewards import RewardError

ROWS = [{"prompt": f"which is right, {n} or {n + 1}?", "answer": str(n)} for n in range(10, 18)]
CHATS = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]


def exact(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    return [float(text.strip() == gold) for text, gold in zip(completions, answer, strict=True)]


def within(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    return [float(gold in text) for text, gold in zip(completions, answer, strict=True)]


def polite(completions: list[str], **_: Any) -> list[float]:
    return [1.0 - float("rude" in text) for text in completions]


def sure(completions: list[str], **_: Any) -> list[float]:
    return [float("I am sure" in text) for text in completions]


def silent(completions: list[str], **_: Any) -> list[None]:
    return [None] * len(completions)


def brief(completions: list[str], **_: Any) -> list[float]:
    return [-float(len(text)) for text in completions]


async def boxed(completions: list[Any], answer: list[str], **_: Any) -> list[float | None]:
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [float(f"\\boxed{{{gold}}}" in text) for text, gold in zip(texts, answer, strict=True)]


def tried(*rewards: Any, rows: Any = ROWS, **options: Any) -> Any:
    return probe(rewards, rows, forms=spellings(), **options)


def test_a_reward_that_is_right_has_no_findings() -> None:
    probed = tried(exact)
    assert {name: probed.mean("exact", name) for name in probed.scores["exact"]} == {
        "gold": 1, "wrong": 0, "empty": 0, "prompt copy": 0, "repeated": 0, "gold, garbage": 0,
    }  # fmt: skip
    assert findings(probed) == ([], [])


def test_a_copied_prompt_that_pays_is_a_fault_and_garbage_a_warning() -> None:
    faults, warnings = findings(tried(within))
    assert faults == ["within: a copy of the prompt gets as much as the gold answer (1)."]
    assert [text.split(" gets")[0] for text in warnings] == [
        "within: the gold answer 8 times over",
        "within: the gold answer with garbage behind it",
    ]


def test_nothing_that_pays_more_than_the_answer_is_a_fault() -> None:
    faults, _ = findings(tried(brief))
    assert faults == ["brief: an empty completion gets 0, the gold answer -2."]


def test_a_reward_that_tells_nothing_apart_asks_for_its_form() -> None:
    faults, (warning,) = findings(tried(sure))
    assert faults == []
    assert "sure gives all probes 0" in warning
    assert "--gold" in warning


def test_a_reward_that_pays_for_everything_or_never_scores_is_a_fault() -> None:
    assert findings(tried(polite)) == (
        ["polite gives all probes 1: an empty completion gets as much as the gold answer."],
        [],
    )
    assert findings(tried(silent)) == (["silent returned None for every probe: a run ends at its first batch."], [])
    faults, warnings = findings(tried(exact, polite, silent))
    assert faults == []
    assert [text.split()[0] for text in warnings] == ["polite", "silent"]


def test_a_reward_that_no_exception_reaches_ends_the_process_with_its_place(capfd: pytest.CaptureFixture[str]) -> None:
    child = os.fork()
    if not child:
        with ends_after(0.2):
            re.match("(a+)+$", "a" * 64 + "b")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert "in test_a_reward_that_no_exception_reaches" in capfd.readouterr().err


def test_the_total_decides_among_several() -> None:
    faults, warnings = findings(tried(exact, brief, weights=[10.0, 0.1]))
    assert faults == []
    assert "brief: an empty completion gets 0, the gold answer -2." in warnings
    (fault, *_), _ = findings(tried(exact, brief))
    assert fault == "total: an empty completion gets 0, the gold answer -1."


@pytest.mark.parametrize("rows", [ROWS, CHATS], ids=["texts", "conversations"])
def test_the_spelling_that_a_reward_wants_is_found(rows: list[dict[str, Any]]) -> None:
    probed = tried(boxed, rows=rows)
    assert probed.spelling == "\\boxed{{answer}}"
    assert probed.mean("boxed", "gold") == 1
    assert probed.mean("boxed", "wrong") == 0


def test_spellings_know_the_tag_and_the_key() -> None:
    assert "{'title': '{answer}'}" in spellings(key="title")
    assert any("[/plan]\n{answer}" in form for form in spellings("[/plan]"))


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda completions, **_: [1.0], "returned 1 values for 8 completions"),
        (lambda completions, **_: [float("nan")] * len(completions), "Each value must be a finite number"),
        (lambda completions, **_: 1 / 0, "raised ZeroDivisionError: .*test_probes.py, line"),
    ],
)
def test_a_broken_contract_is_named(reward: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        tried(reward)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A file of rows, and one of rewards."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": r["prompt"], "a": r["answer"]}) + "\n" for r in ROWS))
    (tmp_path / "mine.py").write_text(
        "def within(completions, answer, **_):\n"
        "    return [float(gold in text) for text, gold in zip(completions, answer)]\n"
        "def hungry(completions, hint, **_):\n    return [0.0] * len(completions)\n"
    )
    return str(tmp_path / "rows.jsonl"), f"{tmp_path}/mine.py"


def test_check_reward_of_a_ready_made_one(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["--prompt_column", "q", "--answer_column", "a"]
    assert main(["check-reward", "exact_match", files[0], *columns]) == 0
    assert capsys.readouterr().out.endswith("Nothing is wrong.\n")
    assert main(["check-reward", "exact_match", files[0], *columns, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rewards"]["means"]["exact_match"]["gold"] == 1
    assert figures["faults"] == []


def test_check_reward_shows_faults_and_ends_with_1(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    rows, mine = files
    columns = ["--prompt_column", "q", "--answer_column", "a"]
    for flags, words in (
        ([f"{mine}:within", rows, *columns], "a copy of the prompt gets as much"),
        ([f"{mine}:hungry", f"{mine}:nothing", rows, *columns], "requires 'hint'"),
        (["exact_match", rows], "set --prompt_column"),
    ):
        assert main(["check-reward", *flags]) == 1
        text = " ".join(capsys.readouterr().out.split())
        assert words in text
    assert main(["check-reward", f"{mine}:hungry", f"{mine}:nothing", rows, *columns, "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 2
