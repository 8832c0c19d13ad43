"""The pages in a real browser: how they look, that they fit, stay current, and break no rule.

The screenshots of the manual are made here: `make screens` writes them to docs/img.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from binhost.server import Server
from headnode.process import require
from headnode.status import views as views_module

ROOT = Path(__file__).parents[3]
PATIENCE_S = 120.0
OVERFLOW = """
[...document.querySelectorAll('body *')].filter(each => {
  const box = each.getBoundingClientRect();
  return box.right > document.documentElement.clientWidth + 1 && !each.closest('.scroll');
}).map(each => each.outerHTML.slice(0, 80))
"""


class Browser:
    """Headless Chromium, driven over two pipes (Chrome DevTools Protocol, --remote-debugging-pipe).

    `said` is what it logged: console messages, refused loads, violated policies.
    """

    def __init__(self, profile: Path) -> None:
        require("chromium")
        to_read, self._to = (_high(end) for end in os.pipe())
        self._from, to_write = (_high(end) for end in os.pipe())

        def place() -> None:
            os.dup2(to_read, 3)
            os.dup2(to_write, 4)

        argv = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        argv += ["--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            argv, preexec_fn=place, pass_fds=(3, 4), stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._rest = b""
        self._number = 0
        self._session = ""
        self.said: list[str] = []
        self.loaded = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> Any:
        """Do something, and wait until it is done."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._from, 1 << 16)
            assert data, "the browser has gone"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        match found.get("method"):
            case "Page.loadEventFired":
                self.loaded += 1
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.said.append(json.dumps(found["params"]))
        return found

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Have a window of that size, and a taste."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def go(self, url: str) -> None:
        """Load a page, all of it."""
        before = self.loaded
        self.call("Page.navigate", url=url)
        while self.loaded == before:
            self._next()

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return found["result"].get("value")

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


def _high(handle: int) -> int:
    """The same file under a number that 3 and 4 do not collide with."""
    moved = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(handle)
    return moved


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


Look = Callable[..., Any]
Serve = Callable[..., Server]

# name: (blades, path, width, height, dark)
SHOTS = {
    "status-light": (58, "/", 1100, 1560, False),
    "status-dark": (58, "/", 1100, 760, True),
    "status-phone": (58, "/", 390, 844, False),
    "status-1000": (1000, "/", 1100, 1000, False),
    "status-generation": (58, "/status/generations/blade/5", 1100, 720, False),
}


@pytest.mark.parametrize("name", SHOTS)
def test_a_page_fits_and_breaks_none_of_its_rules(
    name: str,
    look: Look,
    insecure: Callable[..., None],
    serve: Serve,
    browser: Browser,
    tmp_path: Path,
) -> None:
    blades, path, width, height, dark = SHOTS[name]
    looked = look(blades)
    insecure(looked.site)
    server = serve(looked.site)
    browser.said.clear()
    browser.look(width, height, dark=dark)
    browser.go(f"{server.url}{path}")
    assert browser.run(OVERFLOW) == []
    assert browser.said == []
    picture = browser.screenshot()
    assert struct.unpack(">II", picture[16:24]) == (width, height)
    background = "rgb(20, 23, 26)" if dark else "rgb(246, 246, 242)"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == background
    folder = Path(os.environ.get("SCREENS", tmp_path))
    (folder / f"{name}.png").write_bytes(picture)


def test_58_blades_are_on_one_screen(look: Look, serve: Serve, browser: Browser) -> None:
    browser.look(1280, 800)
    browser.go(f"{serve(look(58).site).url}/")
    lowest = browser.run(
        "Math.max(...[...document.querySelectorAll('.cells .cell')]"
        ".map(each => each.getBoundingClientRect().bottom))"
    )
    assert lowest < 800


def test_text_can_be_read_on_its_ground(look: Look, serve: Serve, browser: Browser) -> None:
    server = serve(look(58).site)
    for dark in (False, True):
        browser.look(1100, 1200, dark=dark)
        browser.go(f"{server.url}/")
        found = browser.run(CONTRASTS)
        assert found
        poor = {words: ratio for words, ratio in found.items() if ratio < 4.5}
        assert poor == {}


# The least contrast (WCAG 2.2, 1.4.3) of each kind of text, with its opacity taken in.
CONTRASTS = """
(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const over = (top, ground) => {
    const alpha = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map(at => top[at] * alpha + ground[at] * (1 - alpha));
  };
  const light = colour => {
    const [r, g, b] = colour.map(each => {
      const part = each / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = each => {
    const above = each.parentElement ? ground(each.parentElement) : [255, 255, 255];
    return over(parts(getComputedStyle(each).backgroundColor), above);
  };
  const found = {};
  for (const each of document.querySelectorAll('main *, header *, footer *')) {
    if (each.closest('svg') || each.closest('.drained, .pending, [hidden]')) continue;
    if (![...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const style = getComputedStyle(each), under = ground(each);
    const ink = over([...parts(style.color).slice(0, 3), Number(style.opacity)], under);
    const [a, b] = [light(ink), light(under)].sort((one, two) => two - one);
    const kind = `${each.tagName.toLowerCase()}.${each.className}`;
    found[kind] = Math.min(found[kind] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return found;
})()
"""


def test_an_open_page_follows_what_happens_without_being_loaded_again(
    look: Look, serve: Serve, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = look(58)
    server = serve(looked.site)
    browser.said.clear()
    browser.look(1100, 1200)
    browser.go(f"{server.url}/")
    assert browser.run("document.querySelector('h1').innerText") == (
        "54 of 58 blades have generation 5."
    )
    browser.run("document.querySelector('a[href$=blade17]').focus()")
    well = replace(looked.fleet.heard["blade01"])
    better = replace(looked.fleet, heard={**looked.fleet.heard, "blade17": well})
    monkeypatch.setattr("headnode.status.gather.read_fleet", lambda site, now: better)
    loaded = browser.loaded
    until(browser, "document.querySelector('h1').innerText", "55 of 58 blades have generation 5.")
    assert browser.run("document.title") == "55 of 58 blades have generation 5. · headnode"
    assert browser.run("document.activeElement.getAttribute('href')") == "/status/blades/blade17"
    assert browser.loaded == loaded
    assert browser.said == []


def test_a_page_whose_headnode_is_gone_says_so(
    look: Look, serve: Serve, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(look(3).site)
    browser.go(f"{server.url}/")
    assert browser.run("document.querySelector('.lost').hidden") is True
    server.stop()
    until(browser, "document.querySelector('.lost').hidden", False)


def until(browser: Browser, script: str, value: object) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (found := browser.run(script)) != value:
        assert time.monotonic() < deadline, f"{found!r}, and not {value!r}"
        time.sleep(0.2)


def test_it_reads_the_same_without_javascript(look: Look, serve: Serve, browser: Browser) -> None:
    server = serve(look(58).site)
    browser.go(f"{server.url}/")
    text = browser.run("document.body.innerText")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.go(f"{server.url}/")
        assert browser.run("document.body.innerText") == text
        assert "blade17: failed to update" in text
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_policy_stops_a_script_that_got_in_all_the_same(
    look: Look, serve: Serve, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = views_module.render.front_page

    def broken(*parts: Any) -> str:
        return real(*parts).replace("</main>", "<script>document.title = 'in'</script></main>")

    monkeypatch.setattr(views_module.render, "front_page", broken)
    browser.said.clear()
    browser.go(f"{serve(look(3).site).url}/")
    assert browser.run("document.title") != "in"
    assert "Content Security Policy" in " ".join(browser.said)
    browser.said.clear()


def test_the_manual_shows_the_screens_that_are_made_here() -> None:
    named = set(re.findall(r"\(img/([\w-]+)\.png\)", (ROOT / "docs/status.md").read_text()))
    assert named == set(SHOTS)
    assert {path.stem for path in (ROOT / "docs/img").glob("status-*.png")} == named
