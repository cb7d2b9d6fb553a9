"""params.yaml: closed, complete errors with dotted paths, overrides that change only what they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import params
from tasks.core.errors import ParamsError
from tasks.core.params import Params

SHIPPED = Path(__file__).parents[3] / "params.yaml"
QUANTIZE = {"formats": ["nf4"], "calibration": 8, "held_out": 8, "second_try": True, "budget": {}}
GIVEN = {section: {} for section in Params.model_fields} | {"fetch": {"ref": "x"}, "quantize": QUANTIZE}
BASE = Params.model_validate(GIVEN)


def test_the_shipped_file_names_every_knob() -> None:
    """So that a reader of params.yaml sees all there is, and DVC sees every change."""
    written = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    flat = params.flat(params.load(SHIPPED).model_dump(mode="json"))
    assert set(params.flat(written)) == set(flat)
    assert len(flat) > 25


def test_sections_stay_small() -> None:
    for name, field in Params.model_fields.items():
        assert len(field.annotation.model_fields) <= 10, name  # type: ignore[union-attr]


def test_it_reads_back() -> None:
    shipped = params.load(SHIPPED)
    assert Params(**shipped.model_dump()) == shipped


def test_every_error_at_once_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    twice = json.dumps({**QUANTIZE, "formats": ["nf4", "nf4"]})
    file.write_text(f"fetch: {{ref: x}}\ntrain: {{rnak: 8, rank: 0}}\nquantize: {twice}\nreport: {{}}\n")
    with pytest.raises(ParamsError) as caught:
        params.load(file)
    message = str(caught.value)
    assert "train.rnak: unknown key; did you mean 'rank'? known here: alpha, batch," in message
    assert "train.rank: " in message and "(found 0)" in message
    assert "quantize: a format is listed twice" in message
    assert "merge: Field required" in message


@pytest.mark.parametrize("text", ["train: [", "\xff", "- a\n- b\n", ""])
def test_what_is_no_params_file_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        params.load(tmp_path / "params.yaml")


def test_an_override_changes_what_it_names() -> None:
    changed = params.override(BASE, ["train.rank=8", "train.optimizer.learning_rate=2e-4", "quantize.formats=[nf4]"])
    assert params.difference(BASE, changed) == {"train.rank": 8, "train.optimizer.learning_rate": 2e-4}


KEYS = st.sampled_from(["init", "rank_pattern", "q.*proj", "magnitude", "a"])
OPTIONS = st.recursive(st.integers(0, 3), lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)


@given(st.dictionaries(KEYS, OPTIONS, max_size=3), st.dictionaries(KEYS, OPTIONS, max_size=3))
def test_a_difference_makes_the_new_of_the_old(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Whatever keys a method's options had and have."""
    old, new = (params.override(BASE, [f"train.options={json.dumps(options)}"]) for options in (before, after))
    made: dict[str, Any] = old.model_dump(mode="json")
    for path, value in params.difference(old, new).items():
        *parents, last = path.split(".")
        node = made
        for parent in parents:
            node = node[parent]
        node[last] = value
    assert Params.model_validate(made) == new and params.difference(new, new) == {}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.rank", "PATH=VALUE"), ("trian.rank=8", "no section 'trian'"), ("train.rnak=8", "train.rnak: unknown key"),
        ("train.rank=many", "train.rank"), ("train.rank=[", "not YAML"), ("train=3", "train"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_explained(setting: str, says: str) -> None:
    with pytest.raises(ParamsError, match=says.replace(".", r"\.")):
        params.override(BASE, [setting])


@given(st.sampled_from(sorted(params.flat(BASE.model_dump(mode="json")))))
def test_overriding_with_the_present_value_changes_nothing(path: str) -> None:
    value = params.flat(BASE.model_dump(mode="json"))[path]
    assert params.override(BASE, [f"{path}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"]) == BASE
