"""A user's own metric: tried before the run, and every broken promise has its own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import ParamsError
from tasks.core.sections import EvaluateParams
from tasks.ml import metrics

SOURCE = '''
import math
NUMBER = 7
def shout(predictions, references):
    """Share of capitals, and how much a reference has."""
    return [float(text.isupper()) for text in predictions]
def short(predictions, references):
    return [1.0]
def endless(predictions, references):
    return [math.inf for _ in predictions]
def words(predictions, references):
    return ["0.5" for _ in predictions]
def raising(predictions, references):
    return [1 / len(text) for text in predictions]
def one(predictions, references):
    return 1.0
'''


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_metrics_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "voice.py").write_text(SOURCE)
    (package / "broken.py").write_text("1 / 0\n")
    (package / "wanting.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)


def path(function: str) -> str:
    return f"my_metrics_of_a_test.{function}"


def test_a_function_of_the_projects_folder_is_a_metric() -> None:
    asked = EvaluateParams(metrics=("exact_match", path("voice:shout")))
    metrics.check(asked)
    assert metrics.compute(asked.metrics[1], ["A", "a", "B"], ["", "", ""]) == [1, 0, 1]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("nowhere:shout", "there is no module my_metrics_of_a_test.nowhere; install it"),
        ("wanting:shout", "there is no module .*wanting .*a_module_that_nobody_has"),
        ("broken:shout", "importing .*broken raised ZeroDivisionError"),
        ("voice:silence", "has no silence; name one of its functions"),
        ("voice:NUMBER", "NUMBER is a int; name a function"),
        ("voice:short", "gave 1 values for 3 rows"),
        ("voice:endless", "gave inf for row 0; every row needs a finite number"),
        ("voice:words", "gave '0.5' for row 0"),
        ("voice:raising", "raised ZeroDivisionError: division by zero; mend the function"),
        ("voice:one", "gave a float; it has to give a list"),
    ],
)
def test_a_broken_promise_is_said_before_the_run(function: str, said: str) -> None:
    with pytest.raises(ParamsError, match=f"evaluate.metrics: '.*': .*{said}"):
        metrics.check(EvaluateParams(metrics=(path(function),)))


@pytest.mark.parametrize("name", ["a b:c", "module:", ":function", "m:f()", "m:f:g", "../x:y"])
def test_a_path_is_names_alone(name: str) -> None:
    with pytest.raises(ValueError, match="String should match pattern"):
        EvaluateParams(metrics=(name,))
