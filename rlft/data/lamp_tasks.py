"""The seven tasks of LaMP: the fields of a profile item, where the query stands in an input, labels and metrics.

LaMP (Salemi et al. 2024, arXiv 2304.11406) asks for the answer that one user would give, next to that user's past
items. Tasks 1 to 3 choose from a closed set, tasks 4 to 7 write a text.
"""

import re
from dataclasses import dataclass

_REFERENCES = re.compile(r'\[1\]: "(.*)"\s*\[2\]: "(.*)"\s*$', re.DOTALL)
"""Greedy and tied to the end: a title may hold quotation marks of its own."""


@dataclass(frozen=True)
class LampTask:
    """One task."""

    number: int
    name: str
    text: str
    """Field of a profile item that is long."""
    target: str | None
    """Field of a profile item that holds the user's own answer (of task 1, the user's own title); None of tweets."""
    input_word: str
    """Word that a prompt writes before the long field of an item."""
    query_word: str
    """Word that a prompt writes before the query; the same as `input_word` but for task 1."""
    answer_key: str
    """Key of the answer that a prompt asks for."""
    metrics: tuple[str, ...]
    """Names of LaMP's own metrics."""
    marker: str | None = None
    """The query follows the first place where this stands in an input; None where two references are compared."""
    labels: tuple[str, ...] | None = None
    """All answers that are allowed; None where a text is written."""

    def query_of(self, input: str) -> str:
        """The bare query of an input: what follows the marker, which the text itself may hold again.

        Of task 1 these are the two references, joined by a space (LaMP's quoted strings 2 and 3). They are read by
        their numbers `[1]:` and `[2]:`, because counting quotation marks fails on a title that has some.

        Raises:
            ValueError: if the marker is missing or nothing follows it; the message can be counted by.
        """
        if self.marker is None:
            found = _REFERENCES.search(input)
            if found is None:
                raise ValueError('the input does not end in [1]: "..." [2]: "..."')
            return " ".join(reference.strip() for reference in found.groups())
        _, marker, query = input.partition(self.marker)
        if not marker:
            raise ValueError(f"no {self.marker!r} in the input")
        if not query.strip():
            raise ValueError(f"nothing after {self.marker!r} in the input")
        return query.strip()


CHOICE = ("accuracy", "macro_f1")
RATING = ("mae", "rmse")
WRITING = ("rouge1", "rougeL")

MOVIE_TAGS = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)
NEWS_CATEGORIES = (
    "women",
    "religion",
    "politics",
    "style & beauty",
    "entertainment",
    "culture & arts",
    "sports",
    "science & technology",
    "travel",
    "business",
    "crime",
    "education",
    "healthy living",
    "parents",
    "food & drink",
)

LAMP_TASKS: dict[int, LampTask] = {
    task.number: task
    for task in (
        LampTask(
            number=1,
            name="citation",
            text="abstract",
            target="title",
            input_word="abstract",
            query_word="references",
            answer_key="reference",
            metrics=CHOICE,
            labels=("[1]", "[2]"),
        ),
        LampTask(
            number=2,
            name="movie tag",
            text="description",
            target="tag",
            input_word="description",
            query_word="description",
            answer_key="tag",
            metrics=CHOICE,
            marker="description:",
            labels=MOVIE_TAGS,
        ),
        LampTask(
            number=3,
            name="rating",
            text="text",
            target="score",
            input_word="text",
            query_word="text",
            answer_key="score",
            metrics=RATING,
            marker="review:",
            labels=("1", "2", "3", "4", "5"),
        ),
        LampTask(
            number=4,
            name="headline",
            text="text",
            target="title",
            input_word="text",
            query_word="text",
            answer_key="title",
            metrics=WRITING,
            marker="article:",
        ),
        LampTask(
            number=5,
            name="paper title",
            text="abstract",
            target="title",
            input_word="abstract",
            query_word="abstract",
            answer_key="title",
            metrics=WRITING,
            marker="paper:",
        ),
        LampTask(
            number=6,
            name="email subject",
            text="text",
            target="title",
            input_word="text",
            query_word="text",
            answer_key="title",
            metrics=WRITING,
            marker=":",
        ),
        LampTask(
            number=7,
            name="tweet paraphrase",
            text="text",
            target=None,
            input_word="tweet",
            query_word="tweet",
            answer_key="tweet",
            metrics=WRITING,
            marker=":",
        ),
    )
}
"""By number."""

LAMP_2_NEWS = LampTask(
    number=2,
    name="news category",
    text="text",
    target="category",
    input_word="text",
    query_word="text",
    answer_key="category",
    metrics=CHOICE,
    marker="article:",
    labels=NEWS_CATEGORIES,
)
"""Task 2 as first published; movie tags have taken its place."""
