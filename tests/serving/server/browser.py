"""Headless Chromium over the WebDriver protocol, with what Python has.  [w3.org/TR/webdriver2]"""

import base64
import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element, fixed by the protocol
_FLAGS = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--window-size=1280,900",
)


class Browser:
  """One window."""

  def __init__(self, port: int, profile: str):
    self._base = f"http://127.0.0.1:{port}"
    options = {"binary": shutil.which("chromium"), "args": [*_FLAGS, f"--user-data-dir={profile}"]}
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
    self._base += f"/session/{session}"

  def _call(self, method: str, path: str, document=None):
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
    try:
      with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["value"]
    except urllib.error.HTTPError as error:
      raise AssertionError(error.read().decode()[:500]) from error

  def open(self, url: str) -> None:
    self._call("POST", "/url", {"url": url})

  def run(self, script: str, *arguments):
    """Returns what a script returns."""
    return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

  def type_into(self, selector: str, text: str) -> None:
    """Types into an element; into a file input the path of a file."""
    element = self._call("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]
    self._call("POST", f"/element/{element}/value", {"text": text})

  def pick(self, path: pathlib.Path) -> str:
    """Picks a photo and waits for the answer. Returns: what the page says."""
    self.run("document.body.dataset.state = 'picking'")
    self.type_into("#file", str(path))
    self.wait_for("['done', 'error'].includes(document.body.dataset.state)")
    return self.run("return document.getElementById('status').textContent")

  def wait_for(self, condition: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not self.run(f"return {condition}"):
      assert time.monotonic() < end, f"{condition} did not come true; the console says {self.log()}"
      time.sleep(0.05)

  def log(self) -> list[str]:
    """Returns what the console has said since it was asked last."""
    return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

  def screenshot(self, path: pathlib.Path) -> None:
    path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

  def close(self) -> None:
    self._call("DELETE", "")


@contextlib.contextmanager
def chromium(folder: pathlib.Path):
  """Starts a browser. Yields: a `Browser`; skips, saying so, where Chromium is not installed."""
  if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("no browser: chromium and chromedriver are not installed (Debian: chromium chromium-driver)")
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  try:
    for _ in range(300):
      with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        break
      time.sleep(0.1)
    browser = Browser(port, str(folder / "profile"))
    try:
      yield browser
    finally:
      browser.close()
  finally:
    driver.terminate()
    driver.wait(30)
