"""Writing that is visible whole or not at all: a temporary name first, then a rename."""

import os
import shutil
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
    A file is replaced in one step. For a folder the old one is moved away first, so for an
    instant there is none: whoever is killed right then finds neither, never a mixture.
    """
    scratch = path.parent if scratch is None else scratch
    scratch.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = scratch / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        yield temporary
        if temporary.is_dir():
            old = temporary.with_suffix(".old")
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
