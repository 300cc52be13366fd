"""Is SHEAR's signal real on this data? Figures of recorded runs, of rollouts with states, and of labelled rows.

    diagnose_run      what the recorded weights did: size, balance, where the gradient went             run.py
    diagnose          span scores against labels beside controls, on groups with hidden states          scores.py
    diagnose_model    the same on rows of a file, whose states a model computes                         model.py

Names load when first used, so that the figures of a recorded run need no torch.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "Diagnosis": "rlft.credit.diagnose.scores",
    "LabelledGroup": "rlft.credit.diagnose.group",
    "WeightFigures": "rlft.credit.diagnose.run",
    "diagnose": "rlft.credit.diagnose.scores",
    "diagnose_model": "rlft.credit.diagnose.model",
    "diagnose_run": "rlft.credit.diagnose.run",
    "diagnosis_record": "rlft.credit.diagnose.scores",
    "diagnosis_text": "rlft.credit.diagnose.table",
    "write_diagnosis_page": "rlft.credit.diagnose.table",
}
__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rlft.credit.diagnose' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
