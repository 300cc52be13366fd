"""The closed vocabulary of the toy world: made-up names from a fixed seed, and the few words of its sentences.

Every name is one token (`desu`, `niva`), so that what a tiny model copies or confuses is a whole name. Each view of
the world has a vocabulary of its own: words that are added for one do not move the token ids of another.
"""

import random

CONTROLS = ("<|pad|>", "<|unk|>", "<|end|>", "<|u|>", "<|a|>")
"""Special tokens, dropped by `decode(skip_special_tokens=True)`."""
MARKERS = ("<QUERY>", "<SEARCH>", "<FACT>", "<FINAL>")
"""Actions of a search conversation: ordinary words, so that decoding keeps them."""
NUMBERS = ("[1]", "[2]", "[3]", "[4]", "[5]", "[6]")


def _words(text: str) -> list[str]:
    return text.split()


def _made_up(count: int, seed: int = 0) -> list[str]:
    """`count` different words of two open syllables, such as `desu`; there are 5,625."""
    syllables = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]
    return random.Random(seed).sample([first + second for first in syllables for second in syllables], count)


_NAMES = _made_up(210)
MORE_NAMES = [word for word in _made_up(75 * 75, seed=1) if word not in {*_NAMES, "date", "home", "june"}]
"""Further made-up words, all that there are, for worlds of another size; words of a sentence are not among them."""
FIRST_NAMES, LAST_NAMES, CITIES = _NAMES[:40], _NAMES[40:80], _NAMES[80:120]
COMPANY_NAMES, TOPICS = _NAMES[120:150], _NAMES[150:210]
COMPANY_KINDS = ["bank", "labs", "mills", "press", "foods", "motors", "farms", "tools"]

SENTENCES = _words(
    "where who is was the of ? . works at employer born in mentored by mentor based founded founder answer rank nothing"
)
SEARCH_WORDS = [
    *CONTROLS,
    *MARKERS,
    *NUMBERS,
    ">",
    *SENTENCES,
    *FIRST_NAMES,
    *LAST_NAMES,
    *CITIES,
    *COMPANY_NAMES,
    *COMPANY_KINDS,
]
"""Passages, questions, search conversations and lists such as `[3] > [1]`."""

OPENERS = _words("hello dear greetings friends listen well behold notably today truly simply kindly")
ENDINGS = _words("bye regards cheers thanks farewell always amen indeed anyway done enough onward")
PLAIN_STYLE = ("note", "end")
"""Opener and ending of no user's own."""
FILLERS = _words("about with also then plus next and maybe")
STYLE_WORDS = [
    *CONTROLS,
    *_words("[past] [item] [ask] [write] [plan] [/plan]"),
    *OPENERS,
    *ENDINGS,
    *PLAIN_STYLE,
    *FILLERS,
    *TOPICS,
]
"""User histories: past items, requests, and answers with a plan before them."""

MONTHS = _words("january february march april may june july august september october november december")
DAYS = [str(day) for day in range(1, 29)]
HOMES, EMPLOYERS = CITIES[:20], COMPANY_NAMES[:20]
FIELDS = _words(
    "law physics music botany logic history medicine optics farming drama geology finance acoustics sculpture "
    "chemistry weaving"
)
BIOGRAPHY_WORDS = [
    *CONTROLS,
    *_words(
        "the of was on in is has a for about born birth birthday came to world date lives home resides city "
        "studied wrote thesis knows lot degree works job earns money working employer ."
    ),
    *FIRST_NAMES[:30],
    *LAST_NAMES,
    *MONTHS,
    *DAYS,
    *HOMES,
    *FIELDS,
    *EMPLOYERS,
]
"""Biographies of the smallest world and the probes of their facts; `biographies.vocabulary` has the larger ones."""

VALUES = {
    "home": CITIES[:12],
    "employer": COMPANY_NAMES[:12],
    "field": FIELDS[:12],
    "hobby": TOPICS[:12],
    "friend": LAST_NAMES[:12],
    "birthday": MONTHS,
}
"""What can be true of a person, and the kinds of values, all different."""
SELECTION_WORDS = [
    *CONTROLS,
    *NUMBERS,
    *_words("> rank is 's ."),
    *VALUES,
    *FIRST_NAMES,
    *LAST_NAMES,
    *(value for relation, values in VALUES.items() if relation != "friend" for value in values),
]
"""Facts about a person, and lists of them."""
