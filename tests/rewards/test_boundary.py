"""The boundary check: nothing is changed, nothing wrong gets through, nothing hangs, nothing is swallowed."""

import asyncio
import functools
import re
import signal
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from trl.trainer.utils import get_callable_name, is_async_callable

from rlft.rewards import RewardError, checked, refuse_unscored_groups

THREE = ["first", "second", "third"]


def giving(value):
    """A reward named `subject` that returns `value` whatever it is asked."""

    def subject(completions, **kwargs):
        return value

    return subject


async def slow(completions, seconds=0.0, **kwargs):
    await asyncio.sleep(seconds)
    return [float(len(c)) for c in completions]


class Counting:
    def __call__(self, completions, **kwargs):
        return [1.0] * len(completions)


class AsyncCounting:
    async def __call__(self, completions, **kwargs):
        return [1.0] * len(completions)


@pytest.mark.parametrize(
    "scores",
    [
        [0.1, None, -3],
        (True, False, 1),
        np.array([0.1, 0.2, 0.3]),
        np.array([1, 2, 3], dtype=np.int32),
        torch.tensor([0.1, 0.2, 0.3]),
        [torch.tensor(0.5), np.float32(0.5), np.bool_(True)],
    ],
)
def test_good_scores_come_back_as_the_very_object(scores):
    assert checked(giving(scores))(completions=THREE) is scores


@pytest.mark.parametrize(
    "scores",
    ["abc", b"abc", 1.0, None, {0: 1.0, 1: 1.0, 2: 1.0}, {1.0, 2.0, 3.0}, torch.zeros(3, 1), np.float64(1)],
)
def test_what_is_no_list_is_refused(scores):
    with pytest.raises(
        RewardError, match=f"(?s)'subject' returned a {type(scores).__name__} .* a list with one number"
    ):
        checked(giving(scores))(completions=THREE)


@pytest.mark.parametrize("scores", [[], [1.0], [1.0] * 4, torch.zeros(2)])
def test_wrong_count_is_refused(scores):
    with pytest.raises(RewardError, match=f"'subject' returned {len(scores)} values for 3 completions"):
        checked(giving(scores))(completions=THREE)


@pytest.mark.parametrize(
    "bad",
    [float("nan"), float("inf"), "1.0", [1.0], 1j, 1e39, 10**60, Fraction(1, 2), torch.tensor(float("nan")), np.nan],
)
def test_a_bad_value_names_index_value_type_and_completion(bad):
    with pytest.raises(RewardError) as caught:
        checked(giving([1.0, bad, None]))(completions=THREE)
    for part in ("'subject'", repr(bad)[:100], type(bad).__name__, "completion 1 of 3", "'second'", "return None"):
        assert part in str(caught.value)


def test_long_completions_are_cut_in_messages():
    with pytest.raises(RewardError) as caught:
        checked(giving([None, float("nan")]))(completions=["", "y" * 10_000])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("error", [ValueError("bad gold"), KeyError("x"), SystemExit(0), TimeoutError("upstream")])
def test_an_exception_is_named_and_kept(error):
    def subject(completions, **kwargs):
        raise error

    async def subject_async(completions, **kwargs):
        raise error

    with pytest.raises(RewardError, match=f"'subject' raised {type(error).__name__}") as caught:
        checked(subject)(completions=THREE)
    assert caught.value.__cause__ is error
    with pytest.raises(RewardError, match=f"'subject_async' raised {type(error).__name__}") as caught:
        asyncio.run(checked(subject_async)(completions=THREE))
    assert caught.value.__cause__ is error


def test_a_reward_error_passes_as_it_is():
    error = RewardError("already clear")

    def subject(completions, **kwargs):
        raise error

    with pytest.raises(RewardError) as caught:
        checked(subject)(completions=THREE)
    assert caught.value is error


@pytest.mark.parametrize(
    ("fn", "name", "is_async"),
    [
        (giving([]), "subject", False),
        (functools.partial(giving([]), extra=1), "subject", False),
        (Counting(), "Counting", False),
        (slow, "slow", True),
        (functools.partial(slow, seconds=0.0), "slow", True),
        (AsyncCounting(), "AsyncCounting", True),
    ],
)
def test_trl_sees_the_same_name_and_kind(fn, name, is_async):
    wrapped = checked(fn)
    assert get_callable_name(wrapped) == get_callable_name(fn) == name
    assert is_async_callable(wrapped) is is_async_callable(fn) is is_async
    assert checked(wrapped) is wrapped


def test_async_scores_are_verified_too():
    assert asyncio.run(checked(slow)(completions=THREE)) == [5.0, 6.0, 5.0]

    async def short(completions, **kwargs):
        return [1.0]

    with pytest.raises(RewardError, match="'short' returned 1 values for 3"):
        asyncio.run(checked(short)(completions=THREE))


def test_reward_models_are_left_to_trl():
    model = torch.nn.Linear(1, 1)
    assert checked(model) is model
    assert checked("org/reward-model") == "org/reward-model"


def test_arguments_arrive():
    def subject(completions, answer, **kwargs):
        assert kwargs == {"prompts": ["p"], "log_metric": None}
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    assert checked(subject)(prompts=["p"], completions=["4"], answer=["4"], log_metric=None) == [1.0]


def hang_asleep(completions, **kwargs):
    time.sleep(60)


def hang_waiting(completions, **kwargs):
    threading.Event().wait(60)


def hang_computing(completions, **kwargs):
    while True:
        pass


def hang_guarded(completions, **kwargs):
    while True:
        try:
            time.sleep(60)
        except Exception:
            continue


def hang_swallowing(completions, **kwargs):
    try:
        time.sleep(60)
    except BaseException:
        return [0.0] * len(completions)


@pytest.mark.parametrize("fn", [hang_asleep, hang_waiting, hang_computing, hang_guarded, hang_swallowing])
def test_a_hang_is_ended(fn):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RewardError, match=rf"'{fn.__name__}' did not return within 0.1 s .* reward_timeout"):
        checked(fn, timeout=0.1)(completions=THREE)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_async_hang_is_ended():
    with pytest.raises(RewardError, match="'slow' did not return within 0.1 s"):
        asyncio.run(checked(slow, timeout=0.1)(completions=THREE, seconds=60))


def test_ctrl_c_stays_ctrl_c():
    main = threading.main_thread().ident
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores the signal
    threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            checked(hang_asleep, timeout=30)(completions=THREE)
    finally:
        signal.signal(signal.SIGINT, before)


def test_no_signal_outlives_a_call_that_ends_at_the_deadline():
    def subject(completions, seconds, **kwargs):
        time.sleep(seconds)
        return [0.0]

    ends = set()
    for i in range(150):
        try:
            checked(subject, timeout=0.01)(completions=["x"], seconds=0.0095 + i * 1e-5)
            ends.add("in time")
        except RewardError as error:
            ends.add(re.sub(r".*(did not return).*", r"\1", str(error)))
    assert ends <= {"in time", "did not return"}  # a KeyboardInterrupt would have ended the test


def test_off_the_main_thread_a_reward_still_runs():
    results = []
    thread = threading.Thread(target=lambda: results.append(checked(Counting())(completions=THREE)))
    thread.start()
    thread.join()
    assert results == [[1.0, 1.0, 1.0]]


NAN = float("nan")


@pytest.mark.parametrize("container", [list, torch.tensor])
def test_a_group_without_any_reward_is_refused(container):
    fine = container([[NAN, NAN], [0.0, NAN], [NAN, 1.0], [NAN, NAN]])
    refuse_unscored_groups(fine, 2, ["f", "g"], ["p0", "p0", "p1", "p1"])
    dead = container([[NAN, NAN], [0.0, NAN], [NAN, NAN], [NAN, NAN]])
    with pytest.raises(RewardError, match="2 completions of group 1: f, g all returned None. Prompt: 'p1'"):
        refuse_unscored_groups(dead, 2, ["f", "g"], ["p0", "p0", "p1", "p1"])


def test_none_counts_as_unscored_and_partial_groups_are_refused():
    with pytest.raises(RewardError, match="group 0"):
        refuse_unscored_groups([[None], [NAN]], 2, ["f"], ["p", "p"])
    with pytest.raises(ValueError, match="not whole groups of 2"):
        refuse_unscored_groups([[1.0]] * 3, 2, ["f"], ["p"] * 3)
