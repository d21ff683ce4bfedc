"""Looks at pages in a browser: what axe-core finds (contrast, alt texts, headings), the console, what overflows.

    pip download --no-deps -d DIR axe-playwright-python       # its wheel holds axe.min.js; the package is not needed
    python .ci/look.py --axe DIR/*.whl site/ report.html      # folders: every page in them

Each page is shown in a window of 1280 and of 390 pixels, light and dark. Chromium must be there; it is spoken to over a
pipe, with nothing but Python's own library. Exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import base64
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Not built by MkDocs: its theme's page for addresses that do not exist has no text of ours.
LEFT_OUT = {"404.html"}
AXE = "axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))"
# On a phone a page that says nothing of its width is laid out for 980 pixels.
WIDTH = "document.documentElement.scrollWidth"
LOADED = "document.readyState === 'complete' && document.fonts.status === 'loaded'"


class Browser:
    """A headless Chromium with one page, as DevTools' protocol has it: messages end with a zero byte."""

    def __init__(self, program: str, profile: Path) -> None:
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        # The protocol's two ends are descriptors 3 and 4 of the browser.
        line = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", line, program, *flags], pass_fds=(their_in, their_out), stderr=subprocess.DEVNULL
        )
        os.close(their_in)
        os.close(their_out)
        self._rest = b""
        self._last = 0
        self.said: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        # Sites keep what a reader chose before, and would show each scheme as the first.
        self.call("Page.addScriptToEvaluateOnNewDocument", source="try { localStorage.clear() } catch {}")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """A command to the page, and what it answers; what the console says meanwhile is put into `said`."""
        return self._call(method, self._session, **arguments)

    def value(self, code: str) -> Any:
        """What an expression comes to; RuntimeError with what it throws."""
        told = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{code[:60]}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def close(self) -> None:
        """End it, and wait for that."""
        self._call("Browser.close")
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)

    def _call(self, method: str, session: str | None = None, **arguments: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": arguments}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        for told in self._messages():
            if told.get("id") == self._last:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return dict(told["result"])
            self._hear(told)
        raise RuntimeError(f"the browser ended at {method}")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                yield json.loads(line)
            more = os.read(self._in, 1 << 20)
            if not more:
                return
            self._rest += more

    def _hear(self, told: dict[str, Any]) -> None:
        about = told.get("params", {})
        if told.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.said.append(" ".join(str(part.get("value", part.get("description"))) for part in about["args"]))
        elif told.get("method") == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.said.append(str(details.get("exception", {}).get("description", details["text"])))
        elif told.get("method") == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.said.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")


def look(browser: Browser, address: str, axe: str, width: int, scheme: str, picture: Path | None) -> list[str]:
    """What is wrong with a page in a window of a width; `picture` is a file for what is seen."""
    # What the page before still does must not be taken for this one's.
    browser.call("Page.navigate", url="about:blank")
    browser.said.clear()
    phone = width < 600
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Page.navigate", url=address)
    until = time.monotonic() + 60
    while not (browser.value("location.href") == address and browser.value(LOADED)):
        if time.monotonic() > until:
            return ["is not loaded after a minute"]
        time.sleep(0.02)
    found = []
    if (shown := browser.value(WIDTH)) > width:
        found.append(f"is {shown - width} pixels wider than its window")
    # Colours that change slowly would be measured on their way; a page drawn whole is what is judged.
    browser.value("document.getAnimations().forEach(a => a.finish())")
    browser.value(f"{axe}\n;0")
    for rule in json.loads(browser.value(AXE)):
        found += [f"{rule['id']}: {rule['help']}: {_told(node)}" for node in rule["nodes"]]
    found += [f"console: {line}" for line in browser.said]
    if picture is not None:
        seen = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        picture.write_bytes(base64.b64decode(seen["data"]))
    return found


def _told(node: dict[str, Any]) -> str:
    where = " ".join(str(part) for part in node["target"])
    why = "; ".join(check["message"] for kind in ("any", "all", "none") for check in node[kind])
    return f"{where} ({why})"


def pages(path: Path) -> list[Path]:
    """The page itself, or all pages in a folder."""
    found = [path] if path.is_file() else sorted(page for page in path.rglob("*.html") if page.name not in LEFT_OUT)
    if not found:
        raise SystemExit(f"{path}: no such page, or a folder without any")
    return found


def axe_of(path: Path) -> str:
    """axe-core's script, from itself or from a wheel that holds it."""
    if path.suffix != ".whl":
        return path.read_text(encoding="utf-8")
    with zipfile.ZipFile(path) as wheel:
        name = next((name for name in wheel.namelist() if name.endswith("/axe.min.js")), None)
        if name is None:
            raise SystemExit(f"{path}: has no axe.min.js")
        return wheel.read(name).decode()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder: scripts of pages may ask for files, which `file:` does not let them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at all pages; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="pages, and folders of them")
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js, or a wheel that holds it")
    parser.add_argument(
        "--only", default="", metavar="PART", help="of a folder's pages those whose path has this in it"
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="a folder for what is seen")
    parsed = parser.parse_args(arguments)
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is there")
    axe = axe_of(parsed.axe)
    if parsed.pictures is not None:
        parsed.pictures.mkdir(parents=True, exist_ok=True)
    seen: dict[str, list[str]] = {}
    count = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, Path(profile))
        for path in parsed.paths:
            folder = path if path.is_dir() else path.parent
            with served(folder) as address:
                for page in pages(path):
                    name = page.relative_to(folder).as_posix()
                    if path.is_dir() and parsed.only not in name:
                        continue
                    where = f"{address}/{name.removesuffix('index.html')}"
                    count += 1
                    for width in WIDTHS:
                        for scheme in SCHEMES:
                            file = f"{name.removesuffix('.html').replace('/', '_')}-{width}-{scheme}.png"
                            picture = None if parsed.pictures is None else parsed.pictures / file
                            for line in look(browser, where, axe, width, scheme, picture):
                                # What is on all pages is told once, with all the pages.
                                seen.setdefault(line.replace(address, ""), []).append(f"{name} {width} {scheme}")
        browser.close()
    for line, places in sorted(seen.items()):
        print(f"{line}\n    {len(places)} times: {', '.join(places[:4])}{', ...' if len(places) > 4 else ''}")
    print(f"{count} pages, {len(WIDTHS) * len(SCHEMES)} times each: {len(seen)} findings")
    return int(bool(seen))


if __name__ == "__main__":
    sys.exit(main())
