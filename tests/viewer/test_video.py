"""Films: what goes in comes out, and what cannot be written is said before it is drawn."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from atomvae.errors import InputError
from atomvae.viewer import video

COLORS = np.array([[200, 40, 40], [40, 180, 60], [50, 70, 220], [230, 220, 60]], np.uint8)


def pictures(height=48, width=65):
    """A picture of one colour for each frame, with a dark corner."""
    for color in COLORS:
        picture = np.empty((height, width, 4), np.uint8)
        picture[:] = [*color, 255]
        picture[:10, :20] = 0
        yield picture


@pytest.fixture(scope="module")
def ffmpeg():
    found = video.find_ffmpeg()
    if found is None and not os.environ.get("CI"):
        pytest.skip("there is no ffmpeg here; pip install imageio-ffmpeg")
    assert found
    return found


def read_mp4(ffmpeg, path, height, width):
    raw = subprocess.run(
        [ffmpeg, "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def test_mp4_holds_the_frames(ffmpeg, tmp_path):
    path = tmp_path / "deep" / "film.mp4"
    assert video.write_video(path, pictures(), fps=4) == 4
    frames = read_mp4(ffmpeg, path, 48, 66)  # an odd side is padded
    assert len(frames) == 4
    np.testing.assert_allclose(frames[:, 30, 40], COLORS, atol=12)
    assert frames[:, 3, 5].max() < 25
    assert [p.name for p in path.parent.iterdir()] == ["film.mp4"]


def test_gif_holds_the_frames(tmp_path):
    path = tmp_path / "film.gif"
    assert video.write_video(path, pictures(), fps=4) == 4
    with Image.open(path) as film:
        assert (film.n_frames, film.size, film.info["duration"]) == (4, (65, 48), 250)
        for k, color in enumerate(COLORS):
            film.seek(k)
            frame = np.asarray(film.convert("RGB")).astype(int)
            np.testing.assert_allclose(frame[30, 40], color, atol=12)
            assert frame[3, 5].max() < 12


def test_without_ffmpeg_there_is_a_sentence_and_gif(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"film.mp4 needs ffmpeg, which is not found; pip install"):
        video.write_video(tmp_path / "film.mp4", pictures())
    assert video.write_video(tmp_path / "film.gif", pictures()) == 4


def test_a_failure_leaves_nothing(ffmpeg, tmp_path):
    def broken():
        yield next(pictures())
        raise InputError("the canvas stayed empty")

    for name in ("film.mp4", "film.gif"):
        with pytest.raises(InputError, match="stayed empty"):
            video.write_video(tmp_path / name, broken())
        with pytest.raises(InputError, match="no picture"):
            video.write_video(tmp_path / name, [])
        with pytest.raises(InputError, match="fps is 0"):
            video.write_video(tmp_path / name, pictures(), fps=0)
    with pytest.raises(InputError, match=r"ends in '.avi'; a film ends in .mp4 or .gif"):
        video.write_video(tmp_path / "film.avi", pictures())
    assert list(tmp_path.iterdir()) == []


def test_an_ffmpeg_that_fails_says_why(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'Unknown encoder libx264' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(video, "find_ffmpeg", lambda: str(program))
    big = [np.zeros((400, 400, 3), np.uint8)] * 3
    with pytest.raises(InputError, match="Unknown encoder libx264"):
        video.write_video(tmp_path / "film.mp4", big)
    assert [p.name for p in tmp_path.iterdir()] == ["ffmpeg"]


VIEW = """
import sys
from atomvae.viewer.plugin.open import view
view(sys.argv[1], screenshot=sys.argv[2], movie=sys.argv[3], frame=1, size=(600, 400), fps=3)
"""


@pytest.mark.gui
def test_view_writes_a_film_of_all_frames(run_path, ffmpeg, tmp_path):
    film, still = tmp_path / "film.mp4", tmp_path / "still.png"
    done = subprocess.run(
        [sys.executable, "-c", VIEW, str(run_path), str(still), str(film)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    frames = read_mp4(ffmpeg, film, 400, 600).astype(float)
    assert len(frames) == 4
    with Image.open(still) as image:  # the screenshot of frame 1 is frame 1 of the film
        same = np.asarray(image.convert("RGB")).astype(float)
    apart = [np.abs(frame - same).mean() for frame in frames]
    assert int(np.argmin(apart)) == 1 and apart[1] < 3 and min(apart[0], apart[2]) > 2 * apart[1]
    # The background grows by 20 a frame, so the movie itself moves, not only the atoms.
    middle = np.median(frames[:, 100:300, 200:400].mean(-1), axis=(1, 2))
    assert (np.diff(middle) > 5).all()
    caption, bar = frames[:, :40, :200], frames[:, -60:, -200:]
    assert (caption.min(-1) > 200).any((1, 2)).all()
    assert (bar.min(-1) > 200).sum((1, 2)).min() > 50  # the scale bar
    changes = np.abs(np.diff(caption, axis=0)).max((1, 2, 3))
    assert (changes > 100).all()  # frame number and time


@pytest.mark.gui
def test_a_run_whose_movie_is_gone_is_still_drawn(run_path, tmp_path):
    shutil.rmtree(next(run_path.glob("images/*/0")))
    about = next(run_path.glob("images/*/zarr.json"))
    text = json.loads(about.read_text())
    text["attributes"]["atomvae"] |= {"copied": False, "source": {"path": "/nowhere/movie.tif"}}
    about.write_text(json.dumps(text))
    still = tmp_path / "still.png"
    code = VIEW.replace("movie=sys.argv[3], ", "")
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_path), str(still)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "expected /nowhere/movie.tif" in done.stderr and "frames are blank" in done.stderr
    with Image.open(still) as image:
        assert (np.ptp(np.asarray(image.convert("RGB")).astype(int), axis=-1) > 60).mean() > 0.01
