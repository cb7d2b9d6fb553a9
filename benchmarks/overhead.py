"""What Prefect and DVC add to the bare steps: the line with a tiny model, by hand, under DVC, and as `tuneline run`.

The model is a random Llama of two layers, so that next to nothing is spent on the model itself. Every contender
starts from an equal checkout and must make the same weights, byte for byte. Beside it: the start of `tuneline --help`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python benchmarks/NAME.py` looks beside the script only

from benchmarks import harness
from benchmarks.harness import Contender, Figure, Findings, Options, Run, Unprepared, figures, table
from benchmarks.measuring import checkout
from flows.deployments import listed
from flows.services import SIGN_IN
from tasks.core import digest, layout, manifest, params
from tasks.storage.versions import Pipeline
from tests import tiny
from tests.serving import Server, until

ROWS = 60
LIMIT_SECONDS = 1200.0
BARE, DVC, LINE = "bare steps", "dvc repro", "tuneline run"
AGAIN = {DVC: "dvc repro, nothing to do", LINE: "tuneline run, nothing to do"}
SERVED = "tuneline run, nothing to do, a server up"
EASY: dict[str, Any] = {"rows": {"train": 1, "test": 1}, "margin": 100.0, "suites": {}}
"""Rules of a gate that any model passes: a champion is what a run with nothing to do finds."""
START_ROUNDS, QUICK_START_ROUNDS = 20, 4


@dataclass(frozen=True)
class Template:
    """The checkout that every other is a copy of: the project, a tiny base, some rows taken in."""

    folder: Path
    stages: tuple[str, ...]
    script: str


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main("overhead", __doc__, measured, rounds=4, quick_rounds=1, argv=argv)


def measured(options: Options) -> Findings:
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        line = _line(Path(folder), options.rounds)
    start = _start(QUICK_START_ROUNDS if options.quick else START_ROUNDS)
    return Findings(
        {**line.ratios, **start.ratios}, {**line.absolute, **start.absolute},
        [*line.tables, *start.tables], {**line.failures, **start.failures},
    )  # fmt: skip


def _line(folder: Path, rounds: int) -> Findings:
    template = _template(folder)
    comparison = harness.compare(_contenders(template, folder), rounds)
    found = harness.findings(f"{len(template.stages)} stages with a tiny model", comparison)
    runs = comparison.runs
    added = _added(runs, len(template.stages)) if BARE in runs else {}
    inside = _inside(runs[LINE]) if LINE in runs else {}
    served = _served(folder / f"done {LINE}", rounds)
    tables = [*found.tables, *_added_table(added), *_inside_table(inside), *served.tables]
    absolute = {
        **found.absolute, **served.absolute, "added to the bare steps": _json(added), "inside tuneline run": _flat(inside),
    }  # fmt: skip
    return Findings(found.ratios, absolute, tables, {**found.failures, **served.failures})


def _template(folder: Path) -> Template:
    """Made once; no contender ever runs in it."""
    base = tiny.make_base(folder / "base")
    rows = tiny.write_rows(folder / "landing" / "day.jsonl", ROWS)
    template = checkout.make(folder / "template", f"{layout.RAW}.dvc")
    given = tiny.params(base, promote=EASY)
    values = params.parse(given, "tests/tiny.py").model_dump(mode="json")  # DVC wants every section named
    (template / params.FILE).write_text(yaml.safe_dump(values), encoding="utf-8")
    checkout.settle(template)
    ingest = _command("ingest", template, "tuneline", "data", "ingest", str(rows))
    if isinstance(outcome := harness.measure(ingest), harness.Failure):
        raise Unprepared(f"tuneline data ingest: {outcome.reason}")
    checkout.commit(template)
    pipeline = Pipeline(template)
    script = "\n".join(stage.command for stage in pipeline.stages)
    return Template(template, tuple(stage.name for stage in pipeline.stages), script)


def _contenders(template: Template, folder: Path) -> list[Contender]:
    """By hand with the commands of dvc.yaml in its order, under DVC, and under Prefect and DVC; then what is left
    to do where all is done already."""
    commands = {BARE: ("sh", "-ec", template.script), DVC: ("dvc", "repro"), LINE: ("tuneline", "run", "--json")}
    fresh = [_fresh(name, template, folder / f"fresh {name}", argv) for name, argv in commands.items()]
    return fresh + [_done(name, template, folder / f"done {name}", commands[name]) for name in AGAIN]


def _fresh(name: str, template: Template, place: Path, argv: tuple[str, ...]) -> Contender:
    return _command(name, place, *argv, fresh=lambda: _copy(template.folder, place), made=lambda: _weights(place))


def _done(name: str, template: Template, place: Path, argv: tuple[str, ...]) -> Contender:
    """Where the same command has run before. Running it once more leaves the place as it was."""

    def fresh() -> None:
        if not place.exists():
            outcome = harness.measure(_fresh(name, template, place, argv))
            if isinstance(outcome, harness.Failure):
                raise Unprepared(outcome.reason)

    return _command(AGAIN[name], place, *argv, fresh=fresh, made=lambda: _weights(place))


def _command(
    name: str, place: Path, *argv: str, fresh: Callable[[], None] = lambda: None, made: Callable[[], str] = lambda: ""
) -> Contender:
    return Contender(name, argv, place, checkout.environment(place), fresh, made, argv[-1] == "--json", LIMIT_SECONDS)


def _copy(template: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place, symlinks=True)
    shutil.rmtree(place / ".dvc" / "site")  # what DVC knows of the template's files is not true of these
    checkout.settle(place)


def _weights(place: Path) -> str:
    """Digest of every tensor file of every model that lies there."""
    if not (place / "models").is_dir():
        return "no models"
    found = {
        f"{folder.name}/{name}": entry.sha256
        for folder in sorted((place / "models").iterdir())
        for name, entry in manifest.verify(folder).files.items()
        if name.endswith(".safetensors")
    }
    return digest.of_value(found)


def _added(runs: figures.Runs, stages: int) -> dict[str, dict[str, Figure]]:
    wall, cpu = (figures.differences(runs, BARE, measure) for measure in ("wall_seconds", "cpu_seconds"))
    return {
        name: {"wall_seconds": wall[name], "cpu_seconds": cpu[name], "wall_seconds_per_stage": wall[name].over(stages)}
        for name in (DVC, LINE)
        if name in runs
    }


def _added_table(added: Mapping[str, Mapping[str, Figure]]) -> list[str]:
    rows = [[name, *(harness.spread(figure) for figure in values.values())] for name, values in added.items()]
    head = ["contender", "wall s more", "CPU s more", "wall s more a stage"]
    return [table("Added to the bare steps", head, rows)] if rows else []


def _inside(runs: Sequence[Run]) -> dict[str, Figure]:
    """Where the time of `tuneline run` goes, from what it says itself."""
    stages = [sum(run.result["seconds"].values()) for run in runs]
    whole = [float(run.result["seconds_in_all"]) for run in runs]
    return {
        "in its stages, DVC included": Figure.of(stages),
        "services, Prefect's flow, publishing": Figure.of([a - b for a, b in zip(whole, stages, strict=True)]),
        "start and end of the command": Figure.of([run.wall_seconds - a for run, a in zip(runs, whole, strict=True)]),
    }


def _inside_table(inside: Mapping[str, Figure]) -> list[str]:
    rows = [[name, harness.spread(figure)] for name, figure in inside.items()]
    return [table("Inside tuneline run", ["part", "wall s"], rows)] if rows else []


def _json(values: Mapping[str, Mapping[str, Figure]]) -> dict[str, Any]:
    return {name: _flat(inner) for name, inner in values.items()}


def _flat(values: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.as_json() for name, figure in values.items()}


def _served(place: Path, rounds: int) -> Findings:
    """Where all is done, and `tuneline up` has the services running."""
    contender = _command(SERVED, place, "tuneline", "run", "--json", made=lambda: _weights(place))
    with _up(place):
        return harness.findings("With a server up", harness.compare([contender], rounds))


@contextmanager
def _up(place: Path) -> Generator[None]:
    environment = checkout.environment(place)
    command = ["tuneline", "up"]
    with subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True) as up:
        try:
            said: dict[str, str] = {}
            for line in up.stdout or ():
                name, _, value = line.partition(":")
                said[name] = value.strip()
                if line.startswith("Ctrl-C"):
                    break
            else:
                raise Unprepared("tuneline up ended before it served")
            server = Server(said["Prefect UI"], (place / SIGN_IN).read_text().strip())
            until(lambda: len(server.post("/deployments/filter", {})) == len(listed()))
            yield
        finally:
            up.terminate()


def _start(rounds: int) -> Findings:
    """The bare interpreter is the least that any Python command takes."""
    commands = {"python -c pass": ("python", "-c", "pass"), "tuneline --help": ("tuneline", "--help")}
    contenders = [_command(name, checkout.ROOT, *argv) for name, argv in commands.items()]
    return harness.findings("Start of the command line", harness.compare(contenders, rounds))


if __name__ == "__main__":
    sys.exit(main())
