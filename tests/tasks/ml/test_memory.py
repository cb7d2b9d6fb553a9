"""Too little memory for a forward pass, by a real limit of the process's address space: smaller passes, then one message."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import runs, tiny

ROOT = Path(__file__).parents[3]

TRAIN = """
import json, resource, sys
from dataclasses import replace
from pathlib import Path
from tasks.core import events
from tasks.core.step import guarded
from tasks.data.chatset import Segment
from tasks.ml import adapters, fused, loading, packing, prediction
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.world import ALONE
from tests import runs

base, work, room, again, tokens = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4], int(sys.argv[5])
ids = [3 + place * 7 % 300 for place in range(tokens)]
rows = [Segment(str(row), [3 + row, *ids[1:]], [place >= tokens - 12 for place in range(tokens)]) for row in range(4)]
launch, batch = runs.Launch(dtype="float32", recompute=again), runs.Batch(packs=4, micro_tokens=4 * tokens)
params = runs.params("lora", epochs=1, batch=batch, launch=launch)

def train():
    loading.threads()
    tuned = runs.attach(base, params)
    fused.fuse(tuned.runner.model)
    limited = []

    def loss_sum(pack, noise):
        if not limited and tuned.runner.model.training:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = int(pages * resource.getpagesize() + room)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            limited.append(limit)
        return tuned.runner.loss_sum(pack, noise)

    watched = replace(tuned, runner=replace(tuned.runner, loss_sum=loss_sum))
    predicted = prediction.of(tuned, packing.pack([runs.row(1, 20)]), params, 0)
    result = adapters.fit(watched, [[row] for row in rows], [runs.row(1, 20)], params, Checkpoints(work, 1e9), ALONE, predicted)
    print(json.dumps([record.loss for record in result.history]))

sys.exit(guarded("train", train))
"""


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose activations outweigh what an allocator keeps by the way: over 200 MB a row of 512 tokens."""
    return tiny.make_base(tmp_path_factory.mktemp("deep"), layers=64)


@dataclass(frozen=True)
class Ended:
    code: int
    losses: list[float]
    said: str


def train(base: Path, work: Path, room: float, recompute: str = "auto", tokens: int = 512) -> Ended:
    command = [sys.executable, "-c", TRAIN, base, work, str(room), recompute, str(tokens)]
    done = subprocess.run(command, cwd=ROOT, env=runs.environment(), capture_output=True, text=True)
    return Ended(done.returncode, json.loads(done.stdout or "[]"), done.stderr)


@pytest.fixture(scope="module")
def undisturbed(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = train(deep, tmp_path_factory.mktemp("undisturbed"), 2e9)
    assert ended.code == 0 and "out of memory" not in ended.said
    return ended


@pytest.mark.parametrize(("room", "recomputed"), [pytest.param(6e8, False, marks=pytest.mark.slow), (9e7, True)])
def test_smaller_passes_give_the_same_losses(
    deep: Path, tmp_path: Path, undisturbed: Ended, room: float, recomputed: bool
) -> None:
    found = train(deep, tmp_path, room)
    assert found.code == 0, found.said
    assert found.losses == pytest.approx(undisturbed.losses, rel=1e-6)
    assert "out of memory: from here on 1024 tokens a forward pass instead of 2048" in found.said
    assert ("activations are computed again" in found.said) == recomputed


@pytest.mark.parametrize(
    ("tokens", "recompute"), [(8192, "auto"), pytest.param(512, "never", marks=pytest.mark.slow)]
)  # fmt: skip
def test_what_fits_in_no_way_is_one_message(deep: Path, tmp_path: Path, tokens: int, recompute: str) -> None:
    found = train(deep, tmp_path, 9e7, recompute, tokens)
    assert found.code == 6 and "Traceback" not in found.said
    wanted = (
        rf"error: train ran out of memory with one row of {tokens} tokens a forward pass: \d.\d\d GB were predicted"
    )
    assert re.match(wanted, found.said.splitlines()[-1])
    assert ("activations are computed again" in found.said) == (recompute == "auto")
