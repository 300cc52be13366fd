"""Hand-written files in LaMP's layout."""

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def item(name: str = "i", **fields: Any) -> Json:
    return {"id": name, "text": f"body of {name}", "title": f"title of {name}"} | fields


def question(name: str = "q", profile: list[Json] | None = None, **fields: Any) -> Json:
    row = {"id": name, "input": f"Headline for the article: news {name}", "profile": [item()]}
    return row | ({} if profile is None else {"profile": profile}) | fields


def write(folder: Path, questions: list[Json], golds: dict[str, Any] | None = None, split: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}_questions.json").write_text(json.dumps(questions), encoding="utf-8")
    if golds is None:
        golds = {str(row.get("id")): f"gold {row.get('id')}" for row in questions}
    listed = [{"id": name, "output": output} for name, output in golds.items()]
    (folder / f"{split}_outputs.json").write_text(json.dumps({"task": "LaMP_4", "golds": listed}), encoding="utf-8")
    return folder
