"""The report in a real browser: headless Chromium, driven through its debugging pipe."""

import base64
import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from atomvae.run.report import report

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


class Browser:
    """One page of a headless Chromium; commands of the DevTools protocol over a pair of pipes."""

    def __init__(self, program: str, profile: Path):
        to_it, from_us = os.pipe()
        from_it, to_us = os.pipe()
        # Its descriptors are 3 and 4, so ours must not be these.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_it, to_us)]
        actions = [(os.POSIX_SPAWN_DUP2, fd, k) for fd, k in zip(ends, (3, 4), strict=True)]
        quiet = os.open(profile / "browser.log", os.O_WRONLY | os.O_CREAT, 0o600)
        actions += [(os.POSIX_SPAWN_DUP2, quiet, k) for k in (1, 2)]
        options = [
            "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}",
        ]  # fmt: skip
        self.pid = os.posix_spawn(program, [program, *options], os.environ, file_actions=actions)
        for fd in (*ends, quiet, to_it, to_us):
            os.close(fd)
        self.out, self.back = os.fdopen(from_us, "wb", 0), os.fdopen(from_it, "rb", 0)
        self.rest, self.count, self.events, self.session = b"", 0, [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters):
        """Send a command and return its result; what happens meanwhile is kept as events."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict:
        while b"\0" not in self.rest:
            part = self.back.read(2**16)
            assert part, "the browser has ended"
            self.rest += part
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def open(self, file: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a file at a width, as a phone if it is narrow."""
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=file.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def value(self, expression: str):
        """Value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """What the page wrote to the console, threw or failed to load."""
        bad = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded",
               "Network.loadingFailed")  # fmt: skip
        return [json.dumps(e["params"]) for e in self.events if e.get("method") in bad]

    def requests(self) -> list[str]:
        """Addresses that were asked for."""
        asked = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [e["params"]["request"]["url"] for e in asked]

    def picture(self, path: Path) -> None:
        """Write a screenshot of the whole page."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser, whatever it is doing."""
        self.out.close()
        self.back.close()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None and not os.environ.get("CI"):
        pytest.skip("there is no Chromium here; make system installs it")
    assert program, "there is no Chromium here, though make system installs it"
    browser = Browser(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def files(small_run, tmp_path_factory):
    """Reports of a finished run and of one that has just begun, with a foreign name."""
    folder = tmp_path_factory.mktemp("reports")
    begun = shutil.copytree(small_run, folder / "<script>alert(1)<script>.atomvae.zarr")
    for stage in ("train", "encode", "map"):
        (begun / f".atomvae/stages/{stage}.json").unlink()
    return report(small_run, folder / "whole.html"), report(begun, folder / "begun.html")


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("which", [0, 1])
def test_the_report_opens_in_a_browser(browser, files, which, width):
    browser.open(files[which], width)
    sizes = browser.value(
        "Array.from(document.images).map(i => [i.complete, i.naturalWidth, i.clientWidth])"
    )
    assert len(sizes) >= (15, 4)[which]
    for complete, natural, shown in sizes:
        assert complete and natural > 300 and shown > 250
    assert browser.complaints() == []
    assert all(u.startswith(("file:", "data:")) for u in browser.requests())
    assert len([u for u in browser.requests() if u.startswith("file:")]) == 1
    inner, across = browser.value(
        "[document.documentElement.clientWidth, document.scrollingElement.scrollWidth]"
    )
    assert across <= inner <= width
    size = browser.value("parseFloat(getComputedStyle(document.querySelector('li')).fontSize)")
    assert size >= 15  # readable without zooming
    assert browser.value("document.title") == ("small", "<script>alert(1)<script>")[which]
    assert not [e for e in browser.events if e.get("method") == "Page.javascriptDialogOpening"]


def test_light_and_dark(browser, files):
    grounds = []
    for dark in (False, True):
        browser.open(files[0], dark=dark)
        grounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 24, 28)"]


def test_it_prints(browser, files):
    browser.open(files[0])
    printed = base64.b64decode(browser.ask("Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF")
    pages = printed.count(b"/Type /Page\n") or printed.count(b"/Type /Page ")
    assert 3 <= pages <= 20


def test_the_page_is_seen_as_it_is_meant(browser, files, tmp_path):
    """Pixels: figures in colour on a phone as on a desk, all within the page."""
    for width in (1200, 390):
        browser.open(files[0], width)
        browser.picture(tmp_path / "page.png")
        pixels = imread(tmp_path / "page.png")[..., :3]
        assert pixels.shape[1] <= width and pixels.shape[0] > 2000
        assert (np.ptp(pixels, axis=2) > 0.3).mean() > 0.01  # maps
        assert (pixels.max(2) < 0.2).mean() > 0.02  # frames


def test_a_script_in_a_report_would_not_run(browser, files, tmp_path):
    """Second line of defence: even what slipped in unescaped is refused by the page's policy."""
    bad = "<script>document.title = 'pwned'</script><img src=x onerror=\"document.title='pwned'\">"
    file = tmp_path / "bad.html"
    file.write_text(files[0].read_text(encoding="utf-8").replace("<main>", f"<main>{bad}"))
    browser.open(file)
    assert browser.value("document.title") == "small"
    assert any("Content Security Policy" in text for text in browser.complaints())
