"""Formats are made, measured, made again with the known remedies, judged, and published only within their budget."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import publish
from tasks.core import layout, manifest
from tasks.core.errors import DataError, IntegrityError
from tasks.core.params import Params
from tasks.core.sections import QuantizeParams
from tasks.data import verdicts
from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.judge import judge
from tasks.ml import fidelity, loading, sensitivity, serving
from tasks.ml.tuned import Runner
from tasks.prepare import prepare
from tasks.quantize import quantize
from tests import runs, tiny

STRICT = {"perplexity": 1.0, "kl": 0.0, "kl_p99": None, "agreement": 1.0, "drop": 0.0}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads of a busy machine spin for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A training set, a base that stands for the merged model too, and both judged."""
    folder = tmp_path_factory.mktemp("judge")
    params = Params.model_validate(tiny.params(tiny_base))
    fetch(params.fetch, out=folder / "base")
    tiny.make_raw(folder / "raw")
    prepare(params.prepare, raw=folder / "raw", base=folder / "base", out=folder / "chat", report=folder / "card")
    with manifest.staged(folder / "merged") as merged:
        for name in manifest.read(folder / "base").files:
            (merged / name).write_bytes((folder / "base" / name).read_bytes())
        manifest.seal(merged, step="merge", inputs={}, params={}, facts={})
    for target in ("base", "merged"):
        judged(folder, target)
    return folder


def judged(folder: Path, target: str) -> None:
    params = Params.model_validate(tiny.params(folder / "base")).evaluate
    evaluate(params, target=target, chat=folder / "chat", base=folder / "base", model=folder / target,
             suites=tiny.SUITES, out=folder / "evaluations" / target)  # fmt: skip


def asked(**changes: Any) -> QuantizeParams:
    values = {"formats": ["nf4"], "calibration": 4, "held_out": 4, "second_try": True, "budget": tiny.ANY_PRICE}
    return QuantizeParams.model_validate({**values, **changes})


def make(folder: Path, out: str, params: QuantizeParams, format: str = "nf4") -> dict[str, Any]:
    return quantize(params, format=format, merged=folder / "merged", chat=folder / "chat", out=folder / out).facts


def give(folder: Path, params: QuantizeParams, out: str) -> tuple[verdicts.Verdict, ...]:
    judge(params, chat=folder / "chat", base=folder / "base", merged=folder / "merged",
          evaluations=folder / "evaluations", out=folder / out)  # fmt: skip
    return verdicts.read(folder / out)


def test_a_format_within_its_budget_is_made_once(line: Path) -> None:
    facts = make(line, "easy", asked())
    (tried,) = facts["tries"]
    assert tried["within_budget"] and tried["kl"] == facts["likeness"]["kl"] > 0
    assert tried["bytes"] < sum(entry.size for entry in manifest.read(line / "merged").files.values())
    assert facts["measured_on"]["split"] == "valid" and facts["calibration"]["split"] == "train"
    assert facts["measured_on"]["rows"] == facts["calibration"]["rows"] == 4
    again = make(line, "again", asked())
    assert again == facts, "the same work gives the same manifest"


def test_one_beyond_it_is_tried_again_and_the_nearest_stays(line: Path) -> None:
    facts = make(line, "hard", asked(budget=STRICT))
    plain, kept = facts["tries"]
    assert (plain["keep"], len(kept["keep"])) == ([], 1), "a quarter of two blocks, rounded up"
    assert not plain["within_budget"] and not kept["within_budget"]
    assert facts["likeness"]["kl"] == min(plain["kl"], kept["kl"]) and plain["kl"] != kept["kl"]
    assert facts["quantised_layers"] == (7 if facts["recipe"]["keep"] else 14)
    assert not [path for path in (line / "hard").iterdir() if path.is_dir()], "no try is left lying"
    assert len(make(line, "once", asked(budget=STRICT, second_try=False))["tries"]) == 1


def test_the_verdict_is_the_budgets(line: Path) -> None:
    make(line, "nf4", asked())
    judged(line, "nf4")
    (easy,) = give(line, asked(), "easy-verdicts")
    assert easy.passed and easy.rulings == ()
    (hard,) = give(line, asked(budget=STRICT), "hard-verdicts")
    assert not hard.passed and "kl" in {ruling.rule for ruling in hard.broken}
    assert [ruling.rule for ruling in hard.rulings] == ["perplexity", "kl", "agreement", "exact_match", "chrf"]
    answers = [json.loads(line_) for line_ in (line / "evaluations/nf4/rows.jsonl").read_text().splitlines()]
    theirs = [json.loads(line_) for line_ in (line / "evaluations/merged/rows.jsonl").read_text().splitlines()]
    mean = sum(a["metrics"]["chrf"] - b["metrics"]["chrf"] for a, b in zip(answers, theirs, strict=True)) / len(answers)
    (chrf,) = (ruling for ruling in hard.rulings if ruling.rule == "chrf")
    assert chrf.measured == pytest.approx(mean) and chrf.low is not None and chrf.low <= mean
    assert manifest.read(line / "hard-verdicts").facts == {"passed": [], "refused": ["nf4"]}


def test_a_format_without_an_evaluation_is_named(line: Path) -> None:
    with pytest.raises(DataError, match="int9 has no evaluation on the present data"):
        give(line, asked(formats=["int9"]), "none")
    with pytest.raises(IntegrityError, match="has no verdicts.json"):
        verdicts.read(line)


def test_a_model_is_like_itself_and_one_of_nans_like_nothing(tiny_base: Path) -> None:
    rows = [runs.row(number, 24) for number in range(6)]
    model = loading.load(tiny_base, torch.float32)
    served = serving.by_transformers(Runner.of(model))
    same = fidelity.compare(served, served, rows, "test")
    assert (same.perplexity, same.kl, same.kl_p99, same.agreement) == (1, 0, 0, 1)
    broken = serving.Served("nans", lambda row: (chunk * float("nan") for chunk in served.logits(row)), served.generate)
    found = fidelity.compare(served, broken, rows, "test")
    assert (found.kl, found.agreement) == (fidelity.FAR, 0)
    assert not torch.is_inference_mode_enabled(), "two models side by side leave torch as they found it"


def test_likeness_is_that_of_its_definition(tiny_base: Path) -> None:
    """Against torch's own divergence, in float64."""
    one, other = (loading.load(tiny_base, torch.float32) for _ in range(2))
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    row = runs.row(1, 24)
    p, q = (model(input_ids=torch.tensor([row.ids])).logits[0, :-1].double().log_softmax(-1) for model in (one, other))
    marks = torch.tensor(row.loss[1:])
    wanted = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)[marks].mean().item()
    found = fidelity.compare(*(serving.by_transformers(Runner.of(model)) for model in (one, other)), [row], "test")
    assert found.kl == pytest.approx(wanted, rel=1e-3) and found.tokens == int(marks.sum())


def test_the_block_that_matters_is_found(tmp_path: Path, tiny_base: Path) -> None:
    """A block whose matrices are nearly zero can be as coarse as it likes."""
    model: Any = loading.load(tiny_base, torch.float32)
    with torch.no_grad():
        for value in model.model.layers[0].parameters():
            if value.ndim == 2:
                value.mul_(1e-3)
    model.save_pretrained(tmp_path)
    rows = [runs.row(number, 24) for number in range(4)]
    assert sensitivity.most_sensitive(tmp_path, rows) == {"model.layers.1"}


@pytest.mark.parametrize(
    ("budget", "published"), [(tiny.ANY_PRICE, {"adapter", "merged", "nf4"}), (STRICT, {"adapter", "merged"})]
)
def test_what_is_refused_is_not_published(
    line: Path, tmp_path: Path, budget: dict[str, Any], published: set[str]
) -> None:
    make(line, "nf4", asked())
    judged(line, "nf4")
    for source, place in (("merged", layout.MERGED), ("nf4", layout.model("nf4"))):
        shutil.copytree(line / source, tmp_path / place)
    with manifest.staged(tmp_path / layout.ADAPTER) as folder:
        manifest.seal(folder, step="train", inputs={}, params={}, facts={})
    values = tiny.params(line / "base", quantize={"budget": budget})
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    chosen = Params.model_validate(values)
    judge(chosen.quantize, chat=line / "chat", base=line / "base", merged=line / "merged",
          evaluations=line / "evaluations", out=tmp_path / layout.VERDICTS)  # fmt: skip
    assert set(publish._models(tmp_path)) == published  # pyright: ignore[reportPrivateUsage]
    notes = publish._notes(chosen, tmp_path)  # pyright: ignore[reportPrivateUsage]
    assert notes.keys() == {"adapter", "merged", "nf4"} - published
    assert all(note.startswith("refused, not published: ") and "kl" in note for note in notes.values())
    values["quantize"]["formats"] = ["nf4", "int8"]
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    with pytest.raises(IntegrityError, match="judges other formats"):
        publish._models(tmp_path)  # pyright: ignore[reportPrivateUsage]
