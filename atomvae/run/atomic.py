"""Writing that is visible whole or not at all: a temporary name first, then a rename."""

import ctypes
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old text or the new one, never a part.

    Parameters
    ----------
    path : Path
        The file; its folder is made when missing.
    text : str
        Its whole content, written as UTF-8.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "deep" / "note.txt"
    >>> write_text(target, "whole")
    >>> target.read_text()
    'whole'
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a fresh name; what was made there takes the place of ``path`` when all went well.

    Parameters
    ----------
    path : Path
        The file or folder to replace; it need not exist.
    scratch : Path, optional
        Where the temporary name lies; must be on the same file system. Default: beside ``path``.

    Yields
    ------
    Path
        A name that does not exist yet. After an exception whatever lies there is removed and
        ``path`` is as it was.

    Notes
    -----
    See `move` for how the place is taken.
    """
    scratch = path.parent if scratch is None else scratch
    scratch.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = scratch / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        yield temporary
        move(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Move a file or folder to a name, in one step also when something has it already.

    Parameters
    ----------
    source : Path
        What to move; nothing is left there.
    target : Path
        Its new name, on the same file system.

    Notes
    -----
    Folders exchange their names in one system call on Linux. Where there is none, the old folder
    is moved away first, so for an instant there is none; never a mixture.
    """
    if not (source.is_dir() and target.exists()):
        os.replace(source, target)
    elif _exchange(source, target):
        shutil.rmtree(source, ignore_errors=True)
    else:
        old = source.with_suffix(".old")
        os.replace(target, old)
        os.replace(source, target)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (Linux renameat2); False where that does not exist."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    rename = getattr(library, "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return (
        rename is not None
        and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
    )
