"""The gate: a pure function whose errors are as rare as it says, and that names each broken rule."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import DataError
from tasks.core.rules import PromoteParams
from tasks.core.verdict import Ruling
from tasks.data import gate, paired
from tasks.data.gate import Case, Facts
from tests.gate_cases import BASE, FACTS, ROWS, WIDE, case, scores


def passed(rulings: tuple[Ruling, ...]) -> bool:
    return all(ruling.passed for ruling in rulings)


def broken(case: Case, rules: PromoteParams = WIDE) -> list[str]:
    return [ruling.rule for ruling in gate.judge(case, rules) if not ruling.passed]


def test_what_is_better_than_the_base_becomes_the_first_champion() -> None:
    assert broken(case(scores(seed=2, right=0.7, worth=0.7, loss=1.0))) == []


def test_what_is_no_better_than_the_base_does_not() -> None:
    assert broken(case(BASE)) == ["better than base in loss"]


def test_a_clearly_better_one_takes_the_place_and_a_worse_one_does_not() -> None:
    better, worse = scores(seed=3, right=0.9, worth=0.8, loss=0.6), scores(seed=4, right=0.3, worth=0.5, loss=1.6)
    assert broken(case(better, worse)) == []
    names = broken(case(worse, better))
    assert {"exact_match against champion", "chrf against champion", "loss against champion"} <= set(names)
    assert any(name.startswith("better than champion") for name in names)


def test_of_two_that_are_alike_the_second_seldom_takes_the_place() -> None:
    """1,000 comparisons of a model with one that is as good: promoted in at most 5%."""
    wins = 0
    for seed in range(1000):
        one, other = (scores(60, seed=2 * seed + side, right=0.6, worth=0.6) for side in (0, 1))
        rulings = gate.judge(case(one, other, base=one), WIDE)
        wins += all(ruling.passed for ruling in rulings if "champion" in ruling.rule)
    assert wins <= 50


@pytest.mark.parametrize("name", ["exact_match", "chrf", "loss"])
def test_one_metric_that_falls_refuses_though_others_rise(name: str) -> None:
    champion = scores(seed=5, right=0.6, worth=0.5, loss=1.0)
    risen = scores(seed=6, right=0.95, worth=0.8, loss=0.5)
    fallen = {"exact_match": 0.0, "chrf": 0.0}
    if name == "loss":
        candidate = risen.model_copy(update={"loss": tuple((value or 0) + 1 for value in champion.loss)})
    else:
        candidate = risen.model_copy(update={"metrics": risen.metrics | {name: (fallen[name],) * ROWS}})
    names = broken(case(candidate, champion))
    assert f"{name} against champion" in names
    assert not any(rule.endswith("against champion") and not rule.startswith(name) for rule in names)


def test_a_tag_that_is_surely_worse_refuses() -> None:
    champion = scores(seed=7, right=0.5, worth=0.5)
    risen = scores(seed=8, right=0.9, worth=0.9, loss=0.5)
    chrf = [0.0 if row % 3 == 1 else value for row, value in enumerate(risen.metrics["chrf"])]
    candidate = risen.model_copy(update={"metrics": risen.metrics | {"chrf": tuple(chrf)}})
    assert "chrf of tag 1 against champion, at best" in broken(case(candidate, champion))


def test_small_parts_and_the_whole_are_not_judged_apart() -> None:
    parts = {"tag rare": tuple(range(5)), "tag common": tuple(range(0, ROWS, 2)), "tag all": tuple(range(ROWS))}
    one, other = scores(seed=9, slices=parts), scores(seed=10)
    rules = [ruling.rule for ruling in gate.judge(case(one, other, base=other), WIDE)]
    assert any("of tag common against" in rule for rule in rules)
    assert not any("rare" in rule or "tag all" in rule for rule in rules)


def test_what_is_forgotten_refuses_where_a_suite_is_named() -> None:
    knew = {"general": {str(item): 1.0 for item in range(50)}}
    forgot = {"general": {str(item): float(item % 2) for item in range(50)}}
    before, after = BASE.model_copy(update={"suites": knew}), scores(seed=2, right=0.7, worth=0.7, suites=forgot)
    assert broken(case(after, base=before)) == []
    asked = WIDE.model_copy(update={"suites": {"general": 0.2}})
    assert broken(case(after, base=before), asked) == ["suite general against base"]
    assert broken(case(after, base=before), WIDE.model_copy(update={"suites": {"general": 0.7}})) == []
    assert broken(case(after), asked) == ["suite general against base"], "the base did not answer it"


@pytest.mark.parametrize(
    ("facts", "rules", "wanted"),
    [
        (FACTS.model_copy(update={"contaminated": 1}), {}, "contaminated rows"),
        (FACTS.model_copy(update={"contaminated": None}), {}, "contaminated rows"),
        (FACTS.model_copy(update={"train_rows": 3}), {"rows": {"train": 10}}, "training rows"),
        (FACTS, {"rows": {"test": ROWS + 1}}, "test rows"),
        (FACTS, {"formats": ["nf4", "gguf-q4_k_m"]}, "gguf-q4_k_m within its budget"),
        (FACTS, {"floors": {"exact_match": 0.99}}, "exact_match"),
        (FACTS, {"signed": True}, "signed by a trusted key"),
        (FACTS.model_copy(update={"signed": False}), {"signed": True}, "signed by a trusted key"),
    ],
)
def test_each_minimum_refuses_alone(facts: Facts, rules: dict[str, Any], wanted: str) -> None:
    good = scores(seed=2, right=0.7, worth=0.7)
    assert broken(case(good, facts=facts), PromoteParams.model_validate({"margin": 0.3, **rules})) == [wanted]


@pytest.mark.parametrize(("signed", "asked"), [(True, True), (True, False), (False, False), (None, False)])
def test_a_signature_counts_where_the_rules_ask_for_one(signed: bool | None, asked: bool) -> None:
    found = case(scores(seed=2, right=0.7, worth=0.7), facts=FACTS.model_copy(update={"signed": signed}))
    rulings = gate.judge(found, WIDE.model_copy(update={"signed": asked}))
    assert passed(rulings) and any("signed" in ruling.rule for ruling in rulings) == asked


def test_only_the_named_metrics_count_as_better() -> None:
    champion = scores(seed=11, right=0.5, worth=0.5, loss=1.0)
    candidate = champion.model_copy(update={"loss": tuple((value or 0) - 0.2 for value in champion.loss)})
    assert broken(case(candidate, champion)) == []
    named = PromoteParams(margin=0.3, better=("exact_match", "chrf"))
    assert len(broken(case(candidate, champion), named)) == 1


def test_losses_of_other_tokens_are_not_compared() -> None:
    one, other = scores(seed=12), scores(seed=13, tokens=(8,) * ROWS)
    assert not any("loss" in ruling.rule for ruling in gate.judge(case(one, other, base=other), WIDE))


def test_other_rows_are_refused() -> None:
    with pytest.raises(DataError, match="different rows"):
        gate.judge(case(scores(), scores(rows=99)), WIDE)
    with pytest.raises(DataError, match="names bleu, which was not measured"):
        gate.judge(case(scores()), PromoteParams(floors={"bleu": 0.1}))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_it_is_a_function_of_its_arguments(seed: int) -> None:
    given_ = case(scores(20, seed=seed), scores(20, seed=seed + 1), base=scores(20, seed=seed + 2))
    rulings = gate.judge(given_, WIDE)
    stored = json.loads(json.dumps(given_.model_dump(mode="json"), sort_keys=True))
    assert gate.judge(Case.model_validate_json(json.dumps(stored)), WIDE) == rulings
    assert all(Ruling.model_validate_json(ruling.model_dump_json()) == ruling for ruling in rulings)


def test_mcnemar_is_the_binomial_test() -> None:
    first, second = [0.0] * 8 + [1.0] * 2 + [1.0] * 5, [1.0] * 8 + [0.0] * 2 + [1.0] * 5
    assert paired.mcnemar(first, second) == pytest.approx(2 * sum(math.comb(10, k) for k in range(3)) / 2**10)
    assert paired.mcnemar(first, first) == 1.0


def test_an_exact_test_can_refuse_what_the_interval_lets_pass() -> None:
    """Five rows won and none lost: the bootstrap is sure, McNemar's p of 0.0625 is not."""
    champion = scores(seed=14, right=0.0)
    won = tuple(1.0 if row < 5 else 0.0 for row in range(ROWS))
    candidate = champion.model_copy(update={"metrics": champion.metrics | {"exact_match": won}})
    only = PromoteParams(margin=0.3, better=("exact_match",))
    (ruling,) = [
        ruling
        for ruling in gate.judge(case(candidate, champion), only)
        if ruling.rule.startswith("better than champion")
    ]
    assert ruling.low is not None and ruling.low > 0 and ruling.p == 0.0625 and not ruling.passed
