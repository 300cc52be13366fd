"""The page of every method's run: what it says, what it carries, what it leaves out and says so."""

from pathlib import Path

import pytest

from rlft.cli import main
from rlft.record import JsonLines, record_dir
from rlft.record.groups import StepSize
from rlft.report.choose import Limits, evenly
from rlft.report.write import report_line, write_report
from tests.report.runs import carried, roles_and_texts, rollout, save_tokenizer, write_arms, write_record, write_rounds


def written(run: Path, **options: object) -> str:
    return write_report(run, resamples=2, **options).read_text()  # type: ignore[arg-type]


def test_a_run_of_grpo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = {"exact": 0.25}
    rows = [rollout(reward=reward, reward_seconds=seconds, roles="ttm") for reward in (1.0, 0.0, None)]
    run = write_record(tmp_path / "run", [*rows, rollout(reward=0.0, step=4, group=2, finish="length")])
    log = JsonLines(run / "record" / "metrics.jsonl")
    log.append(
        {"step": 1, "reward": 0.5, "kl": float("nan"), "accuracy/before_greedy": 0.25, "rewards/exact/error": 0.5}
    )
    log.append({"step": 2, "reward": None, "accuracy/after_greedy": 0.5})
    JsonLines(run / "record" / "alarms.jsonl").append(
        {"step": 2, "rule": "kl", "message": "KL <spike>", "value": 9.5, "over": False}
    )
    assert main(["report", str(run)]) == 0
    assert Path(capsys.readouterr().out.strip()) == run / "report.html"
    document = (run / "report.html").read_text()
    for said in (
        "Alarms (1)", "KL &lt;spike&gt;",
        "<th>step 2: kl begins (9.5)</th>", "<b>mean reward</b>", "<b>held-out accuracy</b>", "sign balance",
        "Rewards by function", "Gradient by position", "no reward applied", "cut at the length limit",
        "tokens of the model left out of the loss", "exact: error", "Slowest rewards", "tokenizer.json",
        "<td>0.250</td><td>0.500</td><td>+0.250</td>",
    ):  # fmt: skip
        assert said in document, said
    assert "<td>1</td><td>0.25</td>" + "<td>0.25</td>" * 3 + "<td>0.0833</td>" in document, "three scored in a call"
    assert "One call scores all completions of a batch" in document
    assert "<b>kl</b>" not in document, "no finite value, no curve"
    index, groups = carried(document)
    assert [(group["where"], group["name"], len(group["items"])) for group in groups] == [
        ("step 3", "group 1", 3),
        ("step 4", "group 2", 1),
    ]
    outcome, facts, parts = groups[0]["items"][0]
    assert outcome is True
    assert ["reward", "1"] in facts
    assert roles_and_texts(index, parts) == [("trained", "end ask"), ("masked", " find")]
    assert parts[0][3] == [0.5, 1.0]
    assert index["top"] == 1.0


def cells(*texts: str) -> str:
    return "".join(f"<td>{text}</td>" for text in texts)


def test_a_run_of_em_shows_roles_weights_and_what_was_dropped(tmp_path: Path) -> None:
    document = written(write_rounds(tmp_path / "run"))
    for said in ("<b>dev em</b>", "questions of round 1", "all wrong", "greedy em (round 1)", "rounds"):
        assert said in document, said
    assert "greedy hops" not in document
    counted = ("2", "1", "4", "3", "selector 7, generator 9", "2")
    assert f"<tr><th>1</th>{cells(*counted)}</tr>" in document, "two questions, four rollouts, three scored"
    assert "<tr><th>rounds at most</th><td>3</td></tr><tr><th>rollouts per question</th><td>2</td></tr>" in document
    assert f"<tr><th>rows or items of the data</th>{cells('3', '', 'train: question is held out')}</tr>" in document
    assert f"<tr><th>questions (train)</th>{cells('5', '12', 'no answer in any candidate')}</tr>" in document
    assert "selector rows" not in document, "rows that are trained on are no dropped ones"
    index, groups = carried(document)
    assert [group["where"] for group in groups] == ["round 1: trajectories"] * 2 + ["round 1: dev-greedy"]
    kept, dropped, dev = (group["items"] for group in groups)
    assert groups[0]["facts"] == [["effective sample size", "1"]]
    assert groups[1]["facts"] == [["dropped", "all_wrong"]]
    assert kept[0][1][:3] == [["weight", "1"], ["log-likelihood", "-1"], ["answer", "paris"]]
    own = [[role for role, _ in roles_and_texts(index, item[2])] for item in (kept[0], kept[1], dropped[0], dev[0])]
    assert own[0] == ["trained", "environment", "trained", "prompt", "trained"]
    assert own[1] == own[2] == own[3] == ["masked", "environment", "masked", "prompt", "masked"]
    assert roles_and_texts(index, groups[0]["prompt"]) == [("prompt", "ask paris")]
    assert [part[1] for part in kept[0][2]] == ["act", "search", "act", "aside", "choice"]


def test_a_run_of_stoc_shows_each_arm_and_what_filters_took(tmp_path: Path) -> None:
    document = written(write_arms(tmp_path / "run"))
    for said in ("<b>recall of old facts (hfta)</b>", "self: items", "repetition", "</svg>none ", "</svg>self "):
        assert said in document, said
    assert f"<tr><th>self</th>{cells('0.5', '1', '1,234', '1', '1,230', '12', '64', '2')}</tr>" in document
    index, groups = carried(document)
    by_where = {group["where"]: group["items"] for group in groups}
    assert by_where.keys() == {"self: dropped", "self: new", "self: replay"}
    assert roles_and_texts(index, by_where["self: new"][0][2]) == [("prompt", "ask"), ("trained", " answer end")]
    assert roles_and_texts(index, by_where["self: replay"][0][2]) == [("trained", "ask"), ("trained", " find passage")]
    assert by_where["self: dropped"][0][1][0] == ["dropped", "repetition"]
    assert {role for role, _ in roles_and_texts(index, by_where["self: dropped"][0][2])} == {"masked"}


def test_answers_to_held_out_prompts_stand_side_by_side(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run", [rollout()])
    for when in ("before", "after"):
        row = {"id": "u1", "retriever": "recency", "k": 3, "prompt": [{"role": "user", "content": "hi"}]}
        JsonLines(record_dir(run) / f"held_out_{when}.jsonl").append(row | {"completion": f"said {when}"})
    index, groups = carried(written(run))
    assert [roles_and_texts(index, item[2])[0][1] for item in groups[-1]["items"]] == ["said before", "said after"]
    assert roles_and_texts(index, groups[-1]["prompt"]) == [("prompt", "user: hi")]


def test_old_records_without_roles_take_a_zero_weight_for_untrained(tmp_path: Path) -> None:
    index, groups = carried(written(write_record(tmp_path / "run", [rollout([1.0, 0.0, 1.0])])))
    assert [role for role, _ in roles_and_texts(index, groups[0]["items"][0][2])] == ["trained", "masked", "trained"]
    assert index["top"] is None, "weights of 1 colour nothing"


def test_what_a_run_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_dir(tmp_path / "bare")
    document = written(tmp_path / "bare")
    for said in (
        "no rollouts are recorded",
        "No curve: no metrics.jsonl",
        "There is no config.yaml",
        "Nothing that was",
    ):
        assert said in document, said
    assert "<script" not in document
    run = write_record(tmp_path / "run", [rollout([1.0, 1.0])])
    (run / "tokenizer.json").unlink()
    document = written(run)
    assert "name one with --tokenizer" in document
    index, groups = carried(document)
    assert roles_and_texts(index, groups[0]["items"][0][2]) == [("trained", "NaN")], "the completion as it was recorded"
    save_tokenizer(tmp_path / "elsewhere")
    assert "--tokenizer" not in written(run, tokenizer=tmp_path / "elsewhere")
    for folder in (tmp_path, tmp_path / "elsewhere"):  # a folder of runs, and one of none
        assert main(["report", str(folder)]) == 1
        assert "holds no folder `record`" in capsys.readouterr().err


def test_a_large_record_is_sampled_evenly_and_the_page_says_so(tmp_path: Path) -> None:
    rows = [rollout(reward=reward, step=step) for step in range(10) for reward in (1.0, 0.0)]
    run = write_record(tmp_path / "run", rows)
    document = written(run, limits=Limits(rollouts=6))
    assert "6 of 20 recorded rollouts are on this page: those of 3 of 10 steps" in document
    assert [group["where"] for group in carried(document)[1]] == ["step 0", "step 4", "step 9"]
    assert "20 rollouts, mean 0.5" in document, "figures are of all of them"
    document = written(run, limits=Limits(rollouts=1, read=500))
    assert "all figures are of 1 of its 10 steps" in document
    assert [group["where"] for group in carried(document)[1]] == ["step 9"], "the newest, as a whole group"
    with pytest.raises(ValueError, match="rollouts=0"):
        write_report(run, limits=Limits(rollouts=0))


@pytest.mark.parametrize(("most", "expected"), [(100, 10), (10, 10), (9, 9), (4, 4), (1, 1), (0.5, 1)])
def test_an_even_choice_keeps_the_limit_and_the_newest(most: float, expected: int) -> None:
    sizes = {step: StepSize(1, 10) for step in range(10)}
    for chosen in (evenly(sizes, size=int(10 * most)), evenly(sizes, size=1000, rollouts=max(int(most), 1))):
        assert len(chosen) == expected
        assert chosen[-1] == 9
        assert chosen == sorted(set(chosen))
        assert expected == 1 or chosen[0] == 0
    assert evenly({}, size=1) == []


def test_a_page_that_cannot_be_written_does_not_fail_the_run(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run", [rollout()])
    assert report_line(run) == ("report", str(run / "report.html"))
    (run / "record" / "metrics.jsonl").write_text("[]\n")
    assert "not written (ValueError: " in report_line(run)[1]
    assert "rlft report" in report_line(run)[1]


def test_every_round_of_em_follows_the_one_before(tmp_path: Path) -> None:
    run = write_rounds(tmp_path / "run")
    log = JsonLines(run / "record" / "metrics.jsonl")
    for step in (1, 2, 3):
        log.append({"round": 2, "step": step, "loss": 0.25})
    loss = written(run).split('aria-label="loss"')[1]
    assert ">5</text>" in loss.split("</svg>")[0], "two steps of round 1, three of round 2"
