"""Values by layer: PEFT resolves our patterns as we do."""

from __future__ import annotations

import random
from typing import Any

import pytest
from peft.utils.other import get_pattern_key

from tasks.core.errors import ParamsError
from tasks.ml.lora import patterns

NAMES = [
    f"model.layers.{layer}.{end}"
    for layer in (0, 1, 10, 11)
    for end in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
]


def pefts(names: list[str], pattern: dict[str, int], default: int) -> dict[str, int]:
    return {name: pattern.get(get_pattern_key(list(pattern), name), default) for name in names}


@pytest.mark.parametrize(
    "pattern",
    [
        {}, {"q_proj": 2}, {"mlp.*": 8}, {"layers.1.mlp.up_proj": 3}, {r"(q|v)_proj": 5, "up_proj": 6},
        {r"layers\.1\d\..*": 7, "q_proj": 2}, {"q_proj": 2, r".*\.q_proj": 9},
    ],
)  # fmt: skip
def test_a_pattern_means_what_it_means_to_peft(pattern: dict[str, int]) -> None:
    found = patterns.resolve(NAMES, pattern, 4, "where")
    assert found == pefts(NAMES, pattern, 4)


@pytest.mark.parametrize("seed", range(20))
def test_back_to_a_pattern_in_any_order(seed: int) -> None:
    source = random.Random(seed)
    values = {name: source.choice([2, 4, 8]) if "mlp" in name else 4 for name in NAMES}
    made = list(patterns.pattern(values, 4).items())
    source.shuffle(made)
    assert pefts(NAMES, dict(made), 4) == values


def test_ends_of_names_where_they_say_enough() -> None:
    values = dict.fromkeys(NAMES, 4) | {name: 8 for name in NAMES if name.endswith("q_proj")}
    assert patterns.pattern(values, 4) == {"q_proj": 8}


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ({"q_prj": 2}, "no layer that trains is called 'q_prj'; did you mean 'q_proj'? There are: down_proj, q_proj"),
        ({"lm_head": 2}, "no layer that trains is called 'lm_head'"),
        ({"q_(proj": 2}, "'q_(proj' is no regular expression"),
    ],
)
def test_a_key_that_fits_nothing_is_refused(pattern: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        patterns.resolve(NAMES, pattern, 4, "train.options.rank_pattern")
    assert says in str(caught.value)
