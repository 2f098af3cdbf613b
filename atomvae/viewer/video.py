"""Pictures in a row as a film: MP4 where there is an ffmpeg, GIF everywhere."""

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomvae.errors import InputError

ENDINGS = (".mp4", ".gif")
PALETTE_FRAMES = 8
_CURE = "pip install imageio-ffmpeg, or choose a name that ends in .gif"

Picture = NDArray[np.uint8]


def find_ffmpeg() -> str | None:
    """Find the program that writes MP4: the one of the system, else that of imageio-ffmpeg.

    Returns
    -------
    str or None
        Its path; None if there is none.
    """
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed; installed without its program
        return None


def check_video(path: str | Path) -> Path:
    """Refuse a film that can't be written here, before its pictures are drawn.

    Parameters
    ----------
    path : path-like
        Of the film.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    InputError
        If the ending is neither .mp4 nor .gif, or there is no ffmpeg for the former.

    Examples
    --------
    >>> check_video("atoms.gif").name
    'atoms.gif'
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path.name} ends in {path.suffix!r}; a film ends in .mp4 or .gif")
    if path.suffix.lower() == ".mp4" and find_ffmpeg() is None:
        raise InputError(f"{path.name} needs ffmpeg, which is not found; {_CURE}")
    return path


def write_video(path: str | Path, pictures: Iterable[Any], *, fps: float = 5.0) -> int:
    """Write pictures of one size as a film; it is there whole or not at all.

    Parameters
    ----------
    path : path-like
        NAME.mp4 (H.264, plays everywhere) or NAME.gif; its folder is made.
    pictures : iterable of ndarray (h, w, 3 or 4) uint8
        One for each frame; taken one by one, so that a long film needs little memory as MP4.
    fps : float
        Pictures per second.

    Returns
    -------
    int
        Number of pictures.

    Raises
    ------
    InputError
        If there is no picture, the ending is unknown, or ffmpeg is missing or fails.

    Examples
    --------
    >>> import tempfile
    >>> grey = [np.full((8, 8, 3), level, np.uint8) for level in (0, 120, 240)]
    >>> write_video(Path(tempfile.mkdtemp()) / "grey.gif", grey)
    3
    """
    path = check_video(path)
    if not fps > 0:
        raise InputError(f"fps is {fps}, expected a positive number of pictures per second")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix.lower()}")
    try:
        plain = (np.ascontiguousarray(np.asarray(p, np.uint8)[..., :3]) for p in pictures)
        write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
        count = write(temporary, plain, fps)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_gif(path: Path, pictures: Iterator[Picture], fps: float) -> int:
    """Write with Pillow; all share one set of colours, so that nothing flickers."""
    from PIL import Image

    frames = [Image.fromarray(picture) for picture in pictures]
    if not frames:
        raise InputError("there is no picture to make a film of")
    some = frames[:: -(-len(frames) // PALETTE_FRAMES)]  # their colours are those of all
    width, height = frames[0].size
    sheet = Image.new("RGB", (width, len(some) * height))
    for k, frame in enumerate(some):
        sheet.paste(frame, (0, k * height))
    colours = sheet.quantize(256, method=Image.Quantize.MEDIANCUT)
    few = [f.quantize(palette=colours, dither=Image.Dither.NONE) for f in frames]
    few[0].save(
        path, save_all=True, append_images=few[1:], duration=round(1000 / fps), loop=0, disposal=1
    )
    return len(frames)


def _write_mp4(path: Path, pictures: Iterator[Picture], fps: float) -> int:
    """Send the pictures through a pipe to ffmpeg; odd sides are padded by a pixel."""
    first = next(pictures, None)
    if first is None:
        raise InputError("there is no picture to make a film of")
    height, width = first.shape[:2]
    command = [
        str(find_ffmpeg()), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-", "-an",
        "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-crf", "18",
        "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path),
    ]  # fmt: skip
    count = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as ffmpeg:
        assert ffmpeg.stdin is not None and ffmpeg.stderr is not None
        try:
            picture: Picture | None = first
            while picture is not None:
                ffmpeg.stdin.write(picture.tobytes())
                count += 1
                picture = next(pictures, None)
            ffmpeg.stdin.close()
            said = ffmpeg.stderr.read().decode(errors="replace")
        except BrokenPipeError:  # it has ended before us, and says why
            with suppress(BrokenPipeError):
                ffmpeg.stdin.close()
            said = ffmpeg.stderr.read().decode(errors="replace")
        except BaseException:
            ffmpeg.kill()
            raise
    if ffmpeg.returncode:
        reason = (said.strip().splitlines() or ["it ended without a word"])[-1]
        raise InputError(f"ffmpeg can't write {path.name} ({reason}); {_CURE}")
    return count
