"""Where a run cannot write: an output folder that is refused at once, and the end of a run whose disk is full."""

import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from rlft.record.folder import claim_output_dir, refuse_another_run

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_SAID = ("No space left on device", "Disk quota exceeded", "File too large", "Read-only file system")
"""By libraries in other languages, whose errors carry no number."""
P = ParamSpec("P")
T = TypeVar("T")


def claim_writable(path: str | os.PathLike[str], resume: bool) -> None:
    """`rlft.record.folder.claim_output_dir`, for a folder that can be made and written to.

    Raises:
        OSError: naming the folder and the flag.
    """
    refuse_folder(path, resume)
    try:
        claim_output_dir(path, resume)
    except OSError as error:
        raise type(error)(f"output_dir {str(path)!r} cannot be made ({error}); name another --output_dir.") from error


def refuse_folder(path: str | os.PathLike[str], resume: bool) -> None:
    """The refusals of `claim_writable`, as far as they are known before the folder is made.

    Raises:
        OSError: naming the folder and the flag.
    """
    refuse_another_run(Path(path), resume)
    there = existing(path)
    if not there.is_dir():
        raise NotADirectoryError(f"output_dir {str(path)!r}: {there} is a file; name another --output_dir.")
    if not os.access(there, os.W_OK):
        what = "written to" if there == Path(path).resolve() else f"made, since {there} cannot be written to"
        raise PermissionError(f"output_dir {str(path)!r} cannot be {what}; name another --output_dir.")


def existing(path: str | os.PathLike[str]) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    place = Path(path).resolve()
    while not place.exists():
        place = place.parent
    return place


def says_full_disk(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate what trains and saves: where nothing can be written, it ends the program in a few words.

    Raises:
        SystemExit: in the place of an error of the disk; every other error passes as it is.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not is_full_disk(error):
                raise
            raise SystemExit(
                f"\nerror: nothing can be written any more: {error}\n"
                "Make room, or raise the quota. What was written before is whole: the same command with "
                "--resume_from_checkpoint true goes on from the last checkpoint."
            ) from error

    return wrapper


def is_full_disk(error: BaseException) -> bool:
    """Whether a full disk, a quota or a read-only file system is behind an error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL or any(said in str(seen) for said in _SAID):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
