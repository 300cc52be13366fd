"""Pages: everything escaped, nothing from the network, token texts that add up, colours and pictures in range."""

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rlft.record.heat_page import HEAT_STYLE, LEVELS, TOKENS_SHOWN, ShownGroup, heat_section
from rlft.record.page import escaped, page, paragraph, section, table, write_page
from rlft.record.run_page import reward_points, reward_section, summary_section
from rlft.record.svg import bars, curve
from rlft.record.token_texts import find_tokenizer, ids_as_texts, token_reader
from tests.record.test_rollouts import ROW

HOSTILE = "<script>alert(1)</script>\"'&\x00\x1b\u202eab\ud800"


class Outline(HTMLParser):
    """Open tags, the titles of tokens, and whether every tag that was opened is closed."""

    VOID = frozenset({"meta", "line", "rect", "circle", "polyline"})

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.classes: list[str] = []
        self.open: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "i" and "title" in found:
            self.titles.append(str(found["title"]))
            self.classes.append(str(found["class"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def letters(ids: Sequence[int]) -> list[str]:
    return [chr(96 + token) for token in ids]


def shown(weights: Sequence[float] = (1.25, 0.5, 2.0), **fields: object) -> ShownGroup:
    row = replace(ROW, credit=list(weights), token_ids=list(range(1, len(weights) + 1)), **fields)
    return ShownGroup([row, row, row], [True, False, None])


def test_hostile_text_stays_text_everywhere() -> None:
    read = lambda ids: [HOSTILE for _ in ids]  # noqa: E731
    parts = [
        section(HOSTILE, paragraph(HOSTILE), table([(HOSTILE, HOSTILE)], [HOSTILE])),
        heat_section([shown(prompt=HOSTILE)], read, note=HOSTILE),
        summary_section(Path("run"), {"model_name_or_path": HOSTILE}, []),
        bars([(HOSTILE, 0.5, 0.5)], label=HOSTILE),
    ]
    document = page(HOSTILE, parts, style=HEAT_STYLE)
    document.encode()  # lone surrogates would not encode
    outline = Outline(document)
    assert "script" not in outline.tags
    assert outline.open == []
    assert not re.search("[\x00\x1b\u202e]", document)
    assert escaped("\u202e\n\t") == "\\u202e\n\t"


def test_a_page_asks_nothing_of_the_network() -> None:
    document = page("t", [heat_section([shown(), shown()], letters), curve([(0, 1), (1, 2)], label="r")])
    assert not re.search(r"(src=|href=|url\(|@import|http:|https:)", document)
    assert "default-src 'none'" in document
    assert document.count("<script>") == 1


def test_tokens_carry_weight_and_text_and_a_colour_by_weight() -> None:
    group = ShownGroup([replace(ROW, token_ids=[1, 2, 3, 4], credit=[0.0, 0.1, 1.0, 2.0])], [True])
    outline = Outline(heat_section([group], letters))
    assert outline.titles == ["0 a", "0.1 b", "1 c", "2 d"]
    levels = [int(kind[1:]) for kind in outline.classes[1:]]
    assert outline.classes[0] == "u"
    assert levels == sorted(levels)
    assert levels[-1] == LEVELS - 1
    assert all(f".c{level}{{" in HEAT_STYLE for level in levels)


def test_weights_of_one_are_not_coloured() -> None:
    document = heat_section([shown((1.0, 0.0, 1.0))], letters)
    assert set(Outline(document).classes) == {"c0", "u"}
    assert "legend" not in document


def test_one_outlier_does_not_fade_the_other_weights() -> None:
    document = heat_section([shown([1.0] * 200 + [100.0])], lambda ids: ["a" for _ in ids])
    assert "<span>1 and above</span>" in document
    assert set(Outline(document).classes) == {f"c{LEVELS - 1}"}


def test_correct_stand_beside_wrong_and_unscored() -> None:
    document = heat_section([shown()], letters)
    assert [document.count(f"<h3>{name} (1)</h3>") for name in ("Correct", "Wrong", "Not scored")] == [1, 1, 1]
    assert document.index("Correct (1)") < document.index("Wrong (1)")
    assert "step 3, group 1: 1 of 2 correct" in document


def test_groups_beyond_the_size_of_a_page_are_left_out_and_counted() -> None:
    long = ShownGroup([replace(ROW, token_ids=[1] * (TOKENS_SHOWN // 2), credit=[1.0] * (TOKENS_SHOWN // 2))], [True])
    document = heat_section([long, long, long, shown()], lambda ids: [""] * len(ids))
    assert "2 more groups would make the page too large" in document
    assert document.count('class="group"') == 2


def test_line_breaks_are_shown_and_made() -> None:
    assert "a↵\n</i>" in heat_section([shown()], lambda ids: ["a\n" for _ in ids])


def test_byte_level_tokens_add_up_to_the_text(tmp_path: Path) -> None:
    text = "naïve 日本\n€"
    alphabet = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert find_tokenizer(tmp_path) == tmp_path / "tokenizer.json"
    ids = tokenizer.encode(text).ids
    found = token_reader(tmp_path)(ids)
    assert len(found) == len(ids) > len(text)
    assert "".join(found) == text


def test_byte_fallback_tokens_never_raise(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<0x0A>": 0, "<0xD2>": 1, "b": 2, "<0x82>": 3}, unk_token="b"))
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    read = token_reader(tmp_path)
    assert read([2, 1, 3, 0, 2]) == ["b", "", "\u0482", "\n", "b"]
    for length in range(6):
        for ids in product(range(4), repeat=length):
            texts = read(ids)
            assert len(texts) == length
            assert all(text.endswith("b") for token, text in zip(ids, texts, strict=True) if token == 2)


def test_the_newest_checkpoint_has_the_tokenizer_of_a_run_that_goes_on(tmp_path: Path) -> None:
    assert find_tokenizer(tmp_path) is None
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "tokenizer.json").write_text("{}")
    assert find_tokenizer(tmp_path) == tmp_path / "checkpoint-5" / "tokenizer.json"
    with pytest.raises(ValueError, match="is no tokenizer"):
        token_reader(tmp_path / "checkpoint-5")
    assert ids_as_texts([3, 5]) == ["3 ", "5 "]


def test_curves_stay_in_the_frame_and_a_repeated_step_counts_once() -> None:
    rows = [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.5}, {"step": 2, "reward": 0.7}, {"step": 3}]
    rows += [{"step": 4, "reward": float("nan")}, {"step": 5, "loss": 1.0}]
    assert reward_points(rows) == [(1.0, 0.1), (2.0, 0.7)]
    for values in ([(1.0, 0.1), (2.0, 0.7)], [(3.0, 5.0)], [(1.0, -2e6), (2.0, -2e6), (9.0, 3.0)]):
        drawn = curve(values, label="r")
        line = re.search('points="([^"]+)"', drawn)
        assert line
        places = [tuple(map(float, pair.split(","))) for pair in line[1].split()]
        assert all(0 <= x <= 640 and 0 <= y <= 220 for x, y in places)
        assert 2 <= drawn.count('text-anchor="end">') <= 8


def test_what_is_missing_is_said() -> None:
    assert "No curve: no metrics.jsonl" in reward_section([])
    assert "No curve: none of the 1 logged rows has a finite `reward`" in reward_section([{"step": 1, "loss": 2.0}])
    assert "There is no config.yaml" in summary_section(Path("run"), {}, [])


def test_a_page_needs_its_folder(tmp_path: Path) -> None:
    assert write_page(tmp_path / "a.html", page("t", [])).read_text().startswith("<!doctype html>")
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_page(tmp_path / "absent" / "a.html", "")


def test_a_page_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "report.html"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        write_page(folder, page("t", []))
    assert list(tmp_path.iterdir()) == [folder]
