import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from atomvae.run.cli import app, doctor, main, runs
from atomvae.run.cli.show import StageBars
from atomvae.run.folder import RunFolder
from atomvae.run.stages import STAGES

COMMANDS = [
    "run", "status", "view", "report", "info", "simulate", "doctor", "init", "export", "schema",
    "import", "drift", "detect", "link", "patches", "train", "encode", "map",
]  # fmt: skip


def said(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    captured = capsys.readouterr()
    if arguments[0] == "run" and "--help" not in arguments:
        assert "next: atomvae report " in captured.err  # not among what scripts read
    assert end.value.code == 0, captured.err
    return captured.out


def test_every_stage_is_a_command():
    assert list(runs.STAGE_HELP) == [stage.name for stage in STAGES]
    assert sorted(c.name for c in app.registered_commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert "Usage" in said(capsys, command, "--help")


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom atomvae.run.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(set(m.split('.')[0] for m in sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(eval(out.stdout.splitlines()[-1]))
    assert not modules & {"torch", "napari", "matplotlib", "distributed", "pandas", "zarr", "dask"}


def test_from_nothing_to_tables(tmp_path, capsys, monkeypatch):
    """The way of a new user: simulate, describe, init, run, look, export, run again."""
    monkeypatch.chdir(tmp_path)
    said(capsys, "simulate", "graphene", "m.tif", "--frames", "2", "--edge", "128", "--dose", "25")
    text = said(capsys, "info", "m.tif")
    assert "2 frames of 128 x 128" in text and "11.7 pm" in text
    said(capsys, "init", "mine.yaml", "--movie", "m.tif")
    short = [
        "--set", "train.epochs=1", "--set", "patches.size=12", "--set", "compute.where=here",
    ]  # fmt: skip
    text = said(capsys, "run", "mine.yaml", *short)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [stage.name for stage in STAGES]
    assert lines[-1].replace("\n", "") == str(tmp_path / "mine.atomvae.zarr")
    run = "mine.atomvae.zarr"
    assert said(capsys, "status", run).count("done") == len(STAGES)
    assert said(capsys, "info", run) == said(capsys, "status", run)
    n = len(RunFolder(run).table())
    for name in ("a.csv", "a.parquet"):
        assert f"{n} rows" in said(capsys, "export", run, name)
    pd.testing.assert_frame_equal(pd.read_parquet("a.parquet"), RunFolder(run).table())
    assert len(pd.read_csv("a.csv")) == n
    again = said(capsys, "run", run)
    assert again.count("up to date") == len(STAGES)
    text = said(capsys, "link", run, "--set", "link.max_gap=0")
    assert "link     " in text and "train" not in text
    assert "link changed" in said(capsys, "status", run)
    schema = json.loads(said(capsys, "schema"))
    assert "detect" in schema["properties"]


def test_an_interruption_ends_in_a_sentence(tmp_path, small_yaml):
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", "from atomvae.run.cli import main; main()"]
    child = subprocess.Popen(
        [*command, "run", str(small_yaml), "--out", str(tmp_path), "--set", "train.epochs=5000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    marker = tmp_path / "small.atomvae.zarr/.atomvae/stages/patches.json"
    deadline = time.monotonic() + 120
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted; what is done is kept, the same command continues" in error
    assert "Traceback" not in error
    assert not (marker.parent / "train.json").exists()


def test_doctor_names_traps_with_their_cures(monkeypatch, capsys):
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    text = said(capsys, "doctor")
    assert "ok      torch" in text and "ok      zarr" in text
    assert "QT_QPA_PLATFORM is offscreen" in text and "xvfb-run" in text
    monkeypatch.delenv("QT_QPA_PLATFORM")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(doctor, "_version", lambda name: {"zarr": "2.18.0"}.get(name))
    monkeypatch.setattr(doctor, "_python_says", lambda code: None)
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    assert end.value.code == 1
    text = capsys.readouterr().out
    for cure in (
        "pip install -U 'zarr>=3'", "pip install torch", "pip install 'dask[distributed]'",
        "pip install 'atomvae[formats]'", "pip install 'atomvae[napari]'",
    ):  # fmt: skip
        assert cure in text


def test_bars_show_rate_and_remaining_time():
    from rich.console import Console

    console = Console(force_terminal=True, width=100, record=True, legacy_windows=False)
    with StageBars(console) as show:
        for done in range(1, 40):
            show("detect", done, 40, "")
            time.sleep(0.01)
        show.bars.refresh()
        live = console.export_text(clear=False)
        show("detect", 1, 1, "60 atoms")
    assert "39/40" in live and "/s" in live and "0:00:0" in live
    assert "detect   60 atoms" in console.export_text()


def test_the_console_script_is_there():
    assert (Path(sys.executable).parent / "atomvae").exists()


@pytest.mark.gui
def test_view_draws_a_picture(tmp_path, small_run, capsys):
    from matplotlib.image import imread

    picture = tmp_path / "run.png"
    said(capsys, "view", str(small_run), "--screenshot", str(picture), "--frame", "1")
    assert imread(picture)[..., :3].std() * 255 > 10
