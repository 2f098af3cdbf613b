"""The command that looks for the known traps of an installation and names their cures."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

GL_PROBE = """
import numpy as np, napari, os
viewer = napari.Viewer(show=True)
viewer.add_image(np.random.default_rng(0).random((64, 64)))
contrast = viewer.screenshot(canvas_only=True, flash=False)[..., :3].std()
os._exit(0 if contrast > 10 else 3)
"""
XVFB = 'xvfb-run -a -s "-screen 0 1600x1000x24"'


@dataclass(frozen=True)
class Finding:
    """What one look at the installation found.

    Parameters
    ----------
    name : str
        What was looked at.
    found : str
        What was found.
    cure : str
        What to do; empty when all is well.
    needed : bool
        Whether nothing works without it.
    """

    name: str
    found: str
    cure: str = ""
    needed: bool = True


def doctor() -> None:
    """Check the installation; every trap is named with its cure."""
    failed = False
    for check in CHECKS:
        finding = check()
        good = not finding.cure
        failed |= finding.needed and not good
        mark = "ok     " if good else ("missing" if finding.needed else "note   ")
        print(f"{mark} {finding.name:<14} {finding.found}")
        if not good:
            print(f"{'':23}-> {finding.cure}")
    if failed:
        raise typer.Exit(1)


def _python() -> Finding:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    cure = "" if sys.version_info >= (3, 11) else "install Python 3.11 or later"
    return Finding("python", found, cure)


def _torch() -> Finding:
    """Loaded in a process of its own: a broken build may abort."""
    probe = "import torch; print(torch.__version__, torch.cuda.is_available())"
    result = _python_says(probe)
    if result is None:
        return Finding("torch", "cannot be imported", "pip install torch, see pytorch.org")
    number, cuda = result.split()
    if cuda == "True":
        return Finding("torch", f"{number}, with GPU")
    if shutil.which("nvidia-smi") is None:
        return Finding("torch", f"{number}, CPU (no NVIDIA GPU found here)")
    return Finding(
        "torch",
        f"{number}, CPU although there is an NVIDIA GPU",
        "pip install a CUDA build of torch, see pytorch.org",
        needed=False,
    )


def _zarr() -> Finding:
    number = _version("zarr")
    old = number is None or number.startswith(("0", "1", "2"))
    cure = "pip install -U 'zarr>=3' (some extras of rosettasciio bring zarr 2: use [hdf5])"
    return Finding("zarr", number or "not installed", cure if old else "")


def _dask() -> Finding:
    number, cluster = _version("dask"), _version("distributed")
    found = f"{number}, distributed {cluster}, {os.cpu_count()} cores"
    return Finding("dask", found, "" if cluster else "pip install 'dask[distributed]'")


def _formats() -> Finding:
    number = _version("rosettasciio")
    if number is None:
        cure = "for dm3, dm4, ser, emi files: pip install 'atomvae[formats]'"
        return Finding("rosettasciio", "not installed", cure, needed=False)
    return Finding("rosettasciio", number)


def _napari() -> Finding:
    number = _version("napari")
    if number is None:
        cure = "for the viewer: pip install 'atomvae[napari]' pyside6"
        return Finding("napari", "not installed", cure, needed=False)
    binding = next((b for b in ("PySide6", "PyQt6", "PyQt5") if importlib.util.find_spec(b)), None)
    if binding is None:
        return Finding("napari", f"{number} without Qt", "pip install pyside6", needed=False)
    return Finding("napari", f"{number} with {binding}")


def _opengl() -> Finding:
    """Whether napari draws: an offscreen Qt runs without an error and shows nothing."""
    if _version("napari") is None:
        return Finding("OpenGL", "not tried without napari")
    if os.environ.get("QT_QPA_PLATFORM") in ("offscreen", "minimal"):
        cure = f"unset QT_QPA_PLATFORM: that Qt draws black; without a screen use {XVFB}"
        platform = os.environ["QT_QPA_PLATFORM"]
        return Finding("OpenGL", f"QT_QPA_PLATFORM is {platform}", cure, needed=False)
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not screen:
        cure = f"log in with a screen, or start with {XVFB}"
        return Finding("OpenGL", "no screen (DISPLAY is not set)", cure, needed=False)
    if _python_says(GL_PROBE) is None:
        cure = "install Mesa (libgl1-mesa-dri libgl1 libegl1) or the driver of the graphics card"
        return Finding("OpenGL", "napari draws nothing", cure, needed=False)
    return Finding("OpenGL", "napari draws")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    cure = "" if free > 5 else "free some space: a run holds about 5 kB per atom and frame"
    return Finding("disk", f"{free:.0f} GB free in {Path.cwd()}", cure, needed=False)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python, _torch, _zarr, _dask, _formats, _napari, _opengl, _disk,
)  # fmt: skip


def _version(package: str) -> str | None:
    """Version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _python_says(code: str) -> str | None:
    """What a Python process prints; None when it fails or takes too long."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=180
        )
    except subprocess.TimeoutExpired:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
