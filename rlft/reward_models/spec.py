"""What a scorer reads and how it is written for it. No torch.

blind    s(q, y)      question and answer, as in PrLM (arXiv 2508.07342); it cannot tell one user from another
aware    s(q, R, y)   the items R that the policy was shown stand before the question
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from rlft.reward_models.users import Item

FORMS = ("blind", "aware")
OVER_LENGTH = ("cut", "error")
ITEM_FIELDS = ("text", "target", "date")
"""What a template can show of an item."""
_FIELDS = {
    "item": {*ITEM_FIELDS},
    "profile": {"items"},
    "query": {"query"},
    "answer": {"answer"},
}


@dataclass(frozen=True)
class ScorerSpec:
    """Form, task and templates of a scorer: what stands in its `scorer.json`.

    Templates are `str.format` texts; what fills them is never read as a template. `query` and `answer` must show what
    they are named after.

    Raises:
        ValueError: naming the option, its value and its rule.
    """

    form: str
    """`blind` or `aware`."""
    task: str
    """What it was trained for, such as `LaMP_5`; it scores nothing else."""
    item: str = "{text} {target}"
    """One item of the profile: `text`, `target` and `date`, blank where there is none."""
    join: str = "\n"
    """Between items."""
    profile: str = "{items}\n"
    """The profile, before the question; left out where no item is shown."""
    query: str = "{query}"
    answer: str = "{answer}"
    max_length: int = 512
    """Tokens that the model reads of all together. Question and answer are never cut."""
    over_length: str = "cut"
    """A profile with too many tokens: `cut` drops its last ones (items stand best first), `error` refuses it."""
    temperature: float = 1.0
    """T of InfoNCE; the score s is the model's output divided by it, the log-odds that training saw."""

    def __post_init__(self) -> None:
        if self.form not in FORMS or self.over_length not in OVER_LENGTH:
            raise ValueError(
                f"form={self.form!r} must be one of {', '.join(FORMS)}, over_length={self.over_length!r} one of "
                f"{', '.join(OVER_LENGTH)}."
            )
        if not self.task or self.max_length < 1 or not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"task={self.task!r} must be named, max_length={self.max_length} be at least 1, "
                f"temperature={self.temperature} be positive and finite."
            )
        for name, allowed in _FIELDS.items():
            _check_template(name, getattr(self, name), allowed)

    def texts(self, query: str, items: Sequence[Item], answer: str) -> tuple[str, str, str]:
        """Profile, question and answer as the scorer reads them; the profile is empty for the blind form."""
        shown = self.profile.format(items=self.join.join(map(self._item, items))) if self._sees(items) else ""
        return shown, self.query.format(query=query), self.answer.format(answer=answer)

    def _sees(self, items: Sequence[Item]) -> bool:
        return self.form == "aware" and bool(items)

    def _item(self, item: Item) -> str:
        values = {name: item.get(name) for name in ITEM_FIELDS}
        return self.item.format(**{name: "" if value is None else value for name, value in values.items()}).strip()


def _check_template(name: str, template: str, allowed: set[str]) -> None:
    try:
        found = {key for _, key, _, _ in Formatter().parse(template) if key is not None}
    except ValueError as error:
        raise ValueError(f"{name}={template!r} is no template: {error}. Write {{{{ for a brace.") from error
    if found - allowed:
        raise ValueError(f"{name}={template!r} names {sorted(found - allowed)}; it may name {sorted(allowed)}.")
    if name in ("query", "answer", "profile") and not found:
        raise ValueError(f"{name}={template!r} does not show {{{min(allowed)}}}, so the scorer would not see it.")
