# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium over WebDriver (W3C), with nothing but http.client."""
import base64
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element, W3C WebDriver section 12.2


def missing():
    """What is not installed, or None."""
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            return program
    return None


class Browser:
    def __init__(self, width=1200, height=800):
        self.folder = tempfile.TemporaryDirectory(prefix="shoal-browser-")
        self.log = open(os.path.join(self.folder.name, "driver.log"), "wb")
        self.driver = subprocess.Popen([shutil.which("chromedriver"), "--port=0"], stdout=subprocess.PIPE,
                                       stderr=self.log, text=True)
        self.port = 0
        for line in self.driver.stdout:  # "ChromeDriver was started successfully on port 41234."
            if "successfully on port" in line:
                self.port = int(line.rsplit(" ", 1)[1].strip(" .\n"))
                break
        options = {
            "binary": shutil.which("chromium"),
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     "--disable-background-networking", "--hide-scrollbars", f"--window-size={width},{height}",
                     f"--user-data-dir={self.folder.name}/profile"],
        }
        self.session = None
        reply = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
        self.session = reply["sessionId"]
        self.size(width, height)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            if self.session:
                self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(20)
            self.driver.stdout.close()
            self.log.close()
            self.folder.cleanup()

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            where = path if self.session is None else f"/session/{self.session}{path}"
            connection.request(method, where, json.dumps(body or {}) if method == "POST" else None,
                               {"Content-Type": "application/json"})
            reply = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(reply, dict) and "error" in reply:
            raise AssertionError(f"{method} {path}: {reply['error']}: {reply['message'].splitlines()[0]}")
        return reply

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def cdp(self, command, **params):
        """One command of the browser's own protocol."""
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def size(self, width, height):
        """The size of the page, however small: windows have a least width, pages do not."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, **features):
        """prefer(prefers_color_scheme="dark")"""
        self.cdp("Emulation.setEmulatedMedia",
                 features=[{"name": k.replace("_", "-"), "value": v} for k, v in features.items()])

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self.call("POST", f"/element/{self.find(css)}/click")

    def type(self, css, text):
        self.call("POST", f"/element/{self.find(css)}/value", {"text": text})

    def press(self, *keys):
        """Keys to whatever has the focus, as a keyboard would."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def hover(self, css):
        self.call("POST", "/actions", {"actions": [{
            "type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"},
            "actions": [{"type": "pointerMove", "duration": 0, "origin": {ELEMENT: self.find(css)}, "x": 0, "y": 0}]}]})

    def text(self, css):
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", css)

    def wait(self, script, seconds=20, what=None):
        """Until the expression is true; its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.run(f"return {script}")
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"{what or script} did not come true within {seconds} s")

    def screenshot(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("GET", "/screenshot")))

    def complaints(self):
        """What the console says that is worse than information."""
        return [e["message"] for e in self.call("POST", "/se/log", {"type": "browser"}) if e["level"] in ("SEVERE", "WARNING")]


KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "End": "\ue010", "Home": "\ue011", "Left": "\ue012",
        "Right": "\ue014"}
