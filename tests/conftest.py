"""What all tests share: where the real files are, and whether OpenGL draws."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import numpy as np, napari, os
viewer = napari.Viewer(show=True)
viewer.add_image(np.random.default_rng(0).random((64, 64)))
contrast = viewer.screenshot(canvas_only=True, flash=False)[..., :3].std()
os._exit(0 if contrast > 10 else 1)
"""


def gl_works() -> bool:
    """Whether napari really draws here; probed in a process of its own, which may abort."""
    try:
        probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=180)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def pytest_collection_modifyitems(config, items):
    gui = [item for item in items if item.get_closest_marker("gui")]
    # In CI a missing context is a failure: the tests run and fail by themselves.
    if gui and not os.environ.get("CI") and not gl_works():
        for item in gui:
            item.add_marker(pytest.mark.skip(reason="no working OpenGL context; try xvfb-run"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real microscope files that may not be redistributed."""
    folder = os.environ.get("ATOMVAE_REAL_DATA")
    if not folder:
        pytest.skip("ATOMVAE_REAL_DATA does not point to the real microscope files")
    path = Path(folder)
    assert path.is_dir(), f"ATOMVAE_REAL_DATA is {folder}, which is no folder"
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return Path(__file__).parents[1]
