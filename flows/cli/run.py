"""`tuneline run`: one run of the retrain flow, here and now."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from flows.services import SIGN_IN, USUAL_PORT, flushed, services
from tasks.core import layout, params
from tasks.core.errors import StageFailed
from tasks.core.params import Params
from tasks.core.verdict import Ruling
from tasks.data.report import rulings
from tasks.data.report.comparison import read_comparison
from tasks.data.report.tables import as_text


def main(arguments: argparse.Namespace) -> int:
    chosen = params.override(params.load(), arguments.set)
    if arguments.dry_run:
        return _dry_run(chosen, arguments.json)
    started = time.monotonic()
    print("starting the services ...", file=sys.stderr)
    with services(store=True, prefect=True) as settings, flushed():
        outcome = _run(chosen)
    outcome["ui"] = _ui(settings)
    outcome["seconds_in_all"] = round(time.monotonic() - started, 1)
    if arguments.json:
        print(json.dumps(outcome, indent=1))
    else:
        _tell(outcome, f" (sign in with what {SIGN_IN} holds)" if "PREFECT_API_URL" in settings else "")
    return 0


def _run(chosen: Params) -> dict[str, Any]:
    from prefect import tags

    from flows.automations import OURS
    from flows.retrain import retrain

    with tags(OURS):
        state = retrain(chosen, return_state=True)
    if not state.is_completed():
        raise StageFailed(state.message or "the run failed; its log says why")
    return dict(state.result())


def _ui(settings: dict[str, str]) -> str:
    """Where the run can be seen: on the server that still runs, or where `tuneline up` will most likely serve."""
    if "PREFECT_API_URL" not in settings:
        return os.environ["PREFECT_API_URL"].removesuffix("/api")
    runs_on = (layout.HOME / "prefect.json").exists()
    return settings["PREFECT_UI_URL"] if runs_on else f"http://127.0.0.1:{USUAL_PORT}"


def _tell(outcome: dict[str, Any], sign_in: str) -> None:
    report = Path(outcome["report"])
    print()
    print(as_text(read_comparison(report)))
    print()
    promotion = outcome["promotion"]
    if promotion["rulings"]:
        print(rulings.as_text([Ruling.model_validate(ruling) for ruling in promotion["rulings"]]))
        print()
    version, made = outcome["version"], "registered" if outcome["created"] else "was registered already"
    print(f"{version} {made}: {outcome['uri']}")
    print(promotion["words"])
    print(f"{len(outcome['ran'])} stages ran, in {outcome['seconds_in_all']} s altogether")
    print(f"report: {report / 'index.html'}")
    print(f"Prefect UI, while `tuneline up` runs: {outcome['ui']}{sign_in}")
    print("next: tuneline models show " + version)
    print(f"      tuneline models pull {version} --to model")
    print("      tuneline up")


def _dry_run(chosen: Params, as_json: bool) -> int:
    from flows.plan import plan

    with services(store=chosen.fetch.continue_from is not None):  # else nothing is asked of the registry
        rows = plan(Path.cwd(), chosen)
    if as_json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        print(f"{row['stage']:28} {row['does']:10} {'; '.join(row['why'])}".rstrip())
    return 0
