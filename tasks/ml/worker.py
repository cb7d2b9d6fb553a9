"""One of several processes of a step, as torchrun starts it: `python -m tasks.ml.worker FOLDER` (see launch.py)."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tasks.core.sections import TrainParams
from tasks.core.step import guarded
from tasks.ml.launch import JOB, run_folder


def main(folder: Path) -> int:
    """Do this process's share of the job that lies in the folder. Its events, errors too, go to a folder of its own."""
    os.environ["TUNELINE_RUN_DIR"] = str(run_folder(folder, int(os.environ["RANK"])))
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    job = json.loads((folder / JOB).read_bytes())
    module, _, name = job["function"].partition(":")
    work = getattr(importlib.import_module(module), name)
    paths = {flag: Path(path) for flag, path in job["paths"].items()}
    return guarded(job["name"], lambda: work(TrainParams.model_validate(job["params"]), **paths))


def _watch(parent: int) -> None:
    """End with the launcher, which may have been killed without a word: processes are groups of their own here."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
