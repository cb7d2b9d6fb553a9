"""dvc.yaml, the step signatures, Params and Layout tell one story; what a command loads stays small."""

from __future__ import annotations

import importlib
import inspect
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tasks.core import layout, params, step
from tasks.core.rules import LimitsParams
from tasks.core.sections import QuantizeParams
from tasks.storage.versions import Pipeline

ROOT = Path(__file__).parents[1]
FORMATS = params.load(ROOT / "params.yaml").quantize.formats
VERBS = {"fetch", "prepare", "train", "merge", "quantize", "evaluate", "judge", "report"}
DOORS = {"ingest", "forget", "publish", "promote"}


def stages() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every stage of dvc.yaml with its matrix written out, read without DVC."""
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        if "matrix" not in stage:
            yield name, stage
            continue
        ((key, values),) = stage["matrix"].items()
        for value in FORMATS if values == "${quantize.formats}" else values:
            text = yaml.safe_dump({k: v for k, v in stage.items() if k != "matrix"})
            yield f"{name}@{value}", yaml.safe_load(text.replace(f"${{item.{key}}}", value))


STAGES = dict(stages())


def parts(stage: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """The step's function and the flags of its command."""
    words = shlex.split(stage["cmd"])
    assert words[:2] == ["python", "-m"]
    module = importlib.import_module(words[2])
    return getattr(module, words[2].rpartition(".")[2]), dict(
        zip((w.removeprefix("--") for w in words[3::2]), words[4::2], strict=True)
    )


def test_every_step_is_a_stage_or_a_door() -> None:
    files = {path.stem for path in (ROOT / "tasks").glob("*.py")} - {"__init__"}
    assert files == VERBS | DOORS
    assert {parts(stage)[0].__name__ for stage in STAGES.values()} == VERBS
    assert len(STAGES) == 9 + 2 * len(FORMATS)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_its_steps_signature(name: str) -> None:
    function, flags = parts(STAGES[name])
    stage, wanted = STAGES[name], step.flags_of(function)
    assert set(flags) == set(wanted)
    outs = {flags[flag] for flag in ("out", "report") if flag in flags}
    deps = {value for flag, value in flags.items() if wanted[flag] is Path} - outs
    assert set(stage["outs"]) == outs
    assert set(stage.get("deps", [])) == deps
    section = step.section_of(function)
    wanted_params = [section] if section else []
    if function.__name__ == "quantize":  # adding a format re-makes no other
        wanted_params = [f"quantize.{key}" for key in sorted({*QuantizeParams.model_fields} - {"formats"})]
    assert stage.get("params", []) == wanted_params


def test_the_layout_is_where_the_stages_put_things() -> None:
    outs = {Path(out) for stage in STAGES.values() for out in stage["outs"]}
    targets = ["base", "adapter", "merged", *FORMATS]
    known = {
        layout.BASE,
        layout.CHAT,
        layout.ADAPTER,
        layout.MERGED,
        layout.DATA_REPORT,
        layout.TRAIN_REPORT,
        layout.VERDICTS,
        layout.RUN_REPORT,
    }
    known |= {layout.model(format) for format in FORMATS} | {layout.evaluation(target) for target in targets}
    assert outs == known


def test_every_section_belongs_to_a_step() -> None:
    assert set(params.Params.model_fields) == (VERBS - {"judge"} | {"data", "publish", "promote", "trigger", "limits"})


def test_limits_know_every_step_and_take_no_other() -> None:
    for name, stage in STAGES.items():
        verb = parts(stage)[0].__name__
        limits = LimitsParams.model_validate({"stage_hours": 5.0, "hours": {verb: 2.0}})
        assert limits.of(name) == 2.0
        assert {limits.of(other) for other, found in STAGES.items() if parts(found)[0].__name__ != verb} == {5.0}
    with pytest.raises(ValidationError, match=r"hours\.trian"):
        LimitsParams.model_validate({"hours": {"trian": 2.0}})


def test_dvc_reads_the_same_graph() -> None:
    pipeline = Pipeline(ROOT)
    assert {stage.name for stage in pipeline.stages} == set(STAGES)
    order = [stage.name for stage in pipeline.stages]
    makers = {out: name for name, stage in STAGES.items() for out in stage["outs"]}
    for stage in pipeline.stages:
        needed = {
            maker
            for dep in STAGES[stage.name].get("deps", [])
            for out, maker in makers.items()
            if f"{out}/".startswith(f"{dep}/")
        }
        assert set(stage.needs) == needed
        assert all(order.index(need) < order.index(stage.name) for need in stage.needs)


HEAVY = ("prefect", "torch", "transformers", "peft", "dvc", "boto3", "datasets", "evaluate", "matplotlib")


@pytest.mark.parametrize("command", ["flows", *(f"tasks.{name}" for name in sorted(VERBS | DOORS))])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{command}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "usage:" in done.stdout
    heavy = "LOADED ['boto3']" if command.rpartition(".")[2] in DOORS else "LOADED []"
    assert done.stdout.splitlines()[-1] == heavy


def test_steps_never_import_each_other_and_say_what_they_do() -> None:
    for name in sorted(VERBS | DOORS):
        function = getattr(importlib.import_module(f"tasks.{name}"), name)
        assert inspect.getdoc(function), name
        assert 'if __name__ == "__main__":' in (ROOT / "tasks" / f"{name}.py").read_text(encoding="utf-8")
