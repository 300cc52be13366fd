"""Is a run going wrong while it runs? Rules on the metrics of a trainer's log, and what an alarm says.

    texts.py      what completions look like: repetition, characters that nobody can read
    history.py    metrics as rules read them: how a run began, how it is now
    measures.py   what a rule judges: one number, and words for it
    rules.py      rules of every trainer, each with its threshold, its likely cause and the knob
    replay_rules.py, round_rules.py    those of STOC's replay and probes, and of rounds of EM
    watch.py      from logs to alarms: once when trouble begins, once when it is over
    options.py    the option of every trainer's configuration

Nothing here imports torch. `rlft.trainers.health` connects it to a trainer.
"""

from rlft.health.history import History, Seen
from rlft.health.replay_rules import REPLAY_RULES
from rlft.health.round_rules import ROUND_RULES
from rlft.health.rules import RULES, Rule
from rlft.health.watch import Alarm, Watch

__all__ = ["REPLAY_RULES", "ROUND_RULES", "RULES", "Alarm", "History", "Rule", "Seen", "Watch"]
