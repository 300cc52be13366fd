"""math_accuracy: equal in mathematics, judged by the last box; an unreadable gold answer gives no score."""

import builtins
import threading

import pytest

from rlft.rewards import load_rewards

pytest.importorskip("math_verify")
(math_accuracy,) = load_rewards(["math_accuracy"])


def score(completion, gold):
    return math_accuracy(completions=[completion], answer=[gold])[0]


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ("1/2", r"\boxed{\frac{1}{2}}"),
        (r"\frac{1}{2}", r"\boxed{0.5}"),
        ("936", r"<think>\boxed{1}</think>so \boxed{936}"),
        (r"Thus $x=2$, that is \boxed{12}.", r"\boxed{12}"),
        ("$12$", r"\boxed{12}"),
        ("(1,2)", r"\boxed{(1, 2)}"),
        ("x^2+1", r"\boxed{1+x^2}"),
        ("1,000", r"\boxed{1000}"),
        (r"\{1,2\}", r"\boxed{\{2,1\}}"),
    ],
)
def test_equal(gold, said):
    assert score(said, gold) == 1.0
    assert score([{"role": "assistant", "content": said}], gold) == 1.0


@pytest.mark.parametrize(
    "said",
    [
        "",
        "12",
        "What is 7+5?",
        r"\boxed{}",
        r"\boxed{13}",
        r"\boxed{12} no, \boxed{13}",
        r"\boxed{12} no, \boxed{13",
        r"\boxed{12, 13}",
        r"\boxed{\frac{12}{}",
        r"<think>\boxed{12}</think>I give up",
        r"\boxed{12}</think>",
        r"\boxed{=}",
    ],
)
def test_wrong_or_unparseable_completions_get_zero(said):
    assert score(said, "12") == 0.0


@pytest.mark.parametrize("gold", [r"\frac{1}{", "}{", "="])
def test_an_unparseable_gold_answer_does_not_apply(gold):
    for said in ("", gold, r"\boxed{1}", rf"\boxed{{{gold}}}"):
        assert score(said, gold) is None


def test_the_shares_that_could_not_be_read_are_logged():
    logged = {}
    scores = math_accuracy(
        completions=[r"\boxed{1}", "one", r"\boxed{1}", r"\boxed{2}"],
        answer=["1", "1", "=", "1"],
        log_metric=logged.__setitem__,
    )
    assert scores == [1.0, 0.0, None, 0.0]
    assert logged == {"rewards/math_accuracy/unparseable_gold": 0.25, "rewards/math_accuracy/unparseable": 0.25}


def test_a_pathological_expression_is_ended_on_the_main_thread():
    assert score(r"\boxed{9^{9^{9}}}", "3") == 0.0


def test_it_works_off_the_main_thread():
    scores = []
    thread = threading.Thread(target=lambda: scores.extend([score(r"\boxed{\frac{2}{4}}", "0.5"), score("", "1")]))
    thread.start()
    thread.join()
    assert scores == [1.0, 0.0]


def test_without_math_verify_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "math_verify":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "rlft\[math\]"'):
        score(r"\boxed{1}", "1")
