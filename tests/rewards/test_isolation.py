"""`per_sample`: every way a sample can end is an outcome; failures cost one sample, and too many stop the run."""

import functools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rlft.plugins import PluginError
from rlft.rewards import Outcome, RewardError, Unparseable, check_columns, checked, load_rewards, per_sample

PLUGIN = '''
import ctypes, os, time
from rlft.rewards import Unparseable, per_sample

def judge(completion, answer, weight=2.0):
    """Ends as the completion says."""
    if completion == "unreadable":
        raise Unparseable("no number in it")
    if completion == "raise":
        raise KeyError("lost")
    if completion == "exit":
        raise SystemExit(0)
    if completion == "die":
        os._exit(3)
    if completion == "segfault":
        ctypes.string_at(0)
    if completion == "loop":
        while True:
            pass
    if completion == "nan":
        return float("nan")
    if completion == "text":
        return "1.0"
    if completion == "memory":
        raise MemoryError
    if completion == "none":
        return None
    return weight * (completion == answer)

def where(completion, prompt, completion_ids):
    return float(os.getpid() == int(prompt)) + len(completion_ids)

@per_sample
def decorated(completion):
    return len(completion)
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugins") / "judges.py"
    file.write_text(PLUGIN)
    return file


@pytest.fixture
def isolated(plugin):
    """Make a per-sample reward of a function in the plug-in file; its children end with the test."""
    made = []

    def make(name, **options):
        (fn,) = load_rewards([f"{plugin}:{name}"])
        made.append(per_sample(fn, processes=1, **options))
        return made[-1]

    yield make
    for reward in made:
        reward.close()


def at_module_level(completion, answer):
    return completion == answer


def test_scores_and_outcomes_of_a_batch(isolated):
    judge = isolated("judge")
    logged = {}
    scores = judge(
        completions=["4", "5", "unreadable", "none"], answer=["4", "4", "4", "4"], log_metric=logged.__setitem__
    )
    assert scores == [2.0, 0.0, 0.0, None]
    assert judge.outcomes == Counter(ok=1, wrong=1, unparseable=1, skipped=1)
    assert logged == {
        "rewards/judge/ok": 0.25,
        "rewards/judge/wrong": 0.25,
        "rewards/judge/unparseable": 0.25,
        "rewards/judge/skipped": 0.25,
        "rewards/judge/error": 0.0,
        "rewards/judge/timeout": 0.0,
    }
    judge(completions=["4"], answer=["4"])
    assert judge.outcomes[Outcome.OK] == 2


@pytest.mark.parametrize("end", ["raise", "exit", "die", "segfault", "nan", "text", "memory"])
def test_an_error_costs_one_sample(isolated, end):
    judge = isolated("judge", max_error_rate=0.5)
    assert judge(completions=["4", end, "5"], answer=["4"] * 3) == [2.0, None, 0.0]
    assert judge.outcomes == Counter(ok=1, error=1, wrong=1)


@pytest.mark.parametrize(
    ("end", "detail"),
    [
        ("raise", r"judges\.py.*KeyError: 'lost'"),
        ("exit", "SystemExit: 0"),
        ("die", "died with exit code 3"),
        ("segfault", "died with exit code -11"),
        ("nan", r"returned nan \(float\), not a finite number"),
        ("text", r"returned '1\.0' \(str\)"),
    ],
)
def test_too_many_errors_stop_the_run_with_the_first_traceback(isolated, end, detail):
    with pytest.raises(
        RewardError, match=f"(?s)'judge' failed on 1 of 2 samples.*max_error_rate=0.01.*sample 1:.*{detail}"
    ):
        isolated("judge")(completions=["4", end], answer=["4", "4"])


@pytest.mark.parametrize("timeout_score", [None, -1.0])
def test_a_hanging_sample_is_killed_and_the_others_are_scored(isolated, timeout_score):
    judge = isolated("judge", timeout=0.3, timeout_score=timeout_score)
    assert judge(completions=["4", "loop", "4"], answer=["4"] * 3) == [2.0, timeout_score, 2.0]
    assert judge.outcomes == Counter(ok=2, timeout=1)


def test_arguments_are_injected_by_name(isolated):
    where = isolated("where")
    conversation = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    scores = where(
        prompts=[str(os.getpid())] * 2, completions=["a", conversation], completion_ids=[[1], [1, 2]], level=[1, 2]
    )
    assert scores == [1.0, 2.0]  # 0 + len(ids): it ran in another process


def test_a_conversation_gives_its_last_assistant_text(isolated):
    turns = [{"role": "assistant", "content": "5"}, {"role": "tool", "content": "?"}]
    parts = [{"type": "text", "text": "4"}, {"type": "image"}]
    completions = [[*turns, {"role": "assistant", "content": text}] for text in ("4", "5", parts, None)]
    assert isolated("judge")(completions=completions, answer=["4"] * 4) == [2.0, 0.0, 2.0, 0.0]


def test_columns_override_defaults_and_missing_ones_are_named(isolated):
    judge = isolated("judge")
    assert judge(completions=["4"], answer=["4"], weight=[7.0]) == [7.0]
    with pytest.raises(RewardError, match=r"'judge' requires \['answer'\]; the batch has \['completions', 'level'\]"):
        judge(completions=["4"], level=[1])


def test_an_empty_batch_is_nothing(isolated):
    assert isolated("judge")(completions=[], answer=[], log_metric=pytest.fail) == []


def test_the_decorator_works_from_a_file(plugin):
    (decorated,) = load_rewards([f"{plugin}:decorated"])
    assert decorated(completions=["four", ""]) == [4.0, 0.0]
    decorated.close()


def test_a_closed_reward_starts_again(isolated):
    judge = isolated("judge")
    for _ in range(2):
        assert judge(completions=["4"], answer=["4"]) == [2.0]
        judge.close()


def test_trl_and_the_other_checks_take_it_for_a_reward(isolated):
    from trl.trainer.utils import get_callable_name, is_async_callable  # here: a child imports this module too

    judge = isolated("judge")
    assert get_callable_name(judge) == "judge"
    assert not is_async_callable(judge)
    check_columns([judge, checked(judge)], ["prompt", "answer"])
    with pytest.raises(RewardError, match="'judge' requires 'answer'"):
        check_columns([judge], ["prompt"])
    assert checked(judge)(completions=["4"], answer=["4"]) == [2.0]


def test_the_boundary_deadline_ends_a_batch_and_the_children_go_with_it(isolated):
    judge = isolated("judge", timeout=600)
    with pytest.raises(RewardError, match="did not return within 0.5 s"):
        checked(judge, timeout=0.5)(completions=["loop"], answer=["4"])
    # Its one child would still be looping, and this batch would wait for it.
    assert checked(judge, timeout=30)(completions=["4"], answer=["4"]) == [2.0]


def test_a_function_of_a_test_module_is_found():
    reward = per_sample(at_module_level, processes=1)
    assert reward(completions=["4", "5"], answer=["4", "4"]) == [1.0, 0.0]
    reward.close()


def test_what_a_child_could_not_find_or_be_given_is_refused():
    def nested(completion): ...

    for fn in (lambda completion: 0.0, nested, functools.partial(at_module_level, answer=1)):
        with pytest.raises(PluginError, match="top level of a module"):
            per_sample(fn)


def asks_for_state(completion, trainer_state): ...


async def is_async(completion): ...


@pytest.mark.parametrize(("fn", "why"), [(asks_for_state, r"asks for \['trainer_state'\]"), (is_async, "is async")])
def test_what_cannot_leave_the_trainer_is_refused(fn, why):
    with pytest.raises(RewardError, match=why):
        per_sample(fn)


def test_arguments_that_cannot_travel_are_an_error_not_a_hang(isolated):
    with pytest.raises(Exception, match="pickle"):
        isolated("judge")(completions=["4"], answer=[lambda: 0])


def test_a_function_that_the_child_cannot_load_is_an_error_with_its_traceback(tmp_path):
    file = tmp_path / "vanishing.py"
    file.write_text("def f(completion): return 1.0")
    reward = per_sample(load_rewards([f"{file}:f"])[0], processes=1)
    file.unlink()
    with pytest.raises(RewardError, match=r"(?s)failed on 1 of 1.*no file .*vanishing\.py"):
        reward(completions=["x"])
    reward.close()


def test_a_script_ends_by_itself_and_leaves_no_child(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import os\n"
        "from rlft.rewards import per_sample\n"
        "def pid(completion): return float(os.getpid())\n"
        "if __name__ == '__main__':\n"
        "    print(int(per_sample(pid, processes=1)(completions=['x'])[0]))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=60)
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_unparseable_is_an_ordinary_exception():
    with pytest.raises(Exception, match="why"):
        raise Unparseable("why")
