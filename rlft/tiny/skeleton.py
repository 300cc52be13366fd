"""What an embedded task's model is made of, known without its warm-up."""

from typing import TYPE_CHECKING, Any

from rlft.tiny.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def skeleton(name: str) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The model of an embedded task with random weights, and its tokenizer.

    Args:
        name: a key of `TASKS`.

    Returns:
        (model, tokenizer), of the shape and the vocabulary that the warmed-up ones have.
    """
    from rlft.tiny.tokenizer import char_tokenizer
    from rlft.tiny.warmup import char_model

    task: Any = TASKS[name]
    tokenizer = task.tokenizer() if hasattr(task, "tokenizer") else char_tokenizer()
    return getattr(task, "build", char_model)(tokenizer, 0), tokenizer
