"""Headless Chromium, told what to do over a pipe by the Chrome DevTools Protocol, and a server of a folder for it."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]


def program() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    assert "CI" not in os.environ, "install chromium"
    pytest.skip("chromium is not installed")


class Browser:
    """One page of a browser with a profile of its own. What takes longer than `seconds` fails."""

    def __init__(
        self, profile: Path, width: int = 1000, height: int = 900, seconds: float = 60, flags: tuple[str, ...] = ()
    ):
        self.seconds, self.count, self.buffer = seconds, 0, b""
        self.events: list[dict[str, Any]] = []
        theirs, self.out = os.pipe()
        self.into, from_them = os.pipe()
        size = f"--window-size={width},{height}"
        command = [program(), *FLAGS, *flags, f"--user-data-dir={profile}", size, "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{from_them}', "bash", *command],
            pass_fds=(theirs, from_them),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs)
        os.close(from_them)
        self.session = ""
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self) -> dict[str, Any]:
        until = time.monotonic() + self.seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.into], [], [], until - time.monotonic())
            assert ready, "the browser does not answer"
            data = os.read(self.into, 1 << 20)
            assert data, "the browser has ended"
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, a promise's when it is there."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The value of an expression as soon as it is true."""
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            with contextlib.suppress(AssertionError):  # the page is about to be another one
                if value := self.evaluate(expression):
                    return value
            time.sleep(0.05)
        raise AssertionError(f"{expression} does not become true; {self.evaluate('document.body.innerText')}")

    def key(self, key: str, text: str = "", **more: object) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **({"text": text} if text else {}), **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **more)

    def screenshot(self, file: Path, width: int, height: int, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=False)["data"]))

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.out)
        os.close(self.into)


@contextlib.contextmanager
def browser(profile: Path | None = None, **options: Any) -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(prefix="minitx-", ignore_cleanup_errors=True) as own:
        made = Browser(profile or Path(own), **options)
        try:
            yield made
        finally:
            made.close()


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]


class Server:
    """Serves a folder; `seen` has the paths that were asked for."""

    def __init__(self, folder: Path, port: int = 0):
        self.http = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=str(folder)))
        self.seen: list[str] = []
        self.http.seen = self.seen  # type: ignore[attr-defined]
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
