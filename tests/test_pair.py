"""The pair for use: equal to its rollouts, in one base or two, errors before loading, and as a retriever."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlft
from rlft.pair import DROPair, Half, SelectedRetriever
from rlft.pair_folder import ROLES, read_pair_folder
from rlft.plugins import PluginError
from rlft.retrieval import Passage, RetrievalError, load_retriever
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.list_text import ListOptions
from rlft.rollouts.permutation import PermutationRollout
from rlft.rollouts.policy import GREEDY
from rlft.rollouts.reading import AnswerRollout, ReadingOptions
from rlft.rollouts.search import SearchRollout
from rlft.rollouts.search_text import MARKERS, SearchOptions
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer
from tests.rollouts.scripted import ScriptedPolicy, Shelf

LISTS = ListOptions(
    size=3,
    constrained=True,  # so that random weights write lists
    max_list_tokens=24,
    max_tokens=300,
    instruction="{passages}\nQ: {question} {size}/{count}",
    passage="[{n}] {title}: {text}",
)
READING = ReadingOptions(
    instruction="{passages}\nQ: {question}",
    passage="[{n}] {title}: {text}",
    closed_book="Q: {question}",
    max_answer_tokens=6,
    max_tokens=300,
)
QUESTIONS = ["where was desu born", "who is pule", "what", "desu and veda"]
PASSAGES = [
    [{"title": f"t{i}", "text": f"{'abcdefgh'[i]} {i * i} {word}"} for i in range(5 + place)]
    for place, word in enumerate(["veda", "gora", "baso", "sami"])
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return char_tokenizer()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> list[Path]:
    """Two models with their tokenizer."""
    folders = [tmp_path_factory.mktemp(f"base{seed}") for seed in range(2)]
    for seed, folder in enumerate(folders):
        tiny_model(tokenizer, hidden=32, layers=2, seed=seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


def write_pair(
    folder: Path, selector_base: Path, generator_base: Path, lists: ListOptions = LISTS, *, adapters: bool = True
) -> Path:
    """A finished run's folder: adapters with random weights, or whole models."""
    for seed, (role, base) in enumerate([("selector", selector_base), ("generator", generator_base)]):
        model: Any = AutoModelForCausalLM.from_pretrained(base)
        if adapters:
            torch.manual_seed(seed)
            config = LoraConfig(r=4 + seed, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
            model = get_peft_model(model, config)
        model.save_pretrained(folder / role)
    said = {
        "selector_model": str(selector_base),
        "generator_model": str(generator_base),
        "list": asdict(lists),
        "reading": asdict(READING),
        "chat_template_kwargs": {},
    }
    (folder / "pair.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bases: list[Path]) -> Path:
    """Two adapters of one base."""
    return write_pair(tmp_path_factory.mktemp("pair"), bases[0], bases[0])


@pytest.fixture(scope="module")
def pair(folder: Path) -> DROPair:
    return DROPair.load(folder, device="cpu")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The pair's folder, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def by_the_rollouts(tokenizer: Any, selector: Any, generator: Any) -> tuple[list[list[int]], list[str]]:
    """What the rollouts give with each model alone: the lists, and the answers from them."""
    frame = ChatFrame(tokenizer)
    policies = [
        TransformersPolicy(model.eval(), frame.stop_ids, tokenizer.pad_token_id) for model in (selector, generator)
    ]
    listed = [[{"id": str(i), **one} for i, one in enumerate(passages)] for passages in PASSAGES]
    rows = [{"question": q, "candidates": found} for q, found in zip(QUESTIONS, listed, strict=True)]
    lists = [one.fields["list"] for one in PermutationRollout(frame, LISTS)(rows, policies[0], GREEDY)]
    chosen = [[found[place] for place in places] for found, places in zip(listed, lists, strict=True)]
    read = [{"question": q, "passages": found} for q, found in zip(QUESTIONS, chosen, strict=True)]
    return lists, [one.fields["answer"] for one in AnswerRollout(frame, READING)(read, policies[1], GREEDY)]


def test_two_adapters_of_one_base_say_what_each_says_alone(
    pair: DROPair, folder: Path, bases: list[Path], tokenizer: Any
) -> None:
    alone = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[0]), str(folder / role))
        for role in ("selector", "generator")
    ]
    lists, answers = by_the_rollouts(tokenizer, *alone)
    assert pair.selector.model is pair.generator.model
    assert lists != [[0, 1, 2]] * 4  # or the test would say little
    assert len(set(answers)) > 1
    for _ in range(2):  # one after the other, so that the adapters are switched
        assert [pair.select(q, found) for q, found in zip(QUESTIONS, PASSAGES, strict=True)] == lists
        assert [pair.answer(q, found) for q, found in zip(QUESTIONS, PASSAGES, strict=True)] == answers
    assert pair.select_all(QUESTIONS, PASSAGES) == lists
    assert pair.answer_all(QUESTIONS, PASSAGES) == answers
    best = [[found[place] for place in places] for found, places in zip(PASSAGES, lists, strict=True)]
    assert pair.read_all(QUESTIONS, best) == answers
    assert by_the_rollouts(tokenizer, alone[1], alone[0]) != (lists, answers)


@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "whole"])
def test_two_models_say_what_each_says_alone(tmp_path: Path, bases: list[Path], tokenizer: Any, adapters: bool) -> None:
    folder = write_pair(tmp_path, *bases, adapters=adapters)
    alone = []
    for role, base in zip(("selector", "generator"), bases, strict=True):
        model: Any = AutoModelForCausalLM.from_pretrained(base if adapters else folder / role)
        alone.append(PeftModel.from_pretrained(model, str(folder / role)) if adapters else model)
    lists, answers = by_the_rollouts(tokenizer, *alone)
    if not adapters:
        tokenizer.save_pretrained(folder)  # the run's own goes before that of a base which may be gone
        changed(selector_model="/gone", generator_model="/gone")(folder)
    pair = DROPair.load(folder, batch_size=3)
    assert pair.selector.model is not pair.generator.model
    assert pair.select_all(QUESTIONS, PASSAGES) == lists
    assert pair.answer_all(QUESTIONS, PASSAGES) == answers


def test_passages_in_any_form(pair: DROPair) -> None:
    found = [{"title": "", "text": one["text"]} for one in PASSAGES[0]]
    places = pair.select(QUESTIONS[0], found)
    assert pair.select(QUESTIONS[0], [one["text"] for one in found]) == places
    assert pair.select(QUESTIONS[0], [Passage("same", "", one["text"], 0.0) for one in found]) == places
    assert pair.select(QUESTIONS[0], tuple({"text": one["text"]} for one in found)) == places
    assert pair.select(QUESTIONS[0], [{"contents": one["text"]} for one in found]) == places


def test_few_passages(pair: DROPair) -> None:
    assert pair.select("what", []) == []
    assert pair.select("what", ["one"]) == [0]
    for count in (2, 3):
        assert sorted(pair.select("what", ["one", "two", "three"][:count])) == list(range(count))
    assert pair.select_all(QUESTIONS, [[], ["a"], ["a", "b"], PASSAGES[3]]) == [
        [],
        [0],
        pair.select(QUESTIONS[2], ["a", "b"]),
        pair.select(QUESTIONS[3], PASSAGES[3]),
    ]
    assert pair.answer("what", []) == pair.read("what", [])
    assert pair.select_all([], []) == pair.answer_all([], []) == []


def test_an_untidy_list_is_filled_up_in_the_given_order(copy: Path, tokenizer: Any) -> None:
    changed(list=asdict(LISTS) | {"constrained": False, "invalid": "resample", "parsing": "strict"})(copy)
    half = Half(ChatFrame(tokenizer), ScriptedPolicy(tokenizer, lambda prompt: "best: [4], [4], 9"))
    assert DROPair(read_pair_folder(copy), half, half).select("what", PASSAGES[0]) == [3, 0, 1]


def test_settings_of_the_template_count(copy: Path) -> None:
    changed(chat_template_kwargs={"thinking": True})(copy)
    tokenizer = char_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "{{ 'think' if thinking else 'assistant' }}")
    tokenizer.save_pretrained(copy / "selector")
    pair = DROPair.load(copy)
    assert "think" in tokenizer.decode(pair.selector.frame.opening("x"))
    assert "assistant" in tokenizer.decode(pair.generator.frame.opening("x"))


def test_too_long_is_refused(pair: DROPair) -> None:
    with pytest.raises(ValueError, match=r"question 1'.* max_tokens=300"):
        pair.select_all(["what", "who"], [PASSAGES[0], ["long " * 40] * 4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair: pair.select("what", "a text"), "passages is one str; give a list"),
        (lambda pair: pair.select("what", {"text": "a"}), "passages is one dict; give a list"),
        (lambda pair: pair.select("what", ["a", " "]), "question 0, passage 1 has no text"),
        (lambda pair: pair.select("what", ["a", {"title": "t"}]), 'question 0, passage 1: neither "contents" nor'),
        (lambda pair: pair.select("what", ["a", 3]), "question 0, passage 1 is a int"),
        (lambda pair: pair.select(" ", ["a", "b"]), "has no question"),
        (lambda pair: pair.read("", ["a"]), "has no question"),
        (lambda pair: pair.answer_all("what", [["a"]]), "one text and 1 lists of passages"),
        (lambda pair: pair.select_all(["a", "b"], [["a"]]), "2 questions and 1 lists of passages"),
    ],
)
def test_bad_input_is_refused(pair: DROPair, call: Callable[[DROPair], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(pair)


def without(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def changed(**said: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        kept = json.loads((folder / "pair.json").read_text()) | said
        (folder / "pair.json").write_text(json.dumps({name: value for name, value in kept.items() if value is not ...}))

    return damage


def whole_generator(folder: Path) -> None:
    (folder / "generator" / "adapter_config.json").rename(folder / "generator" / "config.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("generator"), r"has no generator/\. A finished DRO run leaves pair.json and the folders"),
        (without("selector"), "has no selector/"),
        (without("pair.json"), r"has no pair.json\. A finished DRO run"),
        (without("selector/adapter_config.json"), "selector holds neither adapter_config.json nor config.json"),
        (without("generator/adapter_model.safetensors"), r"generator has no adapter_model\.safetensors"),
        (whole_generator, "selector/ holds an adapter and generator/ holds a whole model"),
        (lambda folder: (folder / "pair.json").write_text("{"), "pair.json is not JSON"),
        (lambda folder: (folder / "pair.json").write_text("[]"), "pair.json holds a list"),
        (changed(selector_model=...), "'selector_model' is missing"),
        (changed(list={"sise": 3}), "sise"),
        (changed(reading={"max_tokens": 0}), "max_tokens=0"),
        (changed(generator_model="/gone/base"), "base of generator/ was /gone/base, and there is no such folder"),
    ],
)
def test_a_damaged_folder_is_refused_before_a_model_is_loaded(
    copy: Path, damage: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(copy)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *args, **settings: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=message):
        DROPair.load(copy)


@pytest.mark.parametrize("bases_of", [(0, 0), (0, 1)], ids=["one base", "two bases"])
def test_bases_are_loaded_as_the_run_loaded_them(
    tmp_path: Path, bases: list[Path], bases_of: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their revisions, and their code if that is allowed; a tokenizer of the folder's own has no revision."""
    folder = write_pair(tmp_path, *(bases[number] for number in bases_of))
    revision = {f"{role}_revision": f"v{number}" for role, number in zip(ROLES, bases_of, strict=True)}
    changed(**revision)(folder)
    AutoTokenizer.from_pretrained(bases[0]).save_pretrained(folder / "generator")
    seen: dict[str, list[tuple[Path, Any, Any]]] = {"model": [], "tokenizer": []}

    def watched(what: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(place: Any, **settings: Any) -> Any:
            seen[what].append((Path(place), settings.get("revision"), settings["trust_remote_code"]))
            return original(place, **settings)

        return load

    for what, owner in (("model", AutoModelForCausalLM), ("tokenizer", AutoTokenizer)):
        monkeypatch.setattr(owner, "from_pretrained", watched(what, owner.from_pretrained))
    for trusted in (False, True):
        for found in seen.values():
            found.clear()
        DROPair.load(folder, **({"trust_remote_code": True} if trusted else {}))
        assert seen["model"] == [(bases[number], f"v{number}", trusted) for number in dict.fromkeys(bases_of)]
        assert seen["tokenizer"] == [(bases[0], "v0", trusted), (folder / "generator", None, trusted)]


def test_two_revisions_are_two_bases(copy: Path) -> None:
    assert read_pair_folder(copy).one_base
    changed(selector_revision="v1", generator_revision="v2")(copy)
    assert not read_pair_folder(copy).one_base


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is no folder"):
        rlft.DROPair.load(tmp_path / "nowhere")


SHELF = {"q": [f"t{i} | {word}" for i, word in enumerate(["veda", "gora", "baso", "sami", "desu", "pule"])]}


def test_as_a_retriever(pair: DROPair) -> None:
    shelf = Shelf(SHELF)
    retriever = load_retriever(SelectedRetriever(shelf, pair, retrieved=5))
    found = shelf.search(["q"], 6)[0]
    places = pair.select("q", found[:5])
    rest = [place for place in range(6) if place not in places]
    for k in (1, 2, 3, 4, 6, 9):
        best = [found[place] for place in [*places, *rest]][:k]
        expected = best if k > 5 else [one for one in best if one is not found[5]]
        assert retriever.search(["q", "nothing"], k) == [expected, []]
    with pytest.raises(RetrievalError, match="takes a list of queries"):
        retriever.search("q", 3)


def test_by_its_spec(folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": str(i), "title": f"t{i}", "text": f"desu {'abcdef'[i]}"} for i in range(6)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    retriever = load_retriever(f"""selected(retriever="bm25(corpus='{corpus}')", pair={str(folder)!r}, retrieved=4)""")
    assert len(retriever.search(["desu"], 3)[0]) == 3
    with pytest.raises(PluginError, match="missing a required argument: 'pair'"):
        load_retriever(f"""selected(retriever="bm25(corpus='{corpus}')")""")
    with pytest.raises(ValueError, match="is no folder"):
        load_retriever(f"""selected(retriever="bm25(corpus='{corpus}')", pair={str(tmp_path / "nowhere")!r})""")


def test_its_name_changes_with_what_it_is_made_of(pair: DROPair, copy: Path) -> None:
    other = Shelf(SHELF)
    other.name = "other shelf"
    moved = DROPair.load(copy)
    changed(list=asdict(LISTS) | {"size": 2})(copy)
    names = [
        SelectedRetriever(Shelf(SHELF), pair).name,
        SelectedRetriever(other, pair).name,
        SelectedRetriever(Shelf(SHELF), pair, 7).name,
        SelectedRetriever(Shelf(SHELF), DROPair.load(copy)).name,
    ]
    assert len(set(names)) == 4
    changed(list=asdict(LISTS))(copy)
    assert moved.digest == pair.digest  # wherever it lies


@pytest.mark.parametrize("retrieved", [0, -1, 2.5, True])
def test_how_many_to_choose_from_is_a_count(pair: DROPair, retrieved: Any) -> None:
    with pytest.raises(ValueError, match="retrieved="):
        SelectedRetriever(Shelf(SHELF), pair, retrieved)


def test_what_the_selector_cannot_read_is_an_error_of_retrieval(pair: DROPair) -> None:
    retriever = SelectedRetriever(Shelf({"q": ["long " * 40] * 4}), pair)
    with pytest.raises(RetrievalError, match="lower retrieved"):
        retriever.search(["q"], 3)


def test_threads_get_what_one_gets(pair: DROPair) -> None:
    expected = pair.select_all(QUESTIONS, PASSAGES), pair.answer_all(QUESTIONS, PASSAGES)
    got: dict[int, Any] = {}

    def use(number: int) -> None:
        method = (pair.select_all, pair.answer_all)[number % 2]
        got[number] = method(QUESTIONS, PASSAGES)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: expected[number % 2] for number in range(6)}


def test_in_the_search_loop(pair: DROPair, tokenizer: Any) -> None:
    shelf = Shelf(SHELF)
    said = iter(["<QUERY> q", "<FACT> f <FINAL>", "sami"])
    policy = ScriptedPolicy(tokenizer, lambda prompt: next(said))
    rollout = SearchRollout(
        ChatFrame(tokenizer, markers=MARKERS), SelectedRetriever(shelf, pair), SearchOptions(passages=3)
    )
    (trajectory,) = rollout([{"question": "where"}], policy, GREEDY)
    found = shelf.search(["q"], 6)[0]
    assert trajectory.fields["answer"] == "sami"
    assert trajectory.fields["passage_ids"] == [[found[place].id for place in pair.select("q", found)]]
