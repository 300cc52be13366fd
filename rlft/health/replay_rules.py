"""The rules of STOC: is the old forgotten, and is the replay that the model wrote fit to learn from?

`probe/old/hfta`, the recall of old facts (share of first tokens that are right), is logged before, during and after
training; `replay/<name>`, shares of what was written and mixed, once before it (`rlft.trainers.stoc_figures`).
"""

from rlft.health.history import History, Seen
from rlft.health.measures import level
from rlft.health.rules import Rule

RECALL = "probe/old/hfta"
LEAST_RECALL = 0.3
"""Recall of which a fall is a share at least: a model that knew little has little to forget."""


def forgotten(history: History) -> Seen | None:
    """Fall of the recall of old facts since the first log, as a share of what it was."""
    recall = history.series(RECALL)
    if len(recall) < 2:
        return None
    before, now = recall[0][1], recall[-1][1]
    return Seen((before - now) / max(before, LEAST_RECALL), f"recall of old facts is {now:.3g}, was {before:.3g}")


REPLAY_RULES = (
    Rule(
        "forgetting",
        (RECALL,),
        forgotten,
        limit=0.3,
        when=f"`{RECALL}` has lost {{:g}} of what it was (of {LEAST_RECALL:g}, if that is more)",
        cause="too little of the old is rehearsed for so many or so large steps on the new",
        knob="lower --alpha (more replay), raise --replay_breadth, use --replay self or an anchor, lower "
        "--learning_rate or --max_steps",
    ),
    Rule(
        "degenerate_replay",
        ("replay/degenerate",),
        level("replay/degenerate", "{:.2f} of the items that the model wrote are empty or run in circles", 1),
        limit=0.3,
        when="`replay/degenerate` is above {:g}",
        cause="the model writes loops or ends at once after these seeds: what the filter left is not much better",
        knob="raise --replay_repetition_penalty or --replay_temperature, set --scorer bos, and read replay/written-*",
    ),
    Rule(
        "alike_replay",
        ("replay/alike",),
        level("replay/alike", "{:.2f} of the items that the model wrote are near-duplicates of others", 1),
        limit=0.3,
        when="`replay/alike` is above {:g}",
        cause="the same seeds, or too cold a sampling, give the same text again: little of the old is covered",
        knob="raise --replay_temperature or --replay_top_p, lower --replay_samples, use --scorer random or bos",
    ),
    Rule(
        "repeated_replay",
        ("replay/repeats",),
        level("replay/repeats", "{:.2f} of the replay in the mix stands there more than once", 1),
        limit=0.5,
        when="`replay/repeats` is above {:g}",
        cause="filters took most of what was written, or too little was, so that items come again",
        knob="raise --replay_samples, --seeds_per_sample or --replay_pool, or loosen the filter that filter.json names",
    ),
)
