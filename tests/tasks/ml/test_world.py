"""Several processes: one loss curve, one checkpoint format, one voice, and none left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tasks.core import events, manifest
from tasks.core.errors import DataError, ModelError, ParamsError, ResourceError
from tasks.core.params import Params
from tasks.core.sections import Batch, Launch, TrainParams
from tasks.fetch import fetch
from tasks.ml import launch, loading, sharding
from tasks.ml.world import ALONE, World
from tasks.prepare import prepare
from tests import tiny
from tests.hearing import Heard
from tests.tasks.ml import several

TWO = TrainParams(batch=Batch(packs=2), launch=Launch(processes=2))
ROOT = Path(__file__).parents[3]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 5))
def test_every_item_is_in_one_share_and_shares_are_even(weights: list[int], size: int) -> None:
    items = list(enumerate(weights))
    shares = World(0, size).shares(items, lambda item: item[1])
    assert len(shares) == size and sorted(item for share in shares for item in share) == items
    assert all(share == sorted(share) for share in shares)
    loads = [sum(weight for _, weight in share) for share in shares]
    assert max(loads) - min(loads) <= max(weights, default=0)


def test_a_world_of_one_is_as_if_there_was_none() -> None:
    random, gradient = torch.get_rng_state(), torch.ones(2)
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = gradient
    with World.here(1).joined() as world, world.own_noise(), world.first_alone():
        world.sum_gradients([parameter])
        world.check_equal([1], "weights")
    assert (
        world == ALONE
        and world.is_first
        and world.totals(0.1, 2) == [0.1, 2]
        and world.any(False, True) == [False, True]
    )
    assert parameter.grad is gradient and torch.equal(torch.get_rng_state(), random)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """What two processes made of the trainings in several.py."""
    out = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        command = [sys.executable, "-m", "tests.tasks.ml.several", str(tiny_base), str(out)]
        assert launch.processes(command, 2, out / "log") == {}, _outputs(out)
    return out


def _outputs(folder: Path) -> str:
    return "\n".join(file.read_text() for file in folder.rglob("stderr.log"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    out = tmp_path_factory.mktemp("one")
    several.train(tiny_base, out, several.PARAMS, ALONE)
    return out


def found(folder: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"found-{rank}.json").read_bytes())


def weights(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"weights-{rank}.st")


def assert_same_course(folder: Path, wanted: Path) -> None:
    ours, theirs = found(folder), found(wanted)
    for curve, apart in (("losses", 1e-5), ("norms", 1e-4), ("valid", 1e-5)):  # other processors round otherwise
        assert ours[curve] == pytest.approx(theirs[curve], rel=apart), curve
    assert len(ours["losses"]) == 12 and max(ours["norms"]) > 0
    torch.testing.assert_close(weights(folder), weights(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["plain", "sharded", "recomputed"])
def test_two_processes_take_the_course_of_one(two: Path, one: Path, way: str) -> None:
    """The batches' rows, their targets and even their number differ between the processes: 21 rows in steps of four."""
    assert_same_course(two / way, one)


@pytest.mark.parametrize("way", ["plain", "sharded", "noisy", "stopped-sharded"])
def test_both_processes_hold_the_same(two: Path, way: str) -> None:
    first, second = weights(two / way, 0), weights(two / way, 1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert found(two / way, 0) == found(two / way, 1)


def test_sharded_each_holds_half_of_the_base(two: Path) -> None:
    whole, trained = found(two / "plain")["held"], sum(value.nbytes for value in weights(two / "plain").values())
    for rank in (0, 1):
        assert found(two / "sharded", rank)["held"] - trained == pytest.approx((whole - trained) / 2, rel=0.01)


def test_dora_reads_its_norms_from_sharded_weights(two: Path, tmp_path: Path, tiny_base: Path) -> None:
    several.train(tiny_base, tmp_path, several.DORA, ALONE)
    assert found(two / "dora")["losses"] == pytest.approx(found(tmp_path)["losses"], rel=1e-5)


def test_conflicts_are_projected_on_the_gradients_of_all_processes(two: Path, tmp_path: Path, tiny_base: Path) -> None:
    several.train(tiny_base, tmp_path, several.PCGRAD, ALONE)
    assert found(two / "pcgrad")["losses"] == pytest.approx(found(tmp_path)["losses"], rel=1e-5)
    torch.testing.assert_close(weights(two / "pcgrad"), weights(tmp_path), rtol=1e-4, atol=1e-5)


def test_memory_that_ends_in_one_process_makes_all_take_smaller_passes(two: Path, one: Path) -> None:
    assert found(two / "exhausted")["losses"] == pytest.approx(found(one)["losses"], rel=1e-5)
    assert found(two / "exhausted", 0) == found(two / "exhausted", 1)


def test_processes_that_differ_are_refused(two: Path) -> None:
    said = [(two / "differing" / f"refused-{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and said[0].startswith("the weights at the start differ between the processes")


def test_the_batch_that_gave_nan_is_kept_before_any_process_ends(two: Path) -> None:
    said = [(two / "broken" / f"refused-{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and said[0].startswith("4 rows kept: train step 2: loss nan with gradient norm nan on")


@pytest.mark.parametrize("name", ["stopped", "noisy-stopped"])
def test_the_end_of_one_is_a_checkpoint_and_the_end_of_all(two: Path, name: str) -> None:
    assert [(two / name / f"ended-{rank}").read_text() for rank in (0, 1)] == ["143", "143"]
    if name == "stopped":
        assert (two / name / "checkpoints" / f"step-{several.STOPPED_AFTER:08}" / "manifest.json").exists()


def test_one_process_and_sharded_ones_resume_what_two_wrote(
    two: Path, one: Path, tmp_path: Path, tiny_base: Path
) -> None:
    shutil.copytree(two / "stopped", tmp_path / "resumed")
    several.train(tiny_base, tmp_path / "resumed", several.PARAMS, ALONE)
    for folder in (tmp_path / "resumed", two / "stopped-sharded"):
        assert_same_course(folder, one)
        resumed, whole = found(folder)["losses"], found(two / "plain")["losses"]
        assert resumed[: several.STOPPED_AFTER] == whole[: several.STOPPED_AFTER]


def test_dropout_and_noise_are_resumed_exactly(two: Path) -> None:
    wanted, resumed = weights(two / "noisy"), weights(two / "noisy-stopped")
    assert all(torch.equal(wanted[name], resumed[name]) for name in wanted)
    assert found(two / "noisy") == found(two / "noisy-stopped")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch": {"packs": 1}}, "train.batch.packs=1 are too few: raise train.batch.packs to 2 or more"),
        ({"launch": {"processes": 1, "sharded": True}}, "raise train.launch.processes above 1"),
        ({"method": "qlora", "launch": {"processes": 2, "sharded": True}}, "holds the base as nf4"),
        ({"method": "lroa"}, "unknown method 'lroa'"),
    ],
)
def test_what_can_t_be_shared_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    params = TrainParams.model_validate({**TWO.model_dump(), **changes})
    with pytest.raises(ParamsError, match=says):
        assert launch.is_wanted(params)
        launch.run("tests.tasks.ml.ending:stay", params, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_method_that_leaves_little_frozen_is_not_sharded(tiny_base: Path) -> None:
    tuned = several.attach(tiny_base, several.PARAMS, ALONE)
    tuned.runner.model.requires_grad_(True)
    with pytest.raises(ParamsError, match="trains most of it"):
        sharding.shard(tuned, World(0, 2))


@pytest.fixture
def heard() -> Iterator[Heard]:
    sink = Heard()
    events.send_to(sink)
    yield sink
    events.send_to(events.Silent())


@pytest.mark.parametrize(
    ("way", "kind", "says"),
    [
        ("refuse", DataError, "^row 7 of day2.jsonl: no answer$"),
        ("die", ResourceError, "killed .SIGKILL.: .* resumes from its checkpoint"),
        ("crash", ModelError, "process 1 of train ended with exit code 1: RuntimeError: nobody foresaw this"),
    ],
)
def test_the_end_of_one_ends_all_and_is_told_once(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch, way: str, kind: type[Exception], says: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    started, handler = time.monotonic(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(kind, match=says):
        launch.run(f"tests.tasks.ml.ending:{way}", TWO, out=tmp_path)
    assert time.monotonic() - started < 120 and signal.getsignal(signal.SIGTERM) is handler
    assert not any(psutil.pid_exists(int(file.read_text())) for file in tmp_path.glob("pid-*"))
    assert [fields for kind, fields in heard.told if kind == "note"] == [{"text": "0 of 2"}] * (way == "refuse")
    assert [name for name in os.environ if name == "TUNELINE_WORK"] == []


def until(true: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_the_launchers_end_is_the_end_of_all(tmp_path: Path, number: signal.Signals, code: int) -> None:
    script = (
        "import sys; from pathlib import Path; from tasks.core.sections import TrainParams; from tasks.ml import launch; "
        f"launch.run('tests.tasks.ml.ending:stay', TrainParams.model_validate_json({TWO.model_dump_json()!r}), "
        f"out=Path({str(tmp_path)!r}))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)})
    until(lambda: len(_pids(tmp_path)) == 2 or launcher.poll() is not None)
    launcher.send_signal(number)
    assert launcher.wait(60) == code
    pids = _pids(tmp_path)
    assert len(pids) == 2
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 20)


def _pids(folder: Path) -> list[int]:
    return [int(text) for file in folder.glob("pid-*") if (text := file.read_text())]


class Command:
    """`python -m tasks.train` in a folder of its own, two processes by its params.yaml."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        wanted = {
            "epochs": 16,
            "batch": {"packs": 2, "micro_tokens": 256},
            "launch": {"processes": 2, "dtype": "float32"},
        }
        values = tiny.params(base, train=wanted)
        values["prepare"]["pack"] = {"tokens": 512}
        params = Params.model_validate(values)
        fetch(params.fetch, out=folder / "base")
        tiny.make_raw(folder / "raw")
        prepare(params.prepare, raw=folder / "raw", base=folder / "base", out=folder / "chat", report=folder / "data")
        self.params = params.model_dump(mode="json")
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.params))
        (self.folder / "run" / events.FILE).unlink(missing_ok=True)
        flags = [word for name in ("chat", "base", "out", "report") for word in (f"--{name}", name)]
        settings = {"TUNELINE_RUN_DIR": "run", "TUNELINE_CHECKPOINT_SECONDS": "0", "OMP_NUM_THREADS": "1"}
        started = subprocess.Popen(
            [sys.executable, "-m", "tasks.train", *flags], cwd=self.folder, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TUNELINE_THREADS": "1", **settings},
        )  # fmt: skip
        self._started.append(started)
        return started

    def told(self, kind: str) -> list[dict[str, Any]]:
        file = self.folder / "run" / events.FILE
        lines = file.read_text().splitlines() if file.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def at_work(self) -> subprocess.Popen[bytes]:
        """Started, and some steps further."""
        started = self.start()
        until(lambda: len(self.told("progress")) > 2 or started.poll() is not None)
        return started

    def end(self) -> None:
        for started in self._started:
            started.kill()
            started.communicate()


@pytest.fixture
def command(tmp_path: Path, tiny_base: Path) -> Iterator[Command]:
    made = Command(tmp_path, tiny_base)
    yield made
    made.end()


def assert_finished(command: Command) -> None:
    """One result, told once, of all the steps; and nothing left over."""
    sealed = manifest.verify(command.folder / "out")
    assert [event["digest"] for event in command.told("result")] == [sealed.digest]
    steps = [event["done"] for event in command.told("progress")]
    assert steps == sorted(set(steps)) and steps[-1] == sealed.facts["steps"]
    assert not list((command.folder / ".work" / "checkpoints").glob("*"))
    assert command.told("error") == []


def test_params_alone_make_it_two_processes_with_half_of_the_base_each(command: Command) -> None:
    command.params["train"]["epochs"] = 1
    command.params["train"]["launch"]["sharded"] = True
    started = command.start()
    assert started.wait(300) == 0, started.stderr and started.stderr.read()
    assert_finished(command)
    history = (command.folder / "report" / "history.csv").read_text().splitlines()
    assert len(history) == 1 + manifest.read(command.folder / "out").facts["steps"]
    assert manifest.read(command.folder / "out").params["launch"]["processes"] == 2
    assert any("of the model's" in event["text"] for event in command.told("note"))
    loaded = loading.with_adapter(loading.load(command.folder / "base", torch.float32), command.folder / "out")
    assert all(value.any() for name, value in loaded.model.named_parameters() if "lora_B" in name)


@pytest.mark.slow  # two processes start three times; each of the ends has a fast test above
def test_one_command_is_stopped_killed_and_finished(command: Command) -> None:
    stopped = command.at_work()
    workers = psutil.Process(stopped.pid).children()
    stopped.terminate()
    assert stopped.wait(120) == 143, stopped.stderr and stopped.stderr.read()
    assert len(workers) == 2 and not any(worker.is_running() for worker in workers)
    assert list((command.folder / ".work" / "checkpoints").rglob("manifest.json"))

    killed = command.at_work()
    workers = psutil.Process(killed.pid).children()
    workers[1].kill()
    assert killed.wait(120) == ResourceError.exit_code
    assert [event["type"] for event in command.told("error")] == ["ResourceError"]
    assert len(workers) == 2 and not any(worker.is_running() for worker in workers)

    finished = command.start()
    assert finished.wait(300) == 0, finished.stderr and finished.stderr.read()
    assert_finished(command)
    assert any("resuming after step" in event["text"] for event in command.told("note"))
