"""A page in headless Chromium, which tells what it found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", *SOFTWARE)
PAGE = """<!doctype html><script type="module">
const tell = (found) => fetch("/found", { method: "POST", body: JSON.stringify(found) });
try {{
  const found = await (async () => {{ {script} }})();
  await tell({{ found }});
}} catch (error) {{
  await tell({{ error: `${{error.stack ?? error}}` }});
}}
</script>"""


def run(folder: Path, script: str, seconds: float = 300) -> Any:
    """What a script returns, as JSON, that is run in a page beside the files of a folder."""
    if (chromium := shutil.which("chromium")) is None:
        assert "CI" not in os.environ, "install chromium"
        pytest.skip("chromium is not installed")
    told: list[bytes] = []
    done = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}

        def do_GET(self) -> None:
            if self.path != "/page":
                return super().do_GET()
            self.answer(PAGE.format(script=script).encode())

        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(b"")
            done.set()

        def answer(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/page"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            done.wait(seconds)
            process.terminate()
        server.shutdown()
    assert told, f"the page told nothing in {seconds} seconds"
    answer = json.loads(told[0])
    assert "error" not in answer, answer["error"]
    return answer.get("found")
