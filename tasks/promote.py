"""Judge a registered version against the champion on the same rows, and give it the champion's place if it earns it.

A door to the outside, so no DVC stage.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tasks.core import digest, events, layout, manifest
from tasks.core.errors import ConflictError, IntegrityError, ModelError, ParamsError, StageFailed
from tasks.core.manifest import Manifest
from tasks.core.rules import PromoteParams
from tasks.core.scores import Scores
from tasks.core.step import main
from tasks.data import verdicts
from tasks.data.gate import Case, Facts
from tasks.data.report import datacard, rulings
from tasks.data.report import evaluations as evaluated
from tasks.data.report.evaluations import Evaluation
from tasks.storage import aliases, checkout, keys
from tasks.storage.aliases import Alias
from tasks.storage.audit import LogEntry
from tasks.storage.judgements import Judgement
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry

TRIES = 5
"""Comparisons of one version, each against a champion that stood when it began."""


@dataclass(frozen=True)
class Outcome:
    """What became of a version. `stands`: it is the champion already; `withdrawn`: somebody rolled back from it; `awaits`:
    it passed, and a person has to agree; `declined`: a person did not."""

    version: Version
    what: Literal["promoted", "refused", "stands", "withdrawn", "awaits", "declined"]
    judgement: Judgement | None = None
    withdrawal: LogEntry | None = None
    declined: LogEntry | None = None

    @property
    def told(self) -> dict[str, str | None]:
        """For whoever asked, by an event or in the same process."""
        verdict = self.judgement.digest if self.judgement else None
        return {"version": self.version.reference, "what": self.what, "words": self.words, "verdict": verdict}

    @property
    def words(self) -> str:
        name = self.version.reference
        if back := self.withdrawal:
            return (
                f"{name} is not promoted: {back.who} rolled {self.version.name}@{back.alias} back from it ({back.why}); "
                f"to have it again: tuneline models promote {name} --alias {back.alias} --why ..."
            )
        if self.judgement is None:
            return f"{name} is the champion already"
        if no := self.declined:
            return f"{name} passed, but {no.who} declined it ({no.why})"
        before = f" in place of v{self.judgement.champion}" if self.judgement.champion else ""
        if self.what == "awaits":
            return (
                f"{name} passed and awaits approval: answer its run in the Prefect UI, or "
                f"tuneline models promote {name} --alias {self.judgement.alias} --why ..."
            )
        if self.what == "promoted":
            return f"{name} is now {self.version.name}@{self.judgement.alias}{before}"
        return f"{name} was refused: {rulings.first(self.judgement.broken)}"


def promote(params: PromoteParams, *, version: str, workspace: Path) -> Outcome:
    """Judge `version`, which was published from this workspace, by the rules of the params; promote it, or record why not.

    The champion is evaluated anew on this workspace's test rows, once for each champion, rows and code. Law: an alias is
    moved only by a verdict against the version that it names at that moment, and never to one that a person took it from.
    """
    with checkout.connected(os.environ) as environ:
        into = Registry.open(environ)
        outcome = promote_from(params, into.find(version), workspace, into)
    events.note(outcome.words)
    events.result(**outcome.told)
    return outcome


def settled(version: Version, alias: str, standing: Alias | None, into: Registry) -> Outcome | None:
    """What became of a version about which nothing is left to judge, while the alias is `standing`."""
    if standing and standing.version == version.number:
        return Outcome(version, "stands")
    if withdrawal := into.audit(version.name).withdrawal(alias, version.number):
        return Outcome(version, "withdrawn", withdrawal=withdrawal)
    return None


def promote_from(rules: PromoteParams, version: Version, workspace: Path, into: Registry) -> Outcome:
    """As `promote`, in a registry that is open. ConflictError: the alias moved during every comparison."""
    _check_made_here(version, rules.target, workspace)
    mine, base = _evaluations(workspace, rules.target)
    facts = _facts(workspace, _signed(version, into) if rules.signed else None)
    for _ in range(TRIES):
        standing = into.aliases.read(version.name, rules.alias)
        if outcome := settled(version, rules.alias, standing, into):
            return outcome
        champion = into.read(version.name, standing.version) if standing else None
        theirs = _champion(champion, rules.target, mine.manifest, workspace, into) if champion else None
        case = Case(facts=facts, candidate=mine.scores, base=base.scores, champion=theirs)
        judgement = Judgement.of(version, standing.version if standing else None, case, rules)
        verdict = into.judgements.record(judgement)
        if not judgement.passed:
            _refuse(into, judgement, verdict)
            return Outcome(version, "refused", judgement)
        if rules.approval == "manual":
            no = into.audit(version.name).declined(verdict)
            return Outcome(version, "declined" if no else "awaits", judgement, declined=no)
        try:
            into.aliases.promote(
                version, rules.alias, who=checkout.user(), why=_why(judgement), now=datetime.now(UTC),
                expect=judgement.champion or aliases.NOWHERE, verdict=verdict,
            )  # fmt: skip
        except ConflictError as error:
            events.note(f"{error}: compared again")
            continue
        return Outcome(version, "promoted", judgement)
    raise ConflictError(f"{version.name}@{rules.alias} moved during each of {TRIES} comparisons: run the command again")


def _why(judgement: Judgement) -> str:
    """The rule that says most for it."""
    best = [ruling for ruling in judgement.rulings if ruling.direction == "above"]
    return "; ".join(map(rulings.explained, best))


def _refuse(into: Registry, judgement: Judgement, verdict: str) -> None:
    """A line in the audit log; the same refusal is told once."""
    audit = into.audit(judgement.name)
    if any(entry.action == "refuse" and entry.verdict == verdict for entry in audit.entries()):
        return
    why = rulings.first(judgement.broken)
    audit.append(LogEntry(
        at=datetime.now(UTC), action="refuse", who=checkout.user(), version=judgement.version, why=why,
        verdict=verdict,
    ))  # fmt: skip


def _check_made_here(version: Version, target: str, workspace: Path) -> None:
    """ModelError: the version has no such part. IntegrityError: it is of another model than the workspace's."""
    part = version.select(target)
    sealed = workspace / layout.model(target) / manifest.NAME
    if not sealed.is_file() or part[manifest.NAME].sha256 != digest.of_file(sealed):
        raise IntegrityError(
            f"{version.reference} was not made of {sealed.parent}, so that the evaluations here are not its own: "
            "dvc repro and publish it, or judge the version that was published from here"
        )


def _evaluations(workspace: Path, target: str) -> tuple[Evaluation, Evaluation]:
    """The target's and the base's. ModelError: there is none of the target."""
    inputs = {
        name: manifest.read(workspace / folder).digest
        for name, folder in (("chat", layout.CHAT), ("base", layout.BASE), ("merged", layout.MERGED))
    }
    found = {each.target: each for each in evaluated.read_all(workspace / layout.EVALUATIONS, inputs)}
    if target not in found or not found[target].measured.made:
        raise ModelError(f"promote.target: {target} has no evaluation; there are {', '.join(found)}")
    return found[target], found["base"]


def _signed(version: Version, into: Registry) -> bool:
    """By a trusted key. ParamsError: nobody said which are."""
    if into.trusted is None:
        raise ParamsError(f"promote.signed: true asks for a signature of a trusted key: set {keys.TRUSTED}")
    try:
        into.signatures.require(version)
    except IntegrityError as error:
        events.note(str(error))
        return False
    return True


def _facts(workspace: Path, signed: bool | None) -> Facts:
    """contaminated: what the rule found and did not drop."""
    leaks = [rule for rule in datacard.read(workspace / layout.DATA_REPORT).quality if rule.rule == "contamination"]
    return Facts(
        train_rows=manifest.read(workspace / layout.CHAT).facts["rows"]["train"],
        contaminated=sum(rule.found - rule.dropped for rule in leaks) if leaks else None,
        formats=tuple(each.format for each in verdicts.read(workspace / layout.VERDICTS) if each.passed),
        signed=signed,
    )


def _champion(champion: Version, target: str, mine: Manifest, workspace: Path, into: Registry) -> Scores:
    """The champion's on the rows and suites that the evaluation `mine` was of, by the very code that made it."""
    key = digest.of_value({
        "model": {name: entry.sha256 for name, entry in champion.select(target).items()}, "code": _code(),
        "asked": {name: found for name, found in mine.inputs.items() if name == "chat" or name.startswith("suite/")},
        "params": mine.params,
    })  # fmt: skip
    place = layout.work() / "champions" / key[:16]
    out = place / target
    if not (out / manifest.NAME).is_file():
        events.note(f"evaluating {champion.reference} on the same {mine.facts['rows']} test rows")
        model = place / "model"
        into.pull(champion, target, model)
        _evaluate(target, model, out.absolute(), workspace)
    return evaluated.read(out).scores


def _evaluate(target: str, model: Path, out: Path, workspace: Path) -> None:
    """In a process of its own, whose memory goes with it. StageFailed: it ended with an error, which it told itself."""
    paths = {"chat": layout.CHAT, "base": model, "model": model, "suites": layout.SUITES, "out": out}
    words = [word for flag, path in paths.items() for word in (f"--{flag}", str(path))]
    done = subprocess.run(
        [sys.executable, "-m", "tasks.evaluate", "--target", target, *words], cwd=workspace, check=False
    )
    if done.returncode:
        raise StageFailed(
            f"the champion's evaluation ended with exit code {done.returncode}, for the reason told above"
        )


def _code() -> str:
    """Digest of the code that evaluates."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return digest.of_value({str(file.relative_to(Path(__file__).parent)): digest.of_file(file) for file in files})


if __name__ == "__main__":
    sys.exit(main(promote))
