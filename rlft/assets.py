"""Where the ready-made rewards and the recipes lie: in the repository, or inside an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Folder `name` (`"rewards"` or `"recipes"`) that travels with rlft.

    A wheel carries it as package data under `rlft/_shipped`; a checkout has it beside the package.

    Args:
        name: `"rewards"` or `"recipes"`.

    Returns:
        The existing folder.

    Raises:
        FileNotFoundError: if neither place has it (a broken installation).
    """
    for folder in (_PACKAGE / "_shipped" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"rlft was installed without its {name!r} folder beside {_PACKAGE}; reinstall rlft.")
