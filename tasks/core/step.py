"""`python -m tasks.<step>`: a step function as a command.

The function's signature is the command line: `params: XParams` is read from that section of params.yaml,
every other parameter `name: Path | str` is the flag `--name`. The same signature is the DVC stage.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from tasks.core import collector, events, params
from tasks.core.errors import ResourceError, TunelineError, from_os_error
from tasks.core.manifest import Manifest

Step = Callable[..., Any]

QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""The step reports its own progress; what the libraries would print beside it is for their developers."""


def section_of(step: Step) -> str | None:
    """Name of the params section that the step takes, or None."""
    wanted = get_type_hints(step).get("params")
    for name, field in params.Params.model_fields.items():
        if field.annotation is wanted:
            return name
    return None


def flags_of(step: Step) -> dict[str, Any]:
    """The step's keyword parameters and their types: paths in, paths out, and names."""
    hints = get_type_hints(step)
    return {name: hints[name] for name in inspect.signature(step).parameters if name != "params"}


def main(step: Step, argv: Sequence[str] | None = None) -> int:
    """Run one step; the exit code says what kind of error ended it (tasks/core/errors.py)."""
    collector.seldom()
    section = section_of(step)
    name = step.__module__ if step.__module__ != "__main__" else f"tasks.{step.__name__}"
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=inspect.getdoc(step),
        epilog=f"Settings: the section `{section}` of params.yaml." if section else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for flag, kind in flags_of(step).items():
        parser.add_argument(f"--{flag.replace('_', '-')}", type=kind, required=True, metavar=kind.__name__.upper())
    arguments = vars(parser.parse_args(argv))

    def run() -> Any:
        if section:
            arguments["params"] = getattr(params.load(Path("params.yaml")), section)
        return step(**arguments)

    return guarded(step.__name__, run)


def guarded(name: str, work: Callable[[], Any]) -> int:
    """Do the work as a process of its own does it: events to where the environment says, errors as exit codes."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    warnings.simplefilter("ignore", FutureWarning)
    for library in ("bitsandbytes", "torchao", "torch.utils._pytree"):  # they lament missing kernels at every start
        logging.getLogger(library).setLevel(logging.ERROR)
    events.send_to(events.from_environment())
    signal.signal(signal.SIGTERM, _terminate)
    try:
        outcome = work()
    except TunelineError as error:
        return _fail(error)
    except OSError as error:
        return _fail(from_os_error(error, f"{name} could not use its files"))
    except MemoryError:
        return _fail(ResourceError(f"{name} ran out of memory: lower train.batch.micro_tokens or evaluate.batch_size"))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if isinstance(outcome, Manifest):
        events.result(digest=outcome.digest, facts=outcome.facts)
    return 0


def _terminate(signum: int, _frame: object) -> None:
    """SIGTERM ends a step as Ctrl-C does, through its `finally` blocks, with the code a shell expects."""
    raise SystemExit(128 + signum)


def _fail(error: TunelineError) -> int:
    events.error(type(error).__name__, str(error))
    if not os.environ.get("TUNELINE_RUN_DIR"):
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code
