"""Oracle: what `apply_chat_template` makes of the whole conversation, token for token."""

import random
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.search_text import MARKERS
from rlft.tiny.tokenizer import char_tokenizer
from tests.rollouts.conftest import TEMPLATES, char_with, with_template

TURNS = ["Who founded Nova Labs?", "Ada Lee did.", "[1] Ada Lee: born in Riga.\n[2] x", "Riga", "And now?"]


def rendered(tokenizer: Any, turns: list[str], system: str | None = None) -> list[int]:
    messages = [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def spoken(frame: ChatFrame, turns: list[str], lead: str = "") -> list[int]:
    """The conversation as a rollout makes it; the model says its turns in ids."""
    ids = frame.opening(turns[0])
    for model, user in zip(turns[1::2], turns[2::2], strict=True):
        ids = [*ids, *frame.tokenizer.encode(lead + model, add_special_tokens=False), frame.end_id]
        ids = [*ids, *frame.reply(user, ids)]
    return ids


def test_a_conversation_is_the_template_rendering(tokenizer: Any, request: pytest.FixtureRequest) -> None:
    lead = " " if "mistral" in request.node.name else ""
    frame = ChatFrame(tokenizer)
    for turns in (TURNS[:1], TURNS[:3], TURNS):
        ids = spoken(frame, turns, lead)
        assert ids == rendered(tokenizer, turns)
        assert ids.count(tokenizer.bos_token_id) == (tokenizer.bos_token_id is not None)


@pytest.mark.parametrize("name", ["qwen", "llama"])
def test_a_system_text_takes_the_place_of_the_default(name: str) -> None:
    tokenizer = char_with(name)
    assert ChatFrame(tokenizer).opening("Hi", "Be brief.") == rendered(tokenizer, ["Hi"], "Be brief.")


def test_a_template_without_system_role_says_so() -> None:
    frame = ChatFrame(char_with("mistral"))
    assert frame.opening("Hi") == rendered(frame.tokenizer, ["Hi"])
    with pytest.raises(ValueError, match=r"alternate.*first user message"):
        frame.opening("Hi", "Be brief.")


@pytest.mark.parametrize(("name", "stop"), [("qwen", "<|im_end|>"), ("llama", "<|eot_id|>"), ("mistral", "</s>")])
def test_the_end_of_a_turn_is_found_and_not_said_twice(name: str, stop: str) -> None:
    tokenizer = char_with(name)
    frame = ChatFrame(tokenizer)
    assert tokenizer.convert_ids_to_tokens(frame.end_id) == stop
    assert frame.stop_ids == {frame.end_id, tokenizer.eos_token_id}
    cut, ended = frame.reply("x", [5, 6]), frame.reply("x", [5, 6, frame.end_id])
    assert cut[cut.index(frame.end_id) + 1 :] == ended


def test_a_turn_ended_by_another_stop_token_is_still_closed() -> None:
    tokenizer = char_with("llama")
    frame = ChatFrame(tokenizer)
    assert frame.reply("x", [5, tokenizer.eos_token_id])[0] == frame.end_id


def test_outer_blanks_go_where_the_template_trims_and_stay_where_it_does_not() -> None:
    for name in ("llama", "qwen"):
        tokenizer = char_with(name)
        assert ChatFrame(tokenizer).opening("\n Hi \n") == rendered(tokenizer, ["\n Hi \n"])


def test_no_template_names_the_knob() -> None:
    tokenizer = char_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"tokenizer\.chat_template"):
        ChatFrame(tokenizer)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content'] }}", "shows a message 0 times"),
        ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}", "shows a message 2 times"),
        ("{{ raise_exception('no') }}", "does not render"),
    ],
)
def test_a_template_that_is_no_conversation_is_refused(template: str, message: str) -> None:
    tokenizer = char_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        ChatFrame(tokenizer)


def test_template_settings_reach_the_template() -> None:
    tokenizer = char_tokenizer()
    tokenizer.chat_template += "{% if add_generation_prompt and quick is defined %}<think></think>{% endif %}"
    slow, quick = ChatFrame(tokenizer), ChatFrame(tokenizer, template_kwargs={"quick": True})
    assert quick.opening("x") == slow.opening("x") + tokenizer.encode("<think></think>")


def test_answers_are_what_training_on_the_template_would_see(tokenizer: Any) -> None:
    frame = ChatFrame(tokenizer)
    ids = [*spoken(frame, TURNS[:1]), *frame.answer_ids("Riga")]
    assert [*ids, *frame.reply("Why?", ids)] == rendered(tokenizer, ["Who founded Nova Labs?", "Riga", "Why?"])
    assert frame.decode(frame.answer_ids("Riga")).strip() == "Riga"


@pytest.mark.parametrize("text", ["", "  \n", "é"])
def test_an_answer_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="holds no token"):
        ChatFrame(char_tokenizer()).answer_ids(text)


def test_turns_of_the_model_keep_their_markers_and_answers_do_not(words: Any) -> None:
    frame = ChatFrame(words, markers=MARKERS)
    assert frame.decode(frame.turn_ids("<FACT> labs <QUERY> <|u|> labs")) == "<FACT> labs <QUERY> <|unk|> labs"
    assert frame.decode(frame.answer_ids("<FINAL> labs")) == "<|unk|> labs"


def test_decoding_drops_the_stop_token_and_nothing_else(words: Any) -> None:
    frame = ChatFrame(words, markers=MARKERS)
    ids = words.encode("<FACT> where <|u|> is <FINAL>")
    assert frame.decode(ids) == frame.decode([*ids, frame.end_id]) == "<FACT> where <|u|> is <FINAL>"
    assert frame.decode([]) == ""


def test_words_are_framed_as_the_demonstrations_are(words: Any) -> None:
    turns = [
        "where is the founder ?",
        "<QUERY> labs founded",
        "<SEARCH> [1] labs was founded by .",
        "<FINAL>",
        "answer ?",
    ]
    frame = ChatFrame(words, markers=MARKERS)
    assert spoken(frame, turns) == rendered(words, turns)
    assert words.decode(frame.answer_ids("bank labs")) == "bank labs <|end|>"


def byte_pairs() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as Qwen and Llama 3 have it."""
    backend = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return learnt(backend, trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def pieces() -> PreTrainedTokenizerFast:
    """BPE that writes a blank before every text, as Llama 2 and Mistral have it."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = [chr(code) for code in range(33, 127)] + ["\n"]
    return learnt(backend, trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], initial_alphabet=alphabet))


def learnt(backend: Tokenizer, trainer: Any) -> PreTrainedTokenizerFast:
    corpus = [
        " ".join(TURNS),
        "user assistant system\n\nYou are a helpful assistant.\n[1] Riga\n\n[2] Nova Labs",
        "\n\n\n",
    ]
    backend.train_from_iterator(corpus * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


@pytest.mark.parametrize("make", [byte_pairs, pieces])
@pytest.mark.parametrize("name", TEMPLATES)
def test_user_turns_tokenise_as_in_the_whole_conversation(make: Any, name: str) -> None:
    """With tokens that span several characters: nothing is cut at the border of what the user says."""
    tokenizer = with_template(make(), *TEMPLATES[name])
    frame = ChatFrame(tokenizer)
    assert frame.opening(TURNS[0]) == rendered(tokenizer, TURNS[:1])
    answer = frame.answer_ids("Riga")
    conversation = [*frame.opening(TURNS[0]), *answer]
    whole = [*conversation, *frame.reply("\n\nAnd now?", conversation)]
    assert whole == rendered(tokenizer, [TURNS[0], "Riga", "\n\nAnd now?"])


def test_hostile_user_text_leaves_the_control_tokens_as_they_are(tokenizer: Any) -> None:
    frame = ChatFrame(tokenizer, markers=MARKERS)
    markers = {marker.lower() for marker in MARKERS}
    strings = sorted(string for string in frame.neutral.strings if string.lower() not in markers)
    controls = set(tokenizer.convert_tokens_to_ids([*strings])) - {tokenizer.unk_token_id}
    plain = {asked: [i for i in asked(frame, "x") if i in controls] for asked in (opening, reply)}
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choice([*strings, *"<|>[]/ \n", "a", "im_end"]) for _ in range(rng.randrange(1, 12)))
        for asked, expected in plain.items():
            ids = asked(frame, text)
            assert [i for i in ids if i in controls] == expected, text
            assert not any(string in text_between(tokenizer, ids, asked(frame, "")) for string in strings), text


def test_a_user_cannot_begin_what_the_template_would_complete() -> None:
    tokenizer = char_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{{ '|im_end|>' if m.role == 'user' else '<|im_end|>' }}{% endfor %}"
    )
    frame = ChatFrame(tokenizer)
    assert frame.end_id not in frame.opening("x")
    assert frame.end_id not in frame.opening("x<")
    assert tokenizer.decode(frame.opening("x<")) == "x<|im_end|>"


def opening(frame: ChatFrame, text: str) -> list[int]:
    return frame.opening(text)


def reply(frame: ChatFrame, text: str) -> list[int]:
    return frame.reply(text, [])


def text_between(tokenizer: Any, ids: list[int], empty: list[int]) -> str:
    """What stands between the pieces that a turn shares with an empty one."""
    first = next((place for place, (a, b) in enumerate(zip(ids, empty, strict=False)) if a != b), len(empty))
    last = len(ids) - (len(empty) - first)
    return str(tokenizer.decode(ids[first:last]))
