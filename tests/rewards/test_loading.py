"""Reward specs become functions, and what the dataset cannot feed is refused before a model is loaded."""

import functools
from pathlib import Path

import pytest
import torch

from rlft.plugins import PluginError
from rlft.rewards import RewardError, check_columns, load_rewards, ready_made
from rlft.rewards.boundary import reward_name

COLUMNS = ["prompt", "answer", "level"]


def test_every_ready_made_reward_loads_and_carries_its_file_name():
    assert list(ready_made()) == ["code", "exact_match", "format", "length", "math_accuracy"]
    assert [fn.__name__ for fn in load_rewards(list(ready_made()))] == list(ready_made())


def test_order_settings_and_callables():
    def mine(completions, **kwargs):
        return [0.0]

    functions = load_rewards(["length(max_length=10, buffer=4)", mine, "exact_match"])
    assert [reward_name(fn) for fn in functions] == ["length", "mine", "exact_match"]
    assert functions[0](completion_ids=[[1] * 8]) == [-0.5]


def test_a_misspelt_name_is_refused():
    with pytest.raises(PluginError, match="reward 'math_acuracy'.*Did you mean 'math_accuracy'"):
        load_rewards(["math_acuracy"])


def test_two_rewards_of_one_name_are_refused():
    with pytest.raises(RewardError, match="2 reward functions are named 'format'"):
        load_rewards(["format", "format(pattern='a+')"])


def plain(completions, answer, **kwargs): ...


def everything(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, environments, **kwargs): ...


def optional(completions, difficulty=None, **kwargs): ...


def explicit(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, answer, level): ...


class Instance:
    def __call__(self, completions, level, **kwargs): ...


@pytest.mark.parametrize(
    "fn",
    [
        plain,
        everything,
        optional,
        explicit,
        Instance(),
        functools.partial(plain, bonus=1),
        torch.nn.Linear(1, 1),
        "org/model",
    ],
)
def test_rewards_that_the_dataset_feeds(fn):
    check_columns([fn], COLUMNS)


def needs_solution(completions, solutions, **kwargs): ...


def needs_prompt(completions, prompt, **kwargs): ...


def sample_wise(completion, answer, **kwargs): ...


def positional(completions, answer, /, **kwargs): ...


@pytest.mark.parametrize(
    ("fn", "columns", "message"),
    [
        (needs_solution, ["prompt", "solution"], r"requires 'solutions'.*Did you mean 'solution'.*prompt, solution"),
        (plain, ["prompt", "target"], r"'plain' requires 'answer', which is neither a dataset column"),
        (plain, [], r"Columns: none"),
        (needs_prompt, COLUMNS, r"requires 'prompt'.*Did you mean 'prompts'"),
        (sample_wise, COLUMNS, r"requires 'completion'.*'completions'"),
        (positional, COLUMNS, r"requires 'completions', which is neither a dataset column nor passed by TRL as a key"),
        (Instance(), ["prompt"], r"'Instance' requires 'level'"),
        (explicit, [*COLUMNS, "subject"], r"does not accept subject, which TRL passes .* Add \*\*kwargs"),
        (lambda completions: [], [], r"does not accept prompts, completion_ids, trainer_state"),
    ],
)
def test_rewards_that_it_cannot_feed(fn, columns, message):
    with pytest.raises(RewardError, match=message):
        check_columns([fn], columns)


def test_length_must_be_given_its_limits():
    with pytest.raises(RewardError, match=r"'length' requires 'max_length'.*length\(max_length=\.\.\.\)"):
        check_columns(load_rewards(["length"]), COLUMNS)
    check_columns(load_rewards(["length(max_length=512, buffer=128)"]), COLUMNS)


def test_a_factory_is_called_with_its_settings():
    functions = load_rewards(['rlft.rewards.personal:rouge(key="title")', "rlft.rewards.personal:think_format"])
    assert [reward_name(fn) for fn in functions] == ["rouge", "think_format"]
    check_columns(functions, COLUMNS)
    said = "thought\n</think>{'title': 'a b'}"
    assert [fn(completions=[said], answer=["a b"]) for fn in functions] == [[3.0], [1.0]]


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(
        """
class Scaled:
    def __init__(self, by=1.0):
        self.by = by

    def __call__(self, completions, **kwargs):
        return [self.by] * len(completions)


def number():
    return 3


def sample_wise(completion, answer):
    return 1.0


def refusing(limit):
    raise ValueError(f"limit={limit} is too small")
"""
    )
    return file


def test_a_class_is_a_factory_too(plugins):
    (reward,) = load_rewards([f"{plugins}:Scaled(by=2.0)"])
    assert reward(completions=["x", "y"]) == [2.0, 2.0]


def test_a_factory_given_as_a_function_is_taken_as_it_is():
    from rlft.rewards.personal import rouge

    assert load_rewards([rouge]) == [rouge]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "rlft.rewards.personal:rouge",
            r"factory of rewards: missing a required .*'key'.*takes: key, tokens, think_end",
        ),
        ("rlft.rewards.personal:rouge(key=None, stem=1)", r"unexpected keyword argument 'stem'"),
        ("{file}:number", r"and it gave a int, which is none"),
    ],
)
def test_factories_that_give_no_reward(spec, message, plugins):
    with pytest.raises(PluginError, match=message):
        load_rewards([spec.format(file=plugins)])


def test_a_function_with_an_argument_to_fill_comes_as_it_is(plugins):
    (found,) = load_rewards([f"{plugins}:sample_wise"])
    with pytest.raises(RewardError, match="sample_wise.* requires 'completion'"):
        check_columns([found], ["prompt", "answer"])


def test_what_a_factory_refuses_is_its_own_error(plugins):
    with pytest.raises(ValueError, match="limit=1 is too small"):
        load_rewards([f"{plugins}:refusing(limit=1)"])
    with pytest.raises(ValueError, match="tokens"):
        load_rewards(['rlft.rewards.personal:rouge(key=None, tokens="words")'])
    with pytest.raises(ValueError, match=r"no/scorer is no folder"):
        load_rewards(['rlft.reward_models:personalization(folder="no/scorer", key="title")'])
