"""The examples of docs/rewards.md are run as a reader would run them: copied into a file, found by a spec."""

import re
from pathlib import Path

import pytest

from rlft.plugins import resolve
from rlft.rewards import check_columns, checked
from rlft.tiny.addition import rows

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(), re.DOTALL)


def saved(tmp_path, marker, name="my_reward.py"):
    """Write the one block that contains `marker` to a file."""
    (block,) = [b for b in BLOCKS if marker in b]
    file = tmp_path / name
    file.write_text(block)
    return file


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("<think>7+9+0=16;4+8+1=13;3+5+1=9</think>936", 1.0),
        ("<think>7+9+0=16;4+8+0=12;3+5+1=9</think>926", 0.0),
        ("<think>7+9+0=16;4+8+1=14;3+5+1=9</think>936", 0.0),
        ("<think></think>936", 0.0),
        ("936", 0.0),
        ("347+589=", 0.0),
        ("", 0.0),
        ("<think>7+9+0=16;4+8+1=13;3+5+1=9</think>936 936", 0.0),
    ],
)
def test_the_users_reward(tmp_path, completion, score):
    file = saved(tmp_path, "def honest_sum")
    reward = checked(resolve(f"{file}:honest_sum", kind="reward"))
    check_columns([reward], rows(1, seed=0)[0])
    assert reward(completions=[completion], prompts=["347+589="], answer=["936"]) == [score]


def test_the_gated_example(tmp_path):
    reward = resolve(f"{saved(tmp_path, 'gated(exact_match)')}:answer_in_format", kind="reward")
    assert reward(completions=["936", "<think>x</think>936"], answer=["936"] * 2) == [0.0, 1.0]


def test_the_per_sample_example(tmp_path):
    reward = resolve(f"{saved(tmp_path, 'def closeness')}:closeness", kind="reward")
    completions = ["<think>x</think>936", "<think>x</think>9", "936"]
    assert reward(completions=completions, answer=["936"] * 3) == [1.0, 0.5, 0.0]
    assert reward.outcomes == {"ok": 2, "unparseable": 1}
    reward.close()


def test_the_isolated_math_example(tmp_path):
    pytest.importorskip("math_verify")
    reward = resolve(f"{saved(tmp_path, 'def isolated_math')}:reward", kind="reward")
    assert reward(completions=[r"\boxed{1/2}", "1/2"], answer=["0.5", "0.5"]) == [1.0, 0.0]
    reward.close()


def test_the_attack_example(tmp_path, monkeypatch):
    saved(tmp_path, "def honest_sum")
    monkeypatch.chdir(tmp_path)
    exec(saved(tmp_path, "attacks =", "attacks.py").read_text(), {})


def test_no_example_is_left_out():
    assert len(BLOCKS) == 5
