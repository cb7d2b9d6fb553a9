"""A user's own metric: a function by its dotted path, tried before a run and held to its promise in it."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tasks.core.errors import ParamsError

_TRIED = (("yes", "", '{"a": 1}'), ("yes", "no", '{"a": 2}'))
"""Predictions and references that every metric has to have values for; the model may answer nothing."""


def is_path(name: str) -> bool:
    return ":" in name


def check(name: str) -> None:
    """ParamsError: it can't be imported or called, raises, or gives other than one finite number a row."""
    compute(name, *map(list, _TRIED))


def compute(name: str, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """One value a row, in order. ParamsError as `check` says."""
    function = _find(name)
    try:
        given = function(list(predictions), list(references))
    except Exception as error:  # noqa: BLE001  foreign code: it may raise anything
        raise _wrong(name, f"raised {type(error).__name__}: {error}", "mend the function") from None
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise _wrong(name, f"gave a {type(given).__name__}", "it has to give a list of one float a row")
    values = list(cast("Iterable[Any]", given))
    if len(values) != len(predictions):
        raise _wrong(name, f"gave {len(values)} values for {len(predictions)} rows", "it has to give one a row")
    return [_number(name, place, value) for place, value in enumerate(values)]


def _number(name: str, place: int, value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(name, f"gave {value!r} for row {place}", "every row needs a finite number")
    return number


def _find(name: str) -> Callable[..., Any]:
    path, _, attribute = name.partition(":")
    with _here():
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            why = "" if error.name and path.startswith(error.name) else f" ({error})"
            raise _wrong(
                name, f"there is no module {path}{why}", "install it, or put it into the project's folder"
            ) from None
        except Exception as error:  # noqa: BLE001  foreign code: it may raise anything
            raise _wrong(name, f"importing {path} raised {type(error).__name__}: {error}", "mend the module") from None
    found = getattr(module, attribute, None)
    if found is None:
        raise _wrong(name, f"the module {path} has no {attribute}", "name one of its functions")
    if not callable(found):
        raise _wrong(name, f"{attribute} is a {type(found).__name__}", "name a function")
    return found


def _wrong(name: str, what: str, move: str) -> ParamsError:
    return ParamsError(f"evaluate.metrics: {name!r}: {' '.join(what.split())[:300]}; {move}")


@contextmanager
def _here() -> Generator[None]:
    """The project's folder as a place of modules: `python -m` has it, an installed command has not."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
