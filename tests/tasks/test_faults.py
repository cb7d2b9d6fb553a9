"""A full disk, an altered input, a killed writer: one message, nothing half-written, and a plain re-run finishes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import yaml

from tasks.core import manifest
from tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A real file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def step(folder: Path, name: str, *flags: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TUNELINE_THREADS": "1", **settings}
    return subprocess.run(
        [sys.executable, "-m", f"tasks.{name}", *flags], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def big_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that no 1 MB holds."""
    return tiny.make_base(tmp_path_factory.mktemp("big"), layers=40)


def prepared(folder: Path, base: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny.params(base)))
    tiny.make_raw(folder / "raw", 40)
    for name, flags in (
        ("fetch", ["--out", "base"]),
        ("prepare", ["--raw", "raw", "--base", "base", "--out", "chat", "--report", "data"]),
    ):
        assert step(folder, name, *flags).returncode == 0


def test_a_full_disk_is_one_message(small_disk: Path, tmp_path: Path, big_base: Path) -> None:
    prepared(tmp_path / "work", big_base)
    train = ("--chat", "chat", "--base", "base", "--out", "adapter", "--report", "report")
    assert step(tmp_path / "work", "train", *train).returncode == 0
    failed = 0
    for name, *flags in (
        ("fetch", "--out", f"{small_disk}/base"),
        ("merge", "--base", "base", "--adapter", "adapter", "--chat", "chat", "--out", f"{small_disk}/merged"),
    ):
        done = step(tmp_path / "work", name, *flags)
        assert done.returncode == 6, done.stderr
        assert "the disk is full: free some space" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert list(small_disk.iterdir()) == []
        failed += 1
    assert failed == 2


TRAIN = ("--chat", "chat", "--base", "base", "--report", "report")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A workspace before its training."""
    folder = tmp_path_factory.mktemp("ready")
    prepared(folder, tiny_base)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, ready: Path) -> Path:
    """A copy of one of its own."""
    return Path(shutil.copytree(ready, tmp_path / "work"))


def train(folder: Path, work: Path, out: str = "adapter") -> subprocess.CompletedProcess[str]:
    """With a checkpoint after every step."""
    return step(folder, "train", *TRAIN, "--out", out, TUNELINE_WORK=str(work), TUNELINE_CHECKPOINT_SECONDS="0")


def fill(disk: Path, left: int) -> None:
    (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - left))


def test_a_training_goes_on_where_its_checkpoints_have_no_room(small_disk: Path, workspace: Path) -> None:
    fill(small_disk, 32 << 10)
    done = train(workspace, small_disk)
    assert done.returncode == 0, done.stderr
    assert "0 MB are free, and checkpoints take up to" in done.stderr
    assert "no checkpoint of step 1: it could not be written" in done.stderr and "the disk is full" in done.stderr
    manifest.verify(workspace / "adapter")
    assert not list(small_disk.glob("checkpoints/*/step-*"))


def test_a_training_that_could_not_be_saved_is_not_begun(small_disk: Path, workspace: Path) -> None:
    fill(small_disk, 4 << 10)
    full = train(workspace, small_disk)
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    locked = train(workspace, workspace, f"{small_disk}/adapter")
    for done, says in ((full, "the trained adapter takes"), (locked, f"{small_disk} is read-only for this user")):
        assert done.returncode == 6 and says in done.stderr.splitlines()[-1]
        assert "train 1/" not in done.stderr and "Traceback" not in done.stderr


def test_an_interrupted_training_leaves_a_checkpoint(workspace: Path, tiny_base: Path) -> None:
    """Ctrl-C in a terminal: nothing that was learned is lost, and the code is a shell's own."""
    values = tiny.params(tiny_base)
    (workspace / "params.yaml").write_text(yaml.safe_dump({**values, "train": {**values["train"], "epochs": 500}}))
    command = [sys.executable, "-m", "tasks.train", *TRAIN, "--out", "adapter"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TUNELINE_THREADS": "1", "TUNELINE_WORK": str(workspace)}
    with subprocess.Popen(command, cwd=workspace, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("train "):
                process.send_signal(signal.SIGINT)
                break
        process.stderr.read()
        assert process.wait() == 130
    assert len(list(workspace.glob("checkpoints/*/step-*"))) == 1 and not (workspace / "adapter").exists()


def test_an_altered_input_is_never_used(tmp_path: Path, tiny_base: Path) -> None:
    """DVC hands out altered cache files without a word."""
    prepared(tmp_path, tiny_base)
    weights = tmp_path / "base" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = step(tmp_path, "train", "--chat", "chat", "--base", "base", "--out", "adapter", "--report", "report")
    assert done.returncode == 5
    assert "model.safetensors was altered" in done.stderr and not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("code", "auto_map"), ("pickle", "pickled weights are never loaded"), ("climbing", "not a file in the folder"),
        ("no tokenizer", "no tokenizer.json"), ("truncated", "truncated|whole safetensors"),
    ],
)  # fmt: skip
def test_a_base_that_can_t_be_used_is_refused(tmp_path: Path, tiny_base: Path, harm: str, says: str) -> None:
    base = tmp_path / "model"
    shutil.copytree(tiny_base, base)
    config = base / "config.json"
    if harm == "code":
        config.write_text(config.read_text().replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1))
    elif harm == "pickle":
        (base / "model.safetensors").rename(base / "pytorch_model.bin")
    elif harm == "climbing":
        (base / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    elif harm == "no tokenizer":
        (base / "tokenizer.json").unlink()
    else:
        weights = base / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny.params(base)))
    done = step(tmp_path, "fetch", "--out", "out")
    assert done.returncode == 4, done.stderr
    import re

    assert re.search(says, done.stderr) and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_a_folder_s_digest_pins_it(tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny.params(tiny_base, fetch={"revision": "0" * 64})))
    refused = step(tmp_path, "fetch", "--out", "out")
    assert refused.returncode == 4
    digest = refused.stderr.partition("has the digest ")[2].partition(",")[0]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny.params(tiny_base, fetch={"revision": digest})))
    assert step(tmp_path, "fetch", "--out", "out").returncode == 0
    assert manifest.verify(tmp_path / "out").facts["revision"] == digest


def test_a_hub_base_needs_a_commit_and_offline_says_so(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny.params(Path("hub:org/name"))))
    assert "needs the 40-digit commit" in step(tmp_path, "fetch", "--out", "out").stderr
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(tiny.params(Path("hub:org/name"), fetch={"revision": "a" * 40}))
    )
    offline = step(tmp_path, "fetch", "--out", "out")
    assert offline.returncode == 4 and "HF_HUB_OFFLINE" in offline.stderr
