"""What the tests of several rooms share: the settings of a short run on one CPU, and a random model on disk."""

from pathlib import Path
from typing import Any

from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

ON_CPU: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}


def write_model(folder: Path, layers: int = 2) -> Path:
    """A random Qwen3 of 32 units, and its tokenizer of characters."""
    tokenizer = char_tokenizer()
    tokenizer.save_pretrained(folder)
    tiny_model(tokenizer, hidden=32, layers=layers).save_pretrained(folder)
    return folder
