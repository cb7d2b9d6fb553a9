"""Methods of our own in two processes: the course of one, also where the frozen base is shared out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.ml import launch
from tasks.ml.world import ALONE
from tests.tasks.ml import several
from tests.tasks.ml.methods import several_own

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    out = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        command = [sys.executable, "-m", "tests.tasks.ml.methods.several_own", str(tiny_base), str(out)]
        failed = launch.processes(command, 2, out / "log")
        assert failed == {}, "\n".join(file.read_text() for file in out.rglob("stderr.log"))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("method", list(several_own.METHODS))
def test_two_processes_take_the_course_of_one(two: Path, tmp_path: Path, tiny_base: Path, method: str) -> None:
    several.train(tiny_base, tmp_path, several_own.params(method, alone=True), ALONE)
    ours, theirs = (json.loads((folder / "found-0.json").read_bytes()) for folder in (two / method, tmp_path))
    for curve, bound in (("losses", 1e-4), ("norms", 1e-3), ("valid", 1e-4)):
        assert ours[curve] == pytest.approx(theirs[curve], rel=bound), curve
    assert len(ours["losses"]) == 12
    weights = [load_file(folder / "weights-0.st") for folder in (two / method, tmp_path)]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)
    again = load_file(two / method / "weights-1.st")
    assert all(torch.equal(value, again[name]) for name, value in weights[0].items())
    sharded = several_own.METHODS[method][1]
    assert (ours["held"] < 0.9 * theirs["held"]) == sharded
