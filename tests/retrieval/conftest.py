"""What the retrieval tests share: a small world of passages with ties, quotes and other scripts."""

import json
import random
from pathlib import Path

import pytest

WORDS = [
    "amber",
    "bridge",
    "canal",
    "delta",
    "ember",
    "frost",
    "gable",
    "harbour",
    "island",
    "jetty",
    "kiln",
    "lantern",
]


def some_rows(count: int = 60) -> list[dict[str, str]]:
    """Rows in both forms; every tenth passage says the same as the one before it."""
    rng, rows = random.Random(0), list[dict[str, str]]()
    for i in range(count):
        text = " ".join(rng.choices(WORDS, weights=range(1, len(WORDS) + 1), k=rng.randint(3, 20)))
        title = f"{rng.choice(WORDS).title()} No. {rng.randint(1, 9)}"
        if i % 10 == 9:
            title, text = "", rows[-1]["text"] if "text" in rows[-1] else rows[-1]["contents"].partition("\n")[2]
        row = {"id": f"p{i}", "title": title, "text": text}
        rows.append(row if i % 2 else {"id": f"p{i}", "contents": f'"{title}"\n{text}'})
    return rows


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    """The rows as a file."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in some_rows()))
    return path
