"""Experiment loggers beside a training's own curves: `TUNELINE_LOGGERS=tensorboard,mlflow:FOLDER,wandb`.

They change no result, so they are no params: DVC would train again. Each is imported only when it is asked for, writes
to a folder of this machine, and never ends a training once that has begun.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tasks.core import events, layout
from tasks.core.errors import ParamsError
from tasks.core.params import flat

VARIABLE = "TUNELINE_LOGGERS"
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb"}
"""A logger, which is also the name of its module, and the package that brings it."""


class Logger(Protocol):
    def log(self, step: int, figures: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Asked:
    """One logger of the setting; its `folder` is absolute."""

    name: str
    folder: Path


def asked(environment: Mapping[str, str], root: Path) -> list[Asked]:
    """The loggers of the setting. `root`: what relative folders are relative to. ParamsError: none is called so."""
    found: list[Asked] = []
    for item in filter(None, (part.strip() for part in environment.get(VARIABLE, "").split(","))):
        name, _, folder = item.partition(":")
        if name not in PACKAGES:
            raise ParamsError(f"{VARIABLE}: no logger is called {name!r}; there are {', '.join(PACKAGES)}")
        found.append(Asked(name, root.absolute() / (folder or layout.HOME / "logs" / name)))
    return found


def check(environment: Mapping[str, str]) -> None:
    """ParamsError: a logger that is asked for is unknown or not installed. Loads none of them."""
    for each in asked(environment, Path.cwd()):
        if importlib.util.find_spec(each.name) is None:
            raise ParamsError(
                f"{VARIABLE}: {each.name} is not installed: pip install {PACKAGES[each.name]}, or leave it out"
            )


def anchored(environment: Mapping[str, str], root: Path) -> str:
    """The setting with every folder absolute, for a process that works somewhere else."""
    return ",".join(f"{each.name}:{each.folder}" for each in asked(environment, root))


@contextmanager
def attached(environment: Mapping[str, str], params: Mapping[str, Any]) -> Generator[None]:
    """Every progress event of the block goes to the loggers that are asked for, too; of several processes, the first's.

    ParamsError: one is not installed, or does not start.
    """
    if environment.get("RANK", "0") != "0":
        yield
        return
    check(environment)
    with ExitStack() as stack:
        for each in asked(environment, Path.cwd()):
            logger = _started(each, flat(params))
            stack.enter_context(events.also(sink := Sink(each.name, logger)))
            stack.callback(sink.close)
        yield


def _started(each: Asked, params: Mapping[str, Any]) -> Logger:
    try:
        each.folder.mkdir(parents=True, exist_ok=True)
        return MAKERS[each.name](each.folder, time.strftime("train-%Y%m%d-%H%M%S"), params)
    except Exception as error:  # noqa: BLE001  three foreign packages, each with errors of its own
        raise ParamsError(
            f"{VARIABLE}: {each.name} does not start in {each.folder}: {_line(error)}; mend that, or leave it out"
        ) from None


class Sink:
    """Progress for one logger. A logger that fails says so once and is left alone from then on."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name, self._logger = name, logger
        self._failed = False

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        if kind == "progress":
            figures = {f"{fields['what']}/{name}": value for name, value in fields.items() if _is_figure(name, value)}
            self._try(lambda: self._logger.log(fields["done"], figures))

    def close(self) -> None:
        self._try(self._logger.close)

    def _try(self, do: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            do()
        except Exception as error:  # noqa: BLE001  whatever a foreign package raises, the training goes on
            self._failed = True
            events.warning(f"{self._name} failed and logs no more, the training goes on: {_line(error)}")


def _is_figure(name: str, value: Any) -> bool:
    return isinstance(value, (int, float)) and name not in ("done", "total")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class TensorBoard:
    def __init__(self, folder: Path, run: str, params: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / run))
        self._writer.add_text("params", "\n".join(f"    {name}: {value}" for name, value in params.items()))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A SQLite file in the folder, or the server of `MLFLOW_TRACKING_URI` where that is set."""

    def __init__(self, folder: Path, run: str, params: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        entities: Any = importlib.import_module("mlflow.entities")
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._metric = entities.Metric
        self._client: Any = importlib.import_module("mlflow.tracking").MlflowClient(address)
        experiment = self._client.get_experiment_by_name("tuneline")
        number = experiment.experiment_id if experiment else self._client.create_experiment(
            "tuneline", artifact_location=(folder / "artifacts").as_uri()
        )  # fmt: skip
        self._run: str = self._client.create_run(number, run_name=run).info.run_id
        self._client.log_batch(self._run, params=[entities.Param(name, str(value)) for name, value in params.items()])

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._run, [self._metric(name, value, now, step) for name, value in figures.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WandB:
    """Offline, whatever its own settings say, unless `WANDB_MODE` is set; `wandb sync` sends the folder later."""

    def __init__(self, folder: Path, run: str, params: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb: Any = importlib.import_module("wandb")
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tuneline"), name=run, dir=str(folder), mode=mode,
            config=dict(params), settings=settings,
        )  # fmt: skip

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


MAKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], Logger]] = {
    "tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB,
}  # fmt: skip
