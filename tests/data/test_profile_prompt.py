"""Profile prompts: what they hold, what is cut and what never is, and which are refused."""

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlft.data.lamp_tasks import LAMP_2_NEWS, LAMP_TASKS
from rlft.data.profile_prompt import SYSTEM, ProfilePrompt
from rlft.data.prompt_templates import PromptTemplates
from rlft.tiny.tokenizer import CHAT_TEMPLATE, char_tokenizer

CHARACTERS = char_tokenizer()
INPUTS = {
    1: 'For an author who wrote "P", which reference is related? [1]: "A B" [2]: "C D"',
    2: "Which tag? description: q",
    3: "Which score? review: q",
    4: "Generate a headline for the following article: q",
    5: "Generate a title for the following abstract of a paper: q",
    6: "Generate a subject for the following email: q",
    7: "Paraphrase the following tweet: q",
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that a character may be several."""
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<unk>"]
    model = models.BPE({byte: i for i, byte in enumerate(vocabulary)}, [], unk_token="<unk>")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT_TEMPLATE)


def length(messages: list[dict[str, str]], tokenizer: Any = CHARACTERS) -> int:
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def a_row(task: int = 4, query: str = "q") -> dict[str, Any]:
    return {"id": "r1", "task": task, "input": INPUTS[task], "query": query}


def some_items(*sizes: int) -> list[dict[str, Any]]:
    return [{"id": str(i), "text": chr(97 + i) * size, "target": f"T{i}"} for i, size in enumerate(sizes)]


def shown_texts(messages: list[dict[str, str]]) -> list[str]:
    lines = [line for line in messages[-1]["content"].split("\n") if "'title': 'T" in line]
    return [line.split("'")[3] for line in lines]


@pytest.mark.parametrize("task", [*LAMP_TASKS.values(), LAMP_2_NEWS], ids=lambda task: task.name)
def test_every_task_shows_history_query_and_form(task: Any) -> None:
    items = [{"id": "0", "text": "old text", "target": task.target and "old target"}]
    row = a_row(task.number, "the query")
    prompt = ProfilePrompt(task, CHARACTERS)
    system, user = prompt.messages(row, items)
    content = user["content"]
    assert system == {"role": "system", "content": SYSTEM}
    assert user["role"] == "user"
    assert f"'{task.input_word}': 'old text'" in content
    assert (f"'{task.target}': 'old target'" in content) == (task.target is not None)
    assert f"{{'{task.answer_key}': '...'}}" in content
    assert all(label in content for label in task.labels or ())
    assert content.endswith(row["input"] if task.number == 1 else f"'{task.query_word}': 'the query'")


@pytest.mark.parametrize("task", LAMP_TASKS.values(), ids=lambda task: task.name)
def test_no_items_no_history_block(task: Any) -> None:
    with_one = ProfilePrompt(task, CHARACTERS, system=None).messages(a_row(task.number), some_items(3))
    (user,) = ProfilePrompt(task, CHARACTERS, system=None).messages(a_row(task.number), [])
    assert "past items" in with_one[0]["content"].lower()
    assert "past items" not in user["content"].lower()
    assert "As this user" not in user["content"]


def test_a_prompt_that_fits_is_whole() -> None:
    items = some_items(400, 5, 90)
    whole = ProfilePrompt(LAMP_TASKS[4], CHARACTERS, max_tokens=100_000).messages(a_row(), items)
    assert shown_texts(whole) == [item["text"] for item in items]
    exact = ProfilePrompt(LAMP_TASKS[4], CHARACTERS, max_tokens=length(whole), over_budget="error")
    assert exact.messages(a_row(), items) == whole
    assert dict(exact.counts) == {"prompts": 1}


@pytest.mark.parametrize(
    ("sizes", "room", "kept"),
    [
        ((100, 100, 100), 90, (30, 30, 30)),
        ((100, 100, 100), 92, (30, 30, 30)),  # floor(92 / 3)
        ((10, 100, 100), 90, (10, 50, 30)),  # what the first leaves goes to the next one
        ((10, 25, 100), 90, (10, 25, 55)),
        ((100, 10, 10), 90, (30, 10, 10)),  # nothing is carried back
        ((100,), 40, (40,)),
        ((9, 9, 9), 3, (1, 1, 1)),
    ],
)
def test_shares_of_the_budget(sizes: tuple[int, ...], room: int, kept: tuple[int, ...]) -> None:
    items = some_items(*sizes)
    frame = length(ProfilePrompt(LAMP_TASKS[4], CHARACTERS, 100_000).messages(a_row(), some_items(*[0] * len(sizes))))
    prompt = ProfilePrompt(LAMP_TASKS[4], CHARACTERS, max_tokens=frame + room)
    messages = prompt.messages(a_row(), items)
    assert tuple(map(len, shown_texts(messages))) == kept
    assert length(messages) <= frame + room
    assert prompt.counts["cut"] == 1


@pytest.mark.parametrize("tokenizer", [CHARACTERS, byte_tokenizer()], ids=["characters", "bytes"])
def test_only_long_fields_are_ever_cut(tokenizer: Any) -> None:
    rng = random.Random(5)
    for _ in range(40):
        texts = ["".join(rng.choices("ab é🙂漢", k=rng.randint(0, 120))) for _ in range(rng.randint(1, 5))]
        targets = ["".join(rng.choices("xy é🙂", k=rng.randint(0, 40))) for _ in texts]
        items = [{"id": "i", "text": a, "target": b} for a, b in zip(texts, targets, strict=True)]
        row = a_row(5, "".join(rng.choices("q é", k=60)))
        empty = [{**item, "text": ""} for item in items]
        frame = length(ProfilePrompt(LAMP_TASKS[5], tokenizer, 100_000).messages(row, empty), tokenizer)
        budget = frame + rng.randint(40, 200)
        messages = ProfilePrompt(LAMP_TASKS[5], tokenizer, max_tokens=budget).messages(row, items)
        assert length(messages, tokenizer) <= budget
        content = messages[-1]["content"]
        assert content.endswith(f"'{row['query']}'")
        lines = content.split("\n")[1 : len(items) + 1]
        for line, text, target in zip(lines, texts, targets, strict=True):
            assert line.endswith(f"' 'title': '{target}'")
            assert text.startswith(line.removeprefix("'abstract': '").removesuffix(f"' 'title': '{target}'"))


@pytest.mark.parametrize("items", [some_items(300, 10), [], some_items(0, 0)], ids=["long", "none", "empty"])
def test_what_cannot_be_cut_is_refused_with_the_row_s_id(items: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"row 'r1': what is never cut .* max_tokens is 200"):
        ProfilePrompt(LAMP_TASKS[4], CHARACTERS, max_tokens=200).messages(a_row(), items)


def test_a_long_target_is_refused_not_cut() -> None:
    items = [{"id": "0", "text": "t" * 50, "target": "y" * 3000}]
    with pytest.raises(ValueError, match="targets of 1 past items"):
        ProfilePrompt(LAMP_TASKS[4], CHARACTERS, max_tokens=3000).messages(a_row(), items)


def test_error_instead_of_a_cut() -> None:
    prompt = ProfilePrompt(LAMP_TASKS[4], CHARACTERS, max_tokens=900, over_budget="error")
    assert prompt.messages(a_row(), some_items(10))
    with pytest.raises(ValueError, match=r"row 'r1': the prompt with 1 past items has \d+ tokens, max_tokens is 900"):
        prompt.messages(a_row(), some_items(900))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="over_budget='drop'"):
        ProfilePrompt(LAMP_TASKS[4], CHARACTERS, over_budget="drop")
    with pytest.raises(ValueError, match="max_tokens=0"):
        ProfilePrompt(LAMP_TASKS[4], CHARACTERS, max_tokens=0)
    bare = char_tokenizer()
    bare.chat_template = None
    with pytest.raises(ValueError, match="lacks a chat template"):
        ProfilePrompt(LAMP_TASKS[4], bare)


TEMPLATES = PromptTemplates(item="* {text} = {target}", join="; ", profile="Past: {items}. ", query="Now: {query}")


def test_templates_of_your_own() -> None:
    row = a_row(query="a {text} {x}")
    items: list[dict[str, Any]] = [{"text": "one {query}", "target": "two"}, {"text": "b", "target": None}]
    prompt = ProfilePrompt(TEMPLATES, CHARACTERS, system=None)
    assert prompt.messages(row, items) == [
        {"role": "user", "content": "Past: * one {query} = two; * b =. Now: a {text} {x}"}
    ]
    assert prompt.messages(row, []) == [{"role": "user", "content": "Now: a {text} {x}"}]
    assert ProfilePrompt(TEMPLATES, CHARACTERS).messages(row, [])[0] == {"role": "system", "content": SYSTEM}


def test_templates_are_cut_in_the_texts_alone() -> None:
    items = some_items(100, 5)
    whole = ProfilePrompt(TEMPLATES, CHARACTERS, system=None).messages(a_row(), items)
    prompt = ProfilePrompt(TEMPLATES, CHARACTERS, max_tokens=length(whole) - 80, system=None)
    messages = prompt.messages(a_row(), items)
    assert messages[0]["content"] == f"Past: * {'a' * 12} = T0; * bbbbb = T1. Now: q"
    assert prompt.counts["cut"] == 1


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ({"item": "{target}"}, r"item='{target}' does not show {text}"),
        ({"item": "{text} {date}"}, r"item='{text} {date}' is no template of text, target: KeyError"),
        ({"profile": "{}"}, r"profile='{}' is no template of items: IndexError"),
        ({"query": "{query"}, r"query='{query' is no template of query: ValueError"),
        ({"query": "nothing"}, r"query='nothing' does not show {query}"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(templates: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptTemplates(**templates)


def switching() -> PreTrainedTokenizerFast:
    """A tokenizer whose template ends an empty thought where thinking is switched off, as Qwen3's does."""
    tokenizer = char_tokenizer()
    no_thought = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    tokenizer.chat_template = CHAT_TEMPLATE.replace("assistant\n{% endif", f"assistant\n{no_thought}{{% endif")
    return tokenizer


NO_THOUGHT = len(["<think>", "\n", "\n", "</think>", "\n", "\n"])


def test_what_a_template_setting_adds_counts() -> None:
    tokenizer, items, off = switching(), some_items(50), {"enable_thinking": False}
    whole = ProfilePrompt(LAMP_TASKS[4], tokenizer).messages(a_row(), items)
    ids = tokenizer.apply_chat_template(whole, add_generation_prompt=True, return_dict=False, **off)
    room = length(whole, tokenizer)
    assert len(ids) == room + NO_THOUGHT
    fits = ProfilePrompt(LAMP_TASKS[4], tokenizer, max_tokens=len(ids), over_budget="error", template_kwargs=off)
    assert fits.messages(a_row(), items) == whole
    assert ProfilePrompt(LAMP_TASKS[4], tokenizer, max_tokens=room, over_budget="error").messages(a_row(), items)
    refused = ProfilePrompt(LAMP_TASKS[4], tokenizer, max_tokens=room, over_budget="error", template_kwargs=off)
    with pytest.raises(ValueError, match=f"has {len(ids)} tokens, max_tokens is {room}"):
        refused.messages(a_row(), items)
    cut = ProfilePrompt(LAMP_TASKS[4], tokenizer, max_tokens=room, template_kwargs=off).messages(a_row(), items)
    assert shown_texts(cut) == ["a" * (50 - NO_THOUGHT)]


@pytest.mark.parametrize("settings", [{"enable_thinkin": False}, {"truncation": True}, {"thinking": 1, "tools": []}])
def test_settings_that_the_template_does_not_read_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"does not read {', '.join(settings)}; leave that out"):
        ProfilePrompt(LAMP_TASKS[4], switching(), template_kwargs={**settings, "enable_thinking": False})
