"""Answers of a policy: the prompt's ids, a seed for each draw, the text that extraction sees."""

from dataclasses import dataclass, field

from rlft.reward_models.answers import policy_answers
from rlft.reward_models.pairs import Ask
from rlft.rollouts.policy import GREEDY, Generation, Sampling
from tests.reward_models.toy import decoder, item

ROW = {"id": "r", "query": "ask about x"}


@dataclass
class Scripted:
    """A policy that always says `x y` and stops."""

    ids: list[int]
    draws: list = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)

    def generate(self, draws, sampling):
        self.draws += draws
        self.samplings.append(sampling)
        return [Generation(self.ids, [0.0] * len(self.ids), stopped=True) for _ in draws]


def prompt(row, items):
    return " ".join([*(one["text"] for one in items), row["query"]])


def asks():
    return [Ask(ROW, [item("m0 z")], "own"), Ask(ROW, [], "none 0"), Ask(ROW, [], "none 1")]


def test_prompts_texts_and_seeds():
    _, tokenizer = decoder()
    policy = Scripted(tokenizer("x y <|end|>")["input_ids"])
    answers = policy_answers(policy, tokenizer, prompt, lambda text: text.upper(), max_new_tokens=7, seed=3)
    assert answers(asks()) == ["X Y"] * 3
    assert [draw.prompt_ids for draw in policy.draws] == [
        tokenizer(text)["input_ids"] for text in ("m0 z ask about x", "ask about x", "ask about x")
    ]
    assert len({draw.seed for draw in policy.draws}) == 3
    assert {draw.max_new_tokens for draw in policy.draws} == {7}
    assert policy.samplings == [GREEDY]


def test_a_draws_seed_does_not_depend_on_its_company():
    _, tokenizer = decoder()
    first, second = Scripted([1]), Scripted([1])
    policy_answers(first, tokenizer, prompt, str, seed=3)(asks())
    policy_answers(second, tokenizer, prompt, str, seed=3)(asks()[::-1][:1])
    assert first.draws[-1] == second.draws[0]


def test_a_conversation_is_rendered_by_the_chat_template():
    _, tokenizer = decoder()
    policy = Scripted([1])
    policy_answers(policy, tokenizer, lambda row, items: [{"role": "user", "content": row["query"]}], str)(asks()[:1])
    assert tokenizer.decode(policy.draws[0].prompt_ids) == "<|u|> ask about x <|end|> <|a|>"
