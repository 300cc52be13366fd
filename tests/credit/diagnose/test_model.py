"""Rows of a file: what is read and what is refused; states of a model on them, and the command."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlft.cli import main
from rlft.credit.diagnose import Diagnosis, LabelledGroup, diagnose, diagnose_model, diagnosis_record
from rlft.credit.diagnose.rows import read_labelled
from rlft.data.prompts import DataError
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

ROWS: list[dict[str, Any]] = [
    {"prompt": "12+34=", "completion": "<think>2+4+0=6;1+3+0=4</think>46", "correct": True},
    {"prompt": "12+34=", "completion": "<think>2+4+0=7;1+3+0=4</think>47", "correct": False, "first_error": 13},
    {
        "prompt": "55+55=",
        "completions": ["<think>5+5+0=10;5+5+0=10</think>100", "<think>5+5+0=10;5+5+1=11</think>110"],
        "correct": [0, 1],
        "first_error": [20, -1],
    },
    {"prompt": "1+1=", "completion": "2", "correct": True},
]
SETTINGS = {"window": 4, "stride": 2, "permutations": 5, "resamples": 5}


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("model"), char_tokenizer()
    tiny_model(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rounded(diagnosis: Diagnosis) -> dict[str, Any]:
    """As JSON, six decimals, NaN equal to NaN."""
    text = json.dumps(diagnosis_record(diagnosis))
    return json.loads(text, parse_float=lambda number: round(float(number), 6), parse_constant=str)


def test_rows_of_one_prompt_make_a_group(tmp_path: Path) -> None:
    first, second, third = read_labelled(write(tmp_path / "rows.jsonl", ROWS))
    assert [one.correct for one in first] == [True, False]
    assert [one.error_at for one in first] == [None, 13]
    assert [(one.correct, one.error_at, one.place) for one in second] == [
        (False, 20, f"{tmp_path}/rows.jsonl, line 3"),
        (True, None, f"{tmp_path}/rows.jsonl, line 3"),
    ]
    assert len(third) == 1


def test_steps_are_joined_by_a_blank_line_and_counted(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q"}]
    rows = [
        {"prompt": talk, "completion": ["one", "two", "three"], "correct": False, "first_error": 2},
        {"prompt": talk, "completions": [["one"], ["two"]], "correct": [True, True]},
    ]
    (group,) = read_labelled(write(tmp_path / "rows.jsonl", rows))
    assert group[0].completion == "one\n\ntwo\n\nthree"
    assert group[0].completion[group[0].error_at :] == "three"
    assert [one.error_at for one in group[1:]] == [None, None]


GOOD = ROWS[1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 holds a list"),
        (GOOD | {"prompt": " "}, "line 2: prompt is ' '"),
        (GOOD | {"prompt": [{"role": "user"}]}, "line 2: prompt is"),
        ({key: value for key, value in GOOD.items() if key != "prompt"}, "line 2: prompt is missing"),
        (GOOD | {"completions": ["a"]}, "line 2: give either `completion`"),
        ({"prompt": "a", "correct": True}, "line 2: give either `completion`"),
        ({"prompt": "a", "completions": [], "correct": []}, "line 2: completions is"),
        ({"prompt": "a", "completions": ["a", "b"], "correct": [True]}, "with 2 completions give a list of 2"),
        (
            {"prompt": "a", "completions": ["a"], "correct": [True], "first_error": 0},
            "line 2: first_error is 0; with 1",
        ),
        (GOOD | {"completion": "\n"}, "line 2: a completion is"),
        (GOOD | {"completion": ["a", ""]}, "line 2: a completion is"),
        (GOOD | {"completion": 3}, "line 2: a completion is 3"),
        (GOOD | {"completion": "a\ud800", "first_error": 0}, "line 2: text holds half of a surrogate pair"),
        (GOOD | {"completion": ["a", "\udfff"], "first_error": 0}, "line 2: text holds half of a surrogate"),
        (GOOD | {"correct": "yes"}, "line 2: correct is 'yes'"),
        (GOOD | {"correct": 0.5}, "line 2: correct is 0.5"),
        ({key: value for key, value in GOOD.items() if key != "correct"}, "line 2: correct is missing"),
        (GOOD | {"first_error": 99}, "line 2: first_error is 99, with 32 characters"),
        (GOOD | {"first_error": -2}, "line 2: first_error is -2"),
        (GOOD | {"first_error": True}, "line 2: first_error is True"),
        (GOOD | {"completion": ["a", "b"], "first_error": 2}, "line 2: first_error is 2, with 2 steps"),
    ],
)
def test_bad_rows_are_refused_by_line_and_rule(tmp_path: Path, row: object, said: str) -> None:
    with pytest.raises(DataError) as refusal:
        read_labelled(write(tmp_path / "rows.jsonl", [ROWS[0], row]))
    assert said in str(refusal.value)


def test_rows_without_a_mixed_prompt_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 2 prompts has both"):
        read_labelled(write(tmp_path / "rows.jsonl", [ROWS[0], ROWS[3]]))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_states_and_entropies_are_the_models(model: Path, tmp_path: Path, batch_size: int) -> None:
    tokenizer, loaded = char_tokenizer(), AutoModelForCausalLM.from_pretrained(model).eval()
    groups = []
    for name, prompt, texts, correct, errors in (
        ("0", ROWS[0]["prompt"], [ROWS[0]["completion"], ROWS[1]["completion"]], [True, False], [None, 7]),
        ("1", ROWS[2]["prompt"], ROWS[2]["completions"], [False, True], [14, None]),
    ):
        hidden, ids, entropy = [], [], []
        for text in texts:
            asked, found = tokenizer(prompt)["input_ids"], tokenizer(text)["input_ids"]
            with torch.no_grad():
                output = loaded(torch.tensor([asked + found]), output_hidden_states=True)
            hidden.append(output.hidden_states[-1][0, len(asked) :])
            chance_TV = output.logits[0, len(asked) - 1 : -1].softmax(-1)
            entropy.append((-(chance_TV * chance_TV.log()).sum(1)).tolist())
            ids.append(found)
        groups.append(LabelledGroup(name, hidden, ids, correct, errors, entropy))
    expected = rounded(diagnose(groups, **SETTINGS))
    path = write(tmp_path / "rows.jsonl", ROWS)
    found = rounded(diagnose_model(model, path, batch_size=batch_size, device="cpu", **SETTINGS))
    assert found.pop("counts") == expected.pop("counts") | {"groups": 3}
    assert found == expected


def test_the_answer_can_be_left_out(model: Path, tmp_path: Path) -> None:
    rows = [*ROWS, ROWS[0] | {"prompt": "9+9="}, ROWS[1] | {"prompt": "9+9=", "first_error": 31}]
    path = write(tmp_path / "rows.jsonl", rows)
    whole, cut = (
        diagnose_model(model, path, answer_marker=marker, device="cpu", **SETTINGS).counts
        for marker in (None, "</think>")
    )
    assert (whole["labelled"], cut["labelled"]) == (3, 2)
    assert whole["spans"] > cut["spans"]


def test_rows_that_the_model_cannot_take_are_refused(model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*ROWS, ROWS[0] | {"completion": "1" * 5000}])
    with pytest.raises(DataError, match="line 5: 5006 tokens, more than the model's"):
        diagnose_model(model, path, device="cpu", **SETTINGS)
    with pytest.raises(ValueError, match="holds no model with its tokenizer"):
        diagnose_model(tmp_path, write(tmp_path / "rows.jsonl", ROWS), device="cpu", **SETTINGS)
    with pytest.raises(ValueError, match=r"there is no folder .*absent"):
        diagnose_model(tmp_path / "absent", path, device="cpu", **SETTINGS)
    with pytest.raises(ValueError, match="answer_marker='answer:' stands in no completion"):
        diagnose_model(model, path, answer_marker="answer:", device="cpu", **SETTINGS)
    with pytest.raises(ValueError, match="batch_size=0"):
        diagnose_model(model, path, batch_size=0)
    with pytest.raises(ValueError, match="window=2, stride=3"):
        diagnose_model(model, path, window=2, stride=3)


def test_a_device_that_torch_lacks_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device='foo': "):
        diagnose_model(tmp_path, tmp_path / "absent.jsonl", device="foo")


def test_states_that_are_not_finite_are_named(model: Path, tmp_path: Path) -> None:
    loaded, damaged = AutoModelForCausalLM.from_pretrained(model), tmp_path / "damaged"
    with torch.no_grad():
        loaded.get_input_embeddings().weight[char_tokenizer().convert_tokens_to_ids("7")] = float("nan")
    loaded.save_pretrained(damaged)
    char_tokenizer().save_pretrained(damaged)
    with pytest.raises(DataError, match="line 1: the state or the entropy of token 0 is not finite"):
        diagnose_model(damaged, write(tmp_path / "rows.jsonl", ROWS), device="cpu", **SETTINGS)


def test_the_command_prints_a_table_or_json_and_writes_a_page(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    flags = ["--device", "cpu", *(text for name, value in SETTINGS.items() for text in (f"--{name}", str(value)))]
    assert main(["diagnose", str(model), str(path), *flags, "--html", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    for line in ("2 of 3 groups hold both outcomes: 4 rollouts, 2 wrong, 2 of them", "weighting", "permuted", "p = "):
        assert line in said
    document = (tmp_path / "page.html").read_text()
    assert "<th>lexical</th>" in document
    assert "AUC inside position bins" in document
    assert main(["diagnose", str(model), str(path), *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["labelled"] == 2
    write(path, [row | {"first_error": None} for row in ROWS])
    assert main(["diagnose", str(model), str(path), *flags]) == 0
    assert "only `farther` is measured" in capsys.readouterr().out
    assert main(["diagnose", str(model), str(tmp_path / "absent.jsonl")]) == 1
    assert "no such file" in capsys.readouterr().err
