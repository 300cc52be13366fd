"""Pages: everything escaped, nothing from the network, token texts that add up, colours and pictures in range."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rlft.record.page import contents, details, escaped, page, paragraph, section, table, write_page
from rlft.record.svg import HEIGHT, POINTS, WIDTH, bars, chart, thinned
from rlft.record.token_texts import find_tokenizer, ids_as_texts, token_reader

HOSTILE = "<script>alert(1)</script>\"'&\x00\x1b\u202eab\ud800"


class Outline(HTMLParser):
    """Tags, and whether every one that was opened is closed."""

    VOID = frozenset({"meta", "line", "rect", "circle", "polyline", "input", "br"})

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_hostile_text_stays_text_everywhere() -> None:
    parts = [
        section(HOSTILE, paragraph(HOSTILE), table([(HOSTILE, HOSTILE)], [HOSTILE])),
        details(HOSTILE, paragraph(HOSTILE)),
        chart(HOSTILE, {HOSTILE: [(0, 1), (1, 2)], "b": [(0, 1)]}, across=HOSTILE),
        bars([(HOSTILE, 0.5, 0.5)], label=HOSTILE),
    ]
    document = page(HOSTILE, [contents(parts), *parts])
    document.encode()  # lone surrogates would not encode
    outline = Outline(document)
    assert "script" not in outline.tags
    assert outline.open == []
    assert not re.search("[\x00\x1b\u202e]", document)


@pytest.mark.parametrize(
    "char", ["\x00", "\x1b", "\r", "\u202e", "\u200b", "\u2060", "\ufeff", "\ufe0f", "\u3164", "\u00a0", "\ud800"]
)  # fmt: skip
def test_what_nobody_sees_is_spelt_out(char: str) -> None:
    assert escaped(f"a{char}b") == f"a⟨U+{ord(char):04X}⟩b"


def test_what_can_be_seen_stays_as_it_is() -> None:
    assert escaped("naïve 日本\n\t🙂") == "naïve 日本\n\t🙂"


def test_a_page_asks_nothing_of_the_network() -> None:
    parts = [section("A b", table([("a", "b")])), chart("r", {"": [(0, 1), (1, 2)]})]
    document = page("t", [contents(parts), *parts])
    assert not re.search(r"(src=|href=(?!#)|url\(|@import|http:|https:)", document)
    assert "default-src 'none'" in document
    assert "<a href=#a-b>A b</a>" in document
    assert '<section id="a-b">' in document


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


def test_lines_stay_in_the_frame() -> None:
    for values in ([(1.0, 0.1), (2.0, 0.7)], [(3.0, 5.0)], [(1.0, -2e6), (2.0, -2e6), (9.0, 3.0)]):
        drawn = chart("r", {"": values})
        line = re.search('points="([^"]+)"', drawn)
        assert line
        places = [tuple(map(float, pair.split(","))) for pair in line[1].split()]
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
        assert 2 <= drawn.count('text-anchor="end">') <= 8


def test_a_long_line_keeps_its_spikes() -> None:
    line = [(float(step), 0.0) for step in range(10 * POINTS)]
    line[777], line[2222] = (777.0, 9.0), (2222.0, -9.0)
    drawn = thinned(line)
    assert len(drawn) <= POINTS
    assert {(777.0, 9.0), (2222.0, -9.0)} <= set(drawn)
    assert [step for step, _ in drawn] == sorted(step for step, _ in drawn)
    assert thinned(line[:POINTS]) == line[:POINTS]
