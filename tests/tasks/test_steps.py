"""The steps one after another as plain functions, for every method: what is trained is what is merged and judged."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.core import manifest
from tasks.core.params import Params
from tasks.data import chatset
from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.merge import merge
from tasks.ml import methods
from tasks.prepare import prepare
from tasks.train import train
from tests import method_cases, tiny
from tests.project import ROOT

OFTEN = ("lora", "qlora", "dora", "full", "adapter", "ia3", "prefix")
"""One of each kind; the others take minutes together."""
STEPS = [
    method if method in OFTEN else pytest.param(method, marks=pytest.mark.slow)
    for method in methods.known()
    if (method, "llama") not in method_cases.REFUSED
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    params = Params.model_validate(tiny.params(tiny_base))
    fetch(params.fetch, out=folder / "base")
    tiny.make_raw(folder / "raw")
    prepare(
        params.prepare, raw=folder / "raw", base=folder / "base", out=folder / "chat", report=folder / "data-report"
    )  # fmt: skip
    return folder


def test_every_row_is_in_one_split(prepared: Path) -> None:
    facts = manifest.verify(prepared / "chat").facts
    assert sum(facts["rows"].values()) + sum(facts["dropped"].values()) == 60
    assert all(facts["rows"].values())


UNUSED = {"dvc", "evaluate", "gguf", "llama_cpp", "lm_eval", "matplotlib", "onnxruntime", "prefect", "sklearn"}
"""Not those that the libraries bring by themselves: accelerate boto3, peft bitsandbytes, transformers pandas and torchao."""


def test_a_training_loads_nothing_that_it_does_not_use(prepared: Path, tmp_path: Path, tiny_base: Path) -> None:
    """Every import is paid for before the first optimizer step."""
    (prepared / "params.yaml").write_text(yaml.safe_dump(tiny.params(tiny_base)))
    paths = {"chat": "chat", "base": "base", "out": tmp_path / "adapter", "report": tmp_path / "report"}
    words = [word for flag, path in paths.items() for word in (f"--{flag}", str(path))]
    code = (
        "import sys; from tasks.core.step import main; from tasks.train import train\n"
        f"print(main(train, {words!r}), sorted({UNUSED!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TUNELINE_WORK": str(tmp_path / "work")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=prepared, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "0 []"


@pytest.mark.parametrize("method", STEPS)
def test_a_method_trains_merges_and_is_judged(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, method: str
) -> None:
    monkeypatch.setenv("TUNELINE_WORK", str(tmp_path / "work"))
    params = Params.model_validate(tiny.params(tiny_base, train={
        "method": method, "launch": {"dtype": "auto"}, "options": method_cases.options(method, tiny_base),
    }))  # fmt: skip
    chat, base = prepared / "chat", prepared / "base"
    trained = train(params.train, chat=chat, base=base, out=tmp_path / "adapter", report=tmp_path / "report")
    assert trained.facts["base"] == ("nf4" if method == "qlora" else "plain")
    assert not (tmp_path / "work" / "checkpoints").exists() or not list((tmp_path / "work" / "checkpoints").iterdir())
    merged = merge(params.merge, base=base, adapter=tmp_path / "adapter", chat=chat, out=tmp_path / "merged")
    wanted = {"base": base, "adapter": tmp_path / "adapter", "chat": chat}
    assert merged.inputs == {name: manifest.read(folder).digest for name, folder in wanted.items()}
    assert merged.facts["merged"] is False or merged.facts["proof"]["kl"] < 1e-4
    losses = {}
    for target in ("adapter", "merged"):
        out = tmp_path / f"judged-{target}"
        judged = evaluate(
            params.evaluate, target=target, chat=chat, base=base, model=tmp_path / target, suites=tiny.SUITES, out=out
        )
        summary = json.loads((out / "metrics.json").read_bytes())
        rows = [json.loads(line) for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
        assert judged.facts["rows"] == len(rows) == summary["rows"] > 10
        assert math.isclose(math.log(summary["perplexity"]), summary["loss"], rel_tol=1e-6)
        assert {row["id"] for row in rows} == {row.id for row in _test_rows(chat)}
        losses[target] = summary["loss"]
    assert math.isclose(losses["adapter"], losses["merged"], rel_tol=0.02)


def _test_rows(chat: Path) -> list[chatset.Example]:
    return chatset.read(chat / "test.parquet")
