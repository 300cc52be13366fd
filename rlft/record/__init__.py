"""What happened in a run, kept on disk: its configuration, its metrics, every rollout, and pictures of them.

    output_dir/config.yaml                      the resolved configuration             folder.py
    output_dir/record/metrics.jsonl             one line per log of the trainer        jsonl.py, callback.py
    output_dir/record/rollouts-00000.jsonl.gz   every rollout of process 0             rollouts.py
    output_dir/*.png                            the learning curve                     curve.py

Nothing here imports torch: values arrive as plain Python numbers and lists. `rlft.record.callback`, which
needs transformers, is imported by name only.
"""

from rlft.record.curve import draw_curve
from rlft.record.folder import claim_output_dir, record_dir, save_config
from rlft.record.jsonl import JsonLines, read_jsonl
from rlft.record.rollouts import RolloutLog, RolloutRow, read_rollouts
from rlft.record.summary import summary_table

__all__ = [
    "JsonLines",
    "RolloutLog",
    "RolloutRow",
    "claim_output_dir",
    "draw_curve",
    "read_jsonl",
    "read_rollouts",
    "record_dir",
    "save_config",
    "summary_table",
]
