"""What each token of a completion says, from the tokenizer that the run saved. Imports no torch."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

TOKENIZER_NAME = "tokenizer.json"
Reader = Callable[[Sequence[int]], list[str]]


def find_tokenizer(run: Path) -> Path | None:
    """The tokenizer file of a run: beside its model, in its newest checkpoint, or None.

    Args:
        run: the run's output folder.
    """
    places = [run, *sorted(run.glob("checkpoint-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)]
    return next((place / TOKENIZER_NAME for place in places if (place / TOKENIZER_NAME).is_file()), None)


def token_reader(path: Path) -> Reader:
    """A function from the T ids of a completion to T texts, which joined give the completion.

    A token that ends inside a character has the text "", and the token that completes the character has it.

    Args:
        path: a `tokenizer.json`, or the folder that holds it.

    Raises:
        ValueError: if the file is none.
    """
    file = path / TOKENIZER_NAME if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{file} is no tokenizer ({error}); name a folder with {TOKENIZER_NAME}.") from error

    def read(ids: Sequence[int]) -> list[str]:
        stream, texts = DecodeStream(skip_special_tokens=False), []
        for token in ids:
            try:
                texts.append(stream.step(tokenizer, token) or "")
            except Exception:  # the library's, of bytes that make no character; it is done with that stream
                stream = DecodeStream(ids=[token], skip_special_tokens=False)
                texts.append(tokenizer.decode([token], skip_special_tokens=False))
        return texts

    return read


def ids_as_texts(ids: Sequence[int]) -> list[str]:
    """Stands in where there is no tokenizer: each token as its id."""
    return [f"{token} " for token in ids]
