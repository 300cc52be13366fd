"""Text of a run against its page: nothing that a model, a user or a file name says becomes anything but text."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rlft.record import JsonLines
from rlft.report.item import MOST_TOKENS, Part, plain, shortened
from rlft.report.pack import SCRIPT
from rlft.report.write import write_report
from tests.record.test_pages import Outline
from tests.report.runs import carried, roles_and_texts, rollout, write_record

MARKUP = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
STRANGE = "a\x00b\x1b[31mc\u202ed\u200be\ud800f\u2066g\ufeffh"
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that attacks in every place where text can stand."""
    folder = tmp_path_factory.mktemp("hostile") / "<b>run"
    rows = [
        rollout(prompt=MARKUP + STRANGE, completion=MARKUP + STRANGE, rewards={MARKUP: 1.0, STRANGE: 0.0}),
        rollout([], prompt=MARKUP + STRANGE, completion="", reward=0.0),
        rollout([1.0], prompt="x" * 1_000_000, completion="y" * 1_000_000, group=2),
    ]
    run = write_record(folder, rows, config=f"training:\n  model_name_or_path: {MARKUP!r}\n  credit: {MARKUP!r}\n")
    (run / "tokenizer.json").unlink()  # the completions themselves are then shown
    (run / "<img src=x onerror=alert(1)>").write_text("")
    log = JsonLines(run / "record" / "metrics.jsonl")
    log.append({"step": 1, MARKUP: 1.0, f"rewards/{MARKUP}/error": 0.5, "reward": 1.0})
    alarm = {"step": MARKUP, "rule": MARKUP, "message": MARKUP + STRANGE, "value": MARKUP}
    JsonLines(run / "record" / "alarms.jsonl").append(alarm)
    return write_report(run, resamples=2)


def test_no_text_of_the_run_is_markup(hostile: Path) -> None:
    document = hostile.read_text(encoding="utf-8")
    outline = Outline(document)
    assert outline.open == []
    assert "img" not in outline.tags
    assert document.count("<img") == document.count("<b>run") == 0
    own = SCRIPT + document.partition("<style>")[2].partition("</style>")[0]
    assert not re.search("[\x00\x1b\u202e\u200b\u2066\ufeff]", document.replace(own, ""))
    assert document.count("<script>") == 1, "the viewer's own"
    assert not re.search(r"(src=|url\(|@import|http:|https:)", document.replace("src=x onerror", ""))


def test_rollouts_come_through_unchanged(hostile: Path) -> None:
    index, groups = carried(hostile.read_text())
    assert roles_and_texts(index, groups[0]["prompt"]) == [("prompt", MARKUP + STRANGE)]
    first, empty = (item[2] for item in groups[0]["items"])
    assert roles_and_texts(index, first) == [("trained", MARKUP + STRANGE)]
    assert roles_and_texts(index, empty) == []
    _, gap, _ = roles_and_texts(index, groups[1]["items"][0][2])
    assert gap == ("left out", "400,000 characters are left out here")
    assert hostile.stat().st_size < 2_000_000


def test_the_viewer_makes_text_nodes_only() -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|setTimeout\('", SCRIPT
    )


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_shows_text_and_runs_none_of_it(hostile: Path) -> None:
    command = [str(BROWSER), "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    shown = subprocess.run([*command, hostile.as_uri()], capture_output=True, check=True, timeout=120).stdout.decode()
    assert "<title>Run &lt;b&gt;run</title>" in shown, "no script of the run has run"
    assert "<img" not in shown
    assert 'class="rollout"' in shown, "the viewer did run"
    for char in STRANGE:
        if not char.isprintable():
            assert f'<span class="code">U+{ord(char):04X}</span>' in shown
    assert "&lt;/script&gt;&lt;script&gt;document.title=" in shown


def test_what_is_too_long_loses_its_middle() -> None:
    tokens = [str(place) for place in range(MOST_TOKENS + 500)]
    weights = [float(place) for place in range(len(tokens))]
    parts = [plain("prompt", "short"), Part("trained", "act", tokens, weights)]
    cut = shortened(parts)
    assert [part.role for part in cut] == ["prompt", "trained", "left out", "trained"]
    assert sum(len(part.texts) for part in cut) == MOST_TOKENS + 1
    assert [len(part.texts) for part in cut] == [len(part.weights or part.texts) for part in cut]
    assert cut[-1].texts[-1] == tokens[-1]
    assert (cut[-1].weights or [])[-1] == weights[-1]
    missing = set(tokens) - {text for part in cut for text in part.texts}
    assert f"{sum(map(len, missing)):,} characters" in cut[2].texts[0]
    assert shortened(parts[:1]) == parts[:1]
    assert "9,750 characters left out" in shortened([Part("trained", "", ["z" * 9950])])[0].texts[0].replace(
        "9750", "9,750"
    )
