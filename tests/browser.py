"""A headless Chromium, driven by its own protocol through a pipe."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


class Browser:
    """A page of it.

    Attributes:
        requests: addresses that were asked for, in order.
        errors: what the page's console reported as an error, and exceptions.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._held, self._number = to, back, b"", 0
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol, to this page."""
        return self._call(method, session=self._session, **params)

    def _call(self, method, session=None, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self):
        while b"\0" not in self._held:
            part = os.read(self._back, 2**20)
            assert part, "Chromium has ended"
            self._held += part
        message, _, self._held = self._held.partition(b"\0")
        event = json.loads(message)
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:2000])
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        return event

    def open(self, path: Path) -> None:
        """Opens a file, and waits until the page says that it is ready."""
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait("document.body?.dataset.ready === 'yes'")

    def run(self, script: str) -> Any:
        """What a script gives, as JSON; a promise is waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 240) -> None:
        """Waits until a script's value is true."""
        end = time.monotonic() + timeout_s
        while not self.run(f"Boolean({condition})"):
            failed = self.run("document.body?.dataset.failed ?? ''")
            assert not failed, failed
            assert time.monotonic() < end, (condition, self.errors)
            time.sleep(0.05)

    def choose(self, selector: str, *paths: Path) -> None:
        """Gives files to an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(p.absolute()) for p in paths])

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Of the window, and the colours that its user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        preferred = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[preferred])

    def drag(self, *points: tuple[float, float]) -> None:
        """The mouse, pressed, from point to point of the window."""
        for kind, (x, y) in [
            ("mousePressed", points[0]),
            *(("mouseMoved", point) for point in points[1:]),
            ("mouseReleased", points[-1]),
        ]:
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="left",
                buttons=1,
                clickCount=1,
            )

    def press(self, key: str) -> None:
        """A key, such as ArrowDown."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium of its own, which keeps what it must in `folder`."""
    assert CHROMIUM is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The protocol is spoken on 3 and 4: the shell puts the pipes there.
    shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        [
            *("bash", "-c", shell, CHROMIUM, "--headless=new", "--remote-debugging-pipe"),
            *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-dev-shm-usage", f"--user-data-dir={folder}"),
            *("--lang=en", "--force-device-scale-factor=1", "about:blank"),
        ],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_out)
        os.close(ours_in)
