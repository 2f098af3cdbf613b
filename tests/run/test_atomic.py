import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from atomvae.run import atomic
from atomvae.run.atomic import move, replacing, write_text


def test_an_exception_leaves_the_old_content_and_no_rubbish(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_replaces_a_folder(tmp_path, monkeypatch, exchange):
    if not exchange:  # as on a system without renameat2
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    elif not sys.platform.startswith("linux"):
        pytest.skip("renameat2 is Linux")
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir()
    old.mkdir()
    (new / "a").write_text("new")
    (old / "b").write_text("old")
    move(new, old)
    assert [p.name for p in old.iterdir()] == ["a"]
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is Linux")
def test_a_reader_never_misses_a_folder_that_is_being_replaced(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "value").write_text("0")
    seen: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            handle = os.open(target, os.O_RDONLY)  # fails if there is none for an instant
            os.close(handle)
            seen.append("there")

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(300):
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / "value").write_text(str(i))
    stop.set()
    reader.join()
    assert len(seen) > 300
    assert (target / "value").read_text() == "299"


WRITER = """
import sys
from pathlib import Path
from atomvae.run.atomic import write_text
print("ready", flush=True)
while True:
    for letter in "ab":
        write_text(Path(sys.argv[1]), letter * 200_000)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    target = tmp_path / "text"
    for attempt in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE
        )
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.01 + 0.017 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if target.exists():
            assert target.read_text() in ("a" * 200_000, "b" * 200_000)
    assert target.exists(), "no attempt wrote anything: the test proves nothing"
    assert Path(target).stat().st_size == 200_000
