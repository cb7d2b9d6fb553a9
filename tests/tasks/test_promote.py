"""Versions judged against the champion on the same rows: promoted by a verdict, or refused with one; never by an old one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks import promote
from tasks.core import params
from tasks.core.errors import ConflictError, IntegrityError, ModelError, ParamsError
from tasks.core.rules import PromoteParams
from tasks.promote import Outcome, promote_from
from tasks.storage.embedded import S3
from tasks.storage.judgements import Judgement
from tasks.storage.model_version import parse
from tasks.storage.registry import Registry
from tests import tiny
from tests.line import Line, registry_environment
from tests.signers import signer

RULES = PromoteParams.model_validate({"margin": 1.0, "rows": {"test": 5}})


@pytest.fixture(scope="module")
def registry(s3: S3, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        values = registry_environment(s3, bucket, tmp_path_factory.mktemp("work"))
        for name, value in values.items():
            patch.setenv(name, value)
        yield Registry.open(values)


def make(folder: Path, registry: Registry, base: Path, **train: Any) -> tuple[Line, str]:
    line = Line(folder / "workspace", registry)
    sections = tiny.params(
        base, fetch={"ref": str(base)}, quantize={"formats": []}, publish={"name": "gate"}, train=train,
        evaluate={"max_new_tokens": 2, "suite_items": 1},
    )  # fmt: skip
    return line, line.make((60,), **sections)


@pytest.fixture(scope="module")
def lines(registry: Registry, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Line, str]]:
    """A version that learned little, one that learned more, and one that learned nothing."""
    rates = {"little": (1, 1e-3), "more": (6, 1e-2), "idle": (1, 1e-7)}
    return {
        name: make(tmp_path_factory.mktemp(name), registry, tiny_base, epochs=epochs, optimizer={"learning_rate": rate})
        for name, (epochs, rate) in rates.items()
    }


def judged(lines: dict[str, tuple[Line, str]], name: str, rules: PromoteParams = RULES) -> Outcome:
    line, reference = lines[name]
    return promote_from(rules, line.registry.find(reference), line.root, line.registry)


def champion(registry: Registry) -> int | None:
    alias = registry.aliases.read("gate", "champion")
    return alias.version if alias else None


def test_the_life_of_a_champion(lines: dict[str, tuple[Line, str]], registry: Registry) -> None:
    assert champion(registry) is None
    first = judged(lines, "little")
    assert first.what == "promoted" and first.judgement and first.judgement.champion is None
    assert judged(lines, "little").what == "stands"

    refused = judged(lines, "idle")
    assert refused.what == "refused" and refused.judgement and champion(registry) == 1
    assert any(ruling.rule.startswith("better than champion") for ruling in refused.judgement.broken)

    second = judged(lines, "more")
    assert second.what == "promoted" and second.judgement and champion(registry) == 2
    (sure,) = [ruling for ruling in second.judgement.rulings if ruling.rule.startswith("better than champion")]
    assert sure.low is not None and sure.low > 0
    assert "better than champion in loss" in sure.rule

    log = registry.log("gate")
    moves = {(entry.action, entry.version): entry for entry in log if entry.action != "publish"}
    assert set(moves) == {("promote", 1), ("refuse", 3), ("promote", 2)}
    assert moves["promote", 2].verdict == second.judgement.digest
    assert moves["refuse", 3].verdict == refused.judgement.digest and "better than" in (moves["refuse", 3].why or "")


@pytest.mark.parametrize("name", ["little", "more", "idle"])
def test_a_verdict_can_be_made_again(lines: dict[str, tuple[Line, str]], registry: Registry, name: str) -> None:
    found = registry.judgements.of(registry.find(lines[name][1]))
    assert found and all(judgement.again() == judgement.rulings for judgement in found)


def test_a_refusal_is_told_once(lines: dict[str, tuple[Line, str]], registry: Registry) -> None:
    judged(lines, "idle")
    lines_before = len(registry.log("gate"))
    assert judged(lines, "idle").what == "refused" and len(registry.log("gate")) == lines_before


def test_a_champion_is_evaluated_once_for_the_same_rows_and_code(
    lines: dict[str, tuple[Line, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(lines, "idle")
    monkeypatch.setattr(promote, "_evaluate", lambda *_: pytest.fail("evaluated again"))
    assert judged(lines, "idle").what == "refused"
    monkeypatch.setattr(promote, "_code", lambda: "other code")
    with pytest.raises(pytest.fail.Exception, match="evaluated again"):
        judged(lines, "idle")


def test_an_alias_that_moves_meanwhile_is_compared_again(
    lines: dict[str, tuple[Line, str]], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged against nothing, while somebody else promotes a version: the verdict is made anew, against that one."""
    real, moved = promote.Judgement.of, list[int]()
    rules = RULES.model_copy(update={"alias": "beta"})

    def of(version: Any, against: int | None, case: Any, chosen: PromoteParams) -> Any:
        if not moved:
            moved.append(1)
            registry.aliases.promote(registry.read("gate", 1), "beta", who="other", why="first", now=datetime.now(UTC))
        return real(version, against, case, chosen)

    monkeypatch.setattr(promote.Judgement, "of", of)
    outcome = judged(lines, "more", rules)
    assert outcome.what == "promoted" and outcome.judgement and outcome.judgement.champion == 1


def test_an_alias_that_never_stands_still_is_given_up(
    lines: dict[str, tuple[Line, str]], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(*_: Any, **__: Any) -> Any:
        raise ConflictError("now at v1")

    monkeypatch.setattr(type(registry.aliases), "promote", moved)
    with pytest.raises(ConflictError, match="moved during each of 5 comparisons"):
        judged(lines, "more", RULES.model_copy(update={"alias": "gamma"}))


def test_what_a_person_took_down_is_not_put_back(lines: dict[str, tuple[Line, str]], registry: Registry) -> None:
    """A later run that makes the same version again finds it withdrawn; by hand it may return, and stands then."""
    rules = RULES.model_copy(update={"alias": "night"})
    assert [judged(lines, name, rules).what for name in ("little", "more")] == ["promoted", "promoted"]
    registry.aliases.rollback("gate", "night", who="ada", why="complaints", now=datetime.now(UTC))
    outcome = judged(lines, "more", rules)
    assert outcome.what == "withdrawn" and "ada rolled gate@night back from it (complaints)" in outcome.words
    assert judged(lines, "little", rules).what == "stands"
    version = registry.find(lines["more"][1])
    registry.aliases.promote(version, "night", who="ada", why="mended", now=datetime.now(UTC))
    assert judged(lines, "more", rules).what == "stands"


def test_a_version_that_no_trusted_key_signed_is_refused_where_the_rules_ask(
    lines: dict[str, tuple[Line, str]], registry: Registry, tmp_path: Path
) -> None:
    line, reference = lines["more"]
    rules, version = RULES.model_copy(update={"alias": "sealed", "signed": True}), registry.find(reference)
    with pytest.raises(ParamsError, match="promote.signed: true .* set TUNELINE_TRUSTED_KEYS"):
        judged(lines, "more", rules)
    key, stranger = signer(tmp_path / "key"), signer(tmp_path / "stranger")
    strict = replace(registry, trusted=(key.public,))
    registry.signatures.sign(version, stranger, who="eve", now=datetime.now(UTC))
    refused = promote_from(rules, version, line.root, strict)
    assert refused.what == "refused" and refused.judgement
    assert [ruling.rule for ruling in refused.judgement.broken] == ["signed by a trusted key"]

    registry.signatures.sign(version, key, who="ada", now=datetime.now(UTC))
    promoted = promote_from(rules, version, line.root, strict)
    assert promoted.what == "promoted" and promoted.judgement and promoted.judgement.again()
    assert judged(lines, "more", RULES.model_copy(update={"alias": "unasked"})).what == "promoted"


def test_a_verdict_of_before_there_were_signatures_can_be_read(
    lines: dict[str, tuple[Line, str]], registry: Registry
) -> None:
    for found in registry.judgements.of(registry.find(lines["little"][1])):
        value = json.loads(found.to_bytes())
        del value["case"]["facts"]["signed"], value["rules"]["signed"]
        assert parse(Judgement, json.dumps(value).encode(), "old").again() == found.rulings


def test_another_workspaces_version_is_refused(lines: dict[str, tuple[Line, str]], registry: Registry) -> None:
    line, _ = lines["little"]
    with pytest.raises(IntegrityError, match="was not made of .*merged"):
        promote_from(RULES, registry.find("gate@v2"), line.root, registry)
    with pytest.raises(Exception, match="has no part 'nf4'"):
        promote_from(RULES.model_copy(update={"target": "nf4"}), registry.find("gate@v1"), line.root, registry)


def test_a_target_without_an_evaluation_is_named(lines: dict[str, tuple[Line, str]], registry: Registry) -> None:
    line, reference = lines["little"]
    with pytest.raises(ModelError, match=r"adapter has no evaluation; there are base"):
        (line.root / "reports/evaluate/adapter/manifest.json").rename(line.root / "kept.json")
        try:
            promote_from(RULES.model_copy(update={"target": "adapter"}), registry.find(reference), line.root, registry)
        finally:
            (line.root / "kept.json").rename(line.root / "reports/evaluate/adapter/manifest.json")


def test_the_step_promotes_by_the_params(
    lines: dict[str, tuple[Line, str]], registry: Registry, tmp_path: Path
) -> None:
    line, reference = lines["more"]
    chosen = params.load(line.root / params.FILE)
    assert chosen.promote == PromoteParams()
    rules = RULES.model_copy(update={"alias": "by-hand", "floors": {"exact_match": 1.0}})
    outcome = promote.promote(rules, version=reference, workspace=line.root)
    assert outcome.what == "refused" and "exact_match" in outcome.words and "needed at least 1" in outcome.words
    assert json.loads(outcome.judgement.to_bytes())["rules"]["alias"] == "by-hand" if outcome.judgement else False
