"""Where a run cannot write: an output folder that is refused at once, and the end of a run whose disk is full."""

import errno
import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rlft.record.folder import claim_output_dir

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
    try:
        folder = claim_output_dir(path, resume)
    except OSError as error:
        if error.errno is None:  # a refusal of the folder's content, which says all
            raise
        raise type(error)(f"output_dir {str(path)!r} cannot be made ({error}); name another --output_dir.") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"output_dir {str(folder)!r} cannot be written to; name another --output_dir.")


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
