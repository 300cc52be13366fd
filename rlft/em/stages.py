"""Rounds on disk: `rlft.record.stages` in a folder a round.

output_dir/em.json          what the run is: configuration, model, corpus, questions (fingerprints)
output_dir/round-<t>/...    the stages of round t
"""

import shutil
from itertools import count
from pathlib import Path

from rlft.record.stages import Stages

IDENTITY = "em.json"


class Round(Stages):
    """One round's folder.

    Args:
        output_dir: the run folder.
        number: t; 0 is the model before the first round.
    """

    def __init__(self, output_dir: Path, number: int):
        self.number = number
        super().__init__(output_dir / f"round-{number}")

    def forget(self, name: str) -> None:
        """As `Stages.forget`, and the later rounds."""
        super().forget(name)
        for number in count(self.number + 1):
            folder = self.folder.with_name(f"round-{number}")
            if not folder.exists():
                break
            shutil.rmtree(folder)
