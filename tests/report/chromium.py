"""Headless Chromium over its own DevTools pipe: no driver program and no package, only Debian's `chromium`.

It is given files as a user opens them (file://), is clicked and typed into, and tells of every request, message on the
console and error of a page.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

PATIENCE_SECONDS = 120.0  # of a machine that has much else to do; nothing is said of speed
LOOK_SECONDS = 0.05
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root, and open nothing but their own pages
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--use-angle=swiftshader",  # WebGL without a GPU
    "--enable-unsafe-swiftshader",
)
DOMAINS = ("Page", "Runtime", "Network", "Log")
MIDDLE = """(() => {
    const one = document.querySelector(%s);
    one.scrollIntoView({block: "center"});
    const box = one.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
})()"""
KEYS = {  # by name: code, number, text
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
}


def find_chromium() -> str | None:
    """The program, or None where it is not installed."""
    return shutil.which("chromium")


@dataclass
class Chromium:
    """A browser with one page. Use `Chromium.started`. events: what it told since the page was opened."""

    _commands: int
    _answers: int
    _received: bytes = b""
    _count: int = 0
    _session: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def started(cls, profile: Path, *, size: tuple[int, int] = (1280, 900)) -> Iterator[Self]:
        """Start Chromium with a new profile in an empty folder; it ends with the block."""
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        # It reads descriptor 3 and writes 4: these copies are neither, so that none is lost when 3 and 4 are made.
        copies = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (theirs_in, theirs_out)]
        program = find_chromium()
        assert program is not None, "chromium is there"
        words = [program, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        redirected = f'exec "$@" 3<&{copies[0]} 4>&{copies[1]}'
        with (profile / "stderr.txt").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", redirected, "chromium", *words], pass_fds=copies, stdout=log, stderr=log
            )
        for one in (theirs_in, theirs_out, *copies):
            os.close(one)
        browser = cls(ours_out, ours_in)
        try:
            browser._attach()
            yield browser
        finally:
            with contextlib.suppress(OSError, EOFError):
                browser._send("Browser.close", {}, "")
            os.close(ours_out)
            os.close(ours_in)
            try:
                process.wait(PATIENCE_SECONDS)
            finally:
                process.kill()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol on the page; returns its result."""
        return self._send(method, parameters, self._session)

    def open(self, page: Path) -> None:
        """Open a file, and wait until it is loaded; what was told of the page before is forgotten."""
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for(f"document.readyState === 'complete' && location.pathname.endsWith({json.dumps(page.name)})")

    def evaluate(self, script: str) -> Any:
        """The value of an expression of JavaScript on the page."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.evaluate(script):
            assert time.monotonic() < deadline, f"{script} is still false; {self.troubles()}"
            time.sleep(LOOK_SECONDS)

    def press(self, *keys: str) -> None:
        """Press keys, named as in KEYS."""
        for key in keys:
            code, number, text = KEYS[key]
            told = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **told)
            self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click with the mouse on the middle of an element."""
        place = self.evaluate(MIDDLE % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def requests(self) -> list[str]:
        """The addresses that the page asked for, but those of data that it holds itself."""
        asked = [one["params"]["request"]["url"] for one in self._told("Network.requestWillBeSent")]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]

    def troubles(self) -> list[str]:
        """Errors and warnings of the page, of the browser about it, and exceptions that nothing caught."""
        self.evaluate("1")  # what was told before it has arrived
        entries = [one["params"]["entry"] for one in self._told("Log.entryAdded")]
        calls = [one["params"] for one in self._told("Runtime.consoleAPICalled")]
        thrown = [json.dumps(one["params"]["exceptionDetails"]) for one in self._told("Runtime.exceptionThrown")]
        logged = [one["text"] for one in entries if one["level"] in ("error", "warning")]
        return logged + [json.dumps(one["args"]) for one in calls if one["type"] in ("error", "assert")] + thrown

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Give the page another window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def pdf(self, path: Path) -> None:
        """The page as it is printed on A4."""
        told = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def _attach(self) -> None:
        targets = self._send("Target.getTargets", {}, "")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self._send("Target.attachToTarget", {"targetId": page, "flatten": True}, "")["sessionId"]
        for domain in DOMAINS:
            self.call(f"{domain}.enable")

    def _told(self, method: str) -> Sequence[dict[str, Any]]:
        return [one for one in self.events if one["method"] == method]

    def _send(self, method: str, parameters: dict[str, Any], session: str) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._commands, left) :]
        while True:
            told = self._receive()
            if told.get("id") == self._count:
                assert "error" not in told, (method, told)
                result: dict[str, Any] = told["result"]
                return result
            self.events.append(told)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE_SECONDS)
            assert ready, "chromium does not answer"
            more = os.read(self._answers, 1 << 20)
            if not more:
                raise EOFError("chromium has ended")
            self._received += more
        message, self._received = self._received.split(b"\0", 1)
        told: dict[str, Any] = json.loads(message)
        return told
