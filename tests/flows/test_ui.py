"""What a person sees of a run in the Prefect UI, in a real browser; `SCREENSHOTS=docs` keeps the pictures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.project import ROOT, Project
from tests.serving import Server, serving, until

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZE = "1500,1300"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt-get install chromium"),
]


class Browser:
    """Pages of one address, as they are once their scripts have run."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address, self._folder = address, folder
        self._pictures = Path(os.environ.get("SCREENSHOTS", folder)).absolute()

    def text(self, path: str, *words: str) -> str:
        """The page's text, once it has all of these words."""
        shown = ""

        def there() -> bool:
            nonlocal shown
            shown = self._run("--dump-dom", path)
            return all(word in shown for word in words)

        try:
            until(there, seconds=120)
        except AssertionError:
            raise AssertionError(f"{[word for word in words if word not in shown]} not on {path}") from None
        return shown

    def picture(self, path: str, name: str) -> Path:
        self._run(f"--screenshot={self._pictures / name}", path)
        return self._pictures / name

    def sign_in(self, words: str) -> None:
        """Have the profile remember what the login page would: by the protocol of Chromium's own developer tools."""
        with subprocess.Popen(
            self._command("--remote-debugging-port=0", "/login"), stderr=subprocess.DEVNULL
        ) as process:
            port_file = self._folder / "profile" / "DevToolsActivePort"
            port = until(lambda: port_file.exists() and port_file.read_text().partition("\n")[0], seconds=60)
            until(lambda: _evaluated(port, f"{self._address}/login", "document.readyState") == "complete", seconds=60)
            kept = "localStorage.setItem('prefect-password', btoa({0})), localStorage.getItem('prefect-password')"
            assert _evaluated(port, f"{self._address}/login", kept.format(json.dumps(words)))
            _ask(until(lambda: _json(port, "version"))["webSocketDebuggerUrl"], "Browser.close")
            process.wait(timeout=60)

    def _run(self, flag: str, path: str) -> str:
        command = self._command("--virtual-time-budget=20000", flag, path)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout

    def _command(self, *flags_and_path: str) -> list[str]:
        assert BROWSER is not None
        *flags, path = flags_and_path
        return [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={SIZE}",
            f"--user-data-dir={self._folder / 'profile'}", *flags, f"{self._address}{path}",
        ]  # fmt: skip


def _json(port: str, what: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/{what}") as answer:
        return json.load(answer)


def _evaluated(port: str, page: str, expression: str) -> Any:
    """The value of a JavaScript expression on the open page, None while there is no such page."""
    for target in _json(port, "list"):
        if target["url"] == page:
            told = _ask(target["webSocketDebuggerUrl"], "Runtime.evaluate", expression=expression)
            return told["result"].get("value")
    return None


def _ask(address: str, method: str, **params: Any) -> Any:
    with connect(address) as socket:
        socket.send(json.dumps({"id": 1, "method": method, "params": params}))
        return json.loads(socket.recv(timeout=60))["result"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[tuple[Server, Browser, str]]:
    """A server with a run that waits for a person, and a browser before it."""
    folder = tmp_path_factory.mktemp("ui")
    (folder / "landing").mkdir()
    promote: dict[str, Any] = {"approval": "manual", "margin": 1.0, "rows": {"train": 1, "test": 1}}
    project = Project(
        folder / "project", tiny_base, {}, publish={"name": "shown"}, trigger={"settle_minutes": 0.0},
        quantize={"formats": ["nf4"]}, promote=promote, train={"epochs": 5}, evaluate={"max_new_tokens": 12},
    )  # fmt: skip
    with serving(project, TUNELINE_LANDING=str(folder / "landing")) as (server, _):
        shutil.copy(ROOT / "data/sample/day1.jsonl", folder / "landing" / "day1.jsonl")
        server.landed()
        run = str(until(lambda: server.runs("retrain"))[0]["id"])
        server.reach(run, "Suspended", "Failed", "Refused")
        browser = Browser(server.api.removesuffix("/api"), folder)
        browser.sign_in(server.sign_in)
        yield server, browser, run


def test_the_run_says_model_data_and_method_and_what_it_waits_for(seen: tuple[Server, Browser, str]) -> None:
    _, browser, run = seen
    browser.text(f"/runs/flow-run/{run}", "shown v1 lora", "Suspended", "model: shown", "data: v1", "method: lora")
    browser.picture(f"/runs/flow-run/{run}", "ui-run.png")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("training-loss", ["Step", "tokens/s", "eta"]),
        ("gate", ["exact_match", "needed", "passed"]),
        ("comparison", ["base", "merged"]),
        ("samples", ["reference", "merged"]),
        ("model-card", ["tuned with lora", "Exact match"]),
        ("data-card", ["rows"]),
    ],
)
def test_its_artifacts_are_readable(seen: tuple[Server, Browser, str], key: str, words: list[str]) -> None:
    server, browser, run = seen
    found = server.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}})
    assert found, f"no artifact {key}"
    page = f"/artifacts/artifact/{found[0]['id']}"
    assert "library_name" not in browser.text(page, *words), "a card's metadata is for machines"
    browser.picture(page, f"ui-{key}.png")


def test_the_forms_have_the_knobs(seen: tuple[Server, Browser, str]) -> None:
    server, browser, _ = seen
    (found,) = server.post("/deployments/filter", {"deployments": {"name": {"any_": ["retrain"]}}})
    page = f"/deployments/deployment/{found['id']}/run"
    browser.text(page, "params", "when")
    browser.picture(page, "ui-form.png")


def test_the_automations_are_there(seen: tuple[Server, Browser, str]) -> None:
    _, browser, _ = seen
    browser.text("/automations", "a silent run has crashed", "a crashed run goes on", "nobody approved")
