"""Every method there is, on every family: merged it answers as beside its base, or it says in a sentence why it can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tasks.core.errors import ParamsError
from tasks.ml import loading, methods
from tasks.ml.export import merge
from tasks.ml.tuned import Ahead
from tasks.ml.updates import Unmergeable
from tests import method_cases, tiny
from tests.tiny import Family

BESIDE = {
    "adapter": "brings modules of its own", "adaption_prompt": "gated attention", "beft": "no bias, cannot merge bias",
    "p_tuning": "vectors before the prompt", "prefix": "keys and values before the prompt",
    "prompt": "vectors before the prompt", "reft": "brings modules of its own",
    "xlora": "mixes its adapters anew",
}  # fmt: skip
SLOW = ("qwen", "qwen3", "gpt2")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: tiny.make_base(folder / family, family) for family in get_args(Family)}


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.arange(3, 43)[None]).logits


@pytest.mark.parametrize("method", methods.known())
@pytest.mark.parametrize(
    "family", [pytest.param(each, marks=[pytest.mark.slow] if each in SLOW else []) for each in get_args(Family)]
)
def test_a_method_merges_or_says_why(tmp_path: Path, bases: dict[Family, Path], family: Family, method: str) -> None:
    params = method_cases.params(method, bases[family])
    model = loading.load(bases[family], torch.float32)
    untrained = logits(model)
    torch.manual_seed(0)
    try:
        found, options = methods.find(params)
        tuned = found.attach(model.requires_grad_(False), params, options, Ahead(10, []))
    except ParamsError as error:
        pytest.skip(f"refused before any training: {error}")
    with torch.no_grad():
        for value in tuned.trainable().values():
            value.add_(torch.randn_like(value) * 0.05)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "merged").mkdir()
    tuned.save(tmp_path / "adapter")
    if method in BESIDE:
        with pytest.raises(Unmergeable, match=BESIDE[method]):
            merge.write(bases[family], tmp_path / "adapter", tmp_path / "merged", "base")
        return
    merge.write(bases[family], tmp_path / "adapter", tmp_path / "merged", "base")
    wanted, merged = logits(tuned.runner.model), logits(loading.load(tmp_path / "merged", torch.float32))
    assert (wanted - untrained).abs().max() > 1e-3
    torch.testing.assert_close(merged, wanted, rtol=1e-3, atol=1e-4)
