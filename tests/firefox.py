"""Firefox without a window, spoken to by WebDriver BiDi: what Debian ships, without a driver."""

import itertools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import websocket

PREFERENCES = """
user_pref("network.proxy.type", 1);
user_pref("network.proxy.http", "127.0.0.1");
user_pref("network.proxy.http_port", 9);
user_pref("network.proxy.ssl", "127.0.0.1");
user_pref("network.proxy.ssl_port", 9);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("ui.prefersReducedMotion", 1);
"""  # a proxy where nobody listens: the network is cut
EVENTS = ["log.entryAdded", "network.beforeRequestSent"]


class Firefox:
    """One tab of a fresh profile. `events` holds what the page logged and asked for."""

    def __init__(self, program):
        self.folder = tempfile.mkdtemp()
        Path(self.folder, "user.js").write_text(PREFERENCES)
        self.process = subprocess.Popen(
            [program, "--headless", "--remote-debugging-port=0", "--profile", self.folder],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        line = next(line for line in self.process.stderr if "BiDi listening on" in line)
        address = line.split()[-1]
        self.socket = websocket.create_connection(
            f"{address}/session", suppress_origin=True, timeout=60
        )
        self.numbers, self.events = itertools.count(), []
        self.ask("session.new", capabilities={})
        self.ask("session.subscribe", events=EVENTS)
        self.tab = self.ask("browsingContext.getTree")["contexts"][0]["context"]

    def ask(self, method, **params):
        """Send a command and return its result; keep the events that come before it."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]
            self.events.append(answer)

    def open(self, address):
        """Open a page and forget what went before."""
        self.events.clear()
        self.ask("browsingContext.navigate", context=self.tab, url=address, wait="complete")

    def evaluate(self, expression):
        """Return the value of a JavaScript expression, a promise's when it is kept."""
        answer = self.ask(
            "script.evaluate",
            expression=expression,
            target={"context": self.tab},
            awaitPromise=True,
        )
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    def act(self, kind, *actions, device="hand", **parameters):
        """Let an input device act: a "pointer", the "wheel" or the keyboard, which is "key"."""
        source = {"type": kind, "id": f"{kind} {device}", "actions": list(actions)}
        source |= {"parameters": parameters} if parameters else {}
        self.ask("input.performActions", context=self.tab, actions=[source])

    def press(self, *keys):
        """Press keys, one after another."""
        downs = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.act("key", *downs)

    def close(self):
        """End the browser and remove its profile."""
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        self.process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)
