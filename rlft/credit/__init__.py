"""Token credit: how a completion's advantage is spread over its tokens.

A credit function takes a `Group` (the rollouts of one prompt) and gives one weight tensor (T_i,) per rollout.
Ready-made: `constant` (plain GRPO), `entropy`, `shear`; anything else by plug-in spec. Names load when first used, so
that reading the options needs no torch.
"""

from importlib import import_module
from typing import Any

from rlft.plugins import resolve

CREDITS = {
    "constant": "rlft.credit.constant:constant",
    "entropy": "rlft.credit.entropy:entropy",
    "shear": "rlft.credit.shear:shear",
}

_LAZY = {
    "Credit": "rlft.credit.group",
    "CreditError": "rlft.credit.group",
    "Group": "rlft.credit.group",
    "checked_weights": "rlft.credit.group",
    "needs": "rlft.credit.group",
    "shear_weights": "rlft.credit.shear",
    "span_scores": "rlft.credit.shear",
    "wasserstein": "rlft.credit.transport",
}
__all__ = ["CREDITS", "load_credit", *_LAZY]


def load_credit(spec: Any) -> Any:
    """Find a credit function by name, `package.module:attr`, or `path/to/file.py:attr`.

    Args:
        spec: the spec; a callable is returned as it is.

    Returns:
        The credit function.

    Raises:
        rlft.plugins.PluginError: if it is not found, saying what was looked for and what is near.
    """
    return resolve(spec, kind="credit", names=CREDITS)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rlft.credit' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
