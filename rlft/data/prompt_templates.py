"""Templates of a user turn with past items, for rows that are none of LaMP's tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PromptTemplates:
    """A user turn in words of one's own, for rows that are none of LaMP's tasks.

    `str.format` texts; what fills them is never read as a template. `rlft.reward_models.ScorerSpec` has the same
    four, so that a scorer can be shown what the policy is shown.

    Raises:
        ValueError: naming the template, what is wrong with it, and what it may hold.
    """

    item: str = "{text} {target}"
    """One past item: `text` and `target`, the latter blank where there is none."""
    join: str = "\n"
    """Between items."""
    profile: str = "{items}\n"
    """The history block; left out where no item is shown."""
    query: str = "{query}"

    def __post_init__(self) -> None:
        fields = {"item": ("text", "target"), "profile": ("items",), "query": ("query",)}
        for name, allowed in fields.items():
            template = getattr(self, name)
            marks = {field: f"\0{field}\0" for field in allowed}
            try:
                shown = template.format(**marks)
            except (LookupError, ValueError, AttributeError) as error:
                raise ValueError(f"{name}={template!r} is no template of {', '.join(allowed)}: {error!r}.") from error
            if marks[allowed[0]] not in shown:
                raise ValueError(f"{name}={template!r} does not show {{{allowed[0]}}}.")

    def user_turn(self, row: Mapping[str, Any], items: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> str:
        """The turn with these texts in the place of the items' own."""
        lines = [
            self.item.format(text=text, target=item.get("target") or "").strip()
            for item, text in zip(items, texts, strict=True)
        ]
        block = self.profile.format(items=self.join.join(lines)) if lines else ""
        return block + self.query.format(query=row["query"])
