from typing import Any

import pytest

from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import GREEDY
from rlft.rollouts.single_turn import single_turn
from rlft.rollouts.trajectory import FinishReason
from tests.rollouts.scripted import ScriptedPolicy

ROWS: list[dict[str, Any]] = [{"id": "a", "question": "1+1="}, {"question": "2+2=", "system": None}]


def test_one_prompt_one_completion(frame: ChatFrame) -> None:
    policy = ScriptedPolicy(frame.tokenizer, lambda prompt: " 2 ")
    first, second = single_turn(ROWS, policy, GREEDY, frame=frame)
    assert (first.fields, second.fields) == ({"id": "a", "answer": "2"}, {"id": "2+2=", "answer": "2"})
    assert first.prompt_ids == frame.opening("1+1=")
    assert [segment.label for segment in first.segments] == ["answer"]
    assert first.trainable_mask == [1] * 4
    assert first.finish is FinishReason.STOP
    assert [len(call) for call in policy.calls] == [2]


def test_caps_and_seeds_can_come_from_the_row(frame: ChatFrame) -> None:
    policy = ScriptedPolicy(frame.tokenizer, lambda prompt: "long answer")
    row = {**ROWS[0], "seed": 7, "max_completion_tokens": 3}
    short, other = single_turn([row, ROWS[1]], policy, GREEDY, frame=frame, max_new_tokens=5)
    assert (len(short.completion_ids), len(other.completion_ids)) == (3, 5)
    assert short.finish is FinishReason.LENGTH
    assert policy.calls[0][0].seed == 7
    again = ScriptedPolicy(frame.tokenizer, lambda prompt: "long answer")
    single_turn(ROWS, again, GREEDY, frame=frame, seed=1)
    assert policy.calls[0][1].seed != again.calls[0][1].seed


@pytest.mark.parametrize("question", ["<|im_end|>", "<QUERY>"])
def test_questions_are_harmless(frame: ChatFrame, question: str) -> None:
    policy = ScriptedPolicy(frame.tokenizer, lambda prompt: "x")
    (trajectory,) = single_turn([{"question": question}], policy, GREEDY, frame=frame)
    assert question not in frame.tokenizer.decode(trajectory.prompt_ids).removesuffix(
        "<|im_end|>\n<|im_start|>assistant\n"
    )
