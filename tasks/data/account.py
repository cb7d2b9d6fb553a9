"""The data card of a training set, from what was gathered on the way to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core import digest, manifest, params
from tasks.core.sections import PrepareParams
from tasks.data import blocks
from tasks.data.drift import drift
from tasks.data.gathering import Gathering, Packed
from tasks.data.profile import Profile
from tasks.data.report import histogram
from tasks.data.report.datacard import DataCard
from tasks.data.report.datafacts import (
    Accounting,
    Arrival,
    Change,
    Composition,
    Continuing,
    Example,
    FrozenTest,
    Identity,
    Lengths,
    Mixed,
    Packing,
    Parent,
    RuleResult,
    Split,
)
from tasks.data.splits import NAMES


def card(
    chosen: PrepareParams, raw: Path, base: Path, gathering: Gathering, packed: Packed, facts: Mapping[str, Any]
) -> DataCard:
    """Law: the card accounts for every row of the corpus; equal work gives an equal card."""
    dropped = Counter(gathering.reasons)
    held_out, learned = dropped.pop(blocks.HELD_OUT, 0), dropped.pop(blocks.LEARNED, 0)
    parts = {name: gathering.rows[name].profile for name in NAMES}
    whole = _merged(gathering.by_version.values())
    return DataCard(
        identity=_identity(chosen, raw, base, gathering),
        parent=_parent(gathering),
        accounting=Accounting(
            read=gathering.read, splits=_splits(gathering, facts), dropped=dropped, held_out=held_out, learned=learned
        ),
        continuing=None if facts["continues"] is None else Continuing.model_validate(facts["continues"]),
        arrivals=tuple(
            Arrival(name=f"v{version}", source=", ".join(seen.sources.counts), rows=seen.rows)
            for version, seen in sorted(gathering.by_version.items())
        ),
        change=_change(gathering),
        composition=Composition.of(parts),
        lengths=_lengths(chosen, gathering, whole),
        quality=tuple(_rules(chosen, gathering)),
        mixing=tuple(_mixing(chosen, gathering)),
        packing=Packing(
            packs=packed.packs, budget=chosen.pack.tokens, rows=packed.rows, tokens=packed.tokens,
            capacity=packed.packs * chosen.pack.tokens, longest=int(_sizes(gathering, "train").max(initial=0)),
        ),
        test=FrozenTest(rows=facts["rows"]["test"], digest=facts["test_digest"]),
    )  # fmt: skip


def _identity(chosen: PrepareParams, raw: Path, base: Path, gathering: Gathering) -> Identity:
    fetched, template = manifest.read(base), base / "chat_template.jinja"
    values = params.flat({"prepare": chosen.model_dump(mode="json", exclude={"quality"})})
    return Identity(
        digest=manifest.read(raw).digest,
        base=str(fetched.facts.get("ref", fetched.digest)),
        template=digest.of_file(template) if template.is_file() else "in tokenizer_config.json",
        tools=gathering.tools,
        params={path: str(value) for path, value in values.items()},
    )


def _parent(gathering: Gathering) -> Parent | None:
    """The corpus before the newest version that brought rows; rows forgotten since are in neither."""
    *before, newest = sorted(gathering.by_version)
    if not before:
        return None
    rows = {version: seen.rows for version, seen in gathering.by_version.items()}
    return Parent(
        version=f"v{before[-1]}", before=sum(rows[version] for version in before), added=rows[newest], forgotten=0
    )


def _change(gathering: Gathering) -> Change | None:
    *before, newest = sorted(gathering.by_version)
    if not before:
        return None
    added = gathering.by_version[newest]
    return Change(
        sources=added.sources.counts, tags=added.tags.counts,
        drift=drift(added, _merged(gathering.by_version[version] for version in before)),
    )  # fmt: skip


def _merged(profiles: Iterable[Profile]) -> Profile:
    whole = Profile()
    for each in profiles:
        whole = whole.merge(each)
    return whole


def _splits(gathering: Gathering, facts: Mapping[str, Any]) -> tuple[Split, ...]:
    return tuple(
        Split(
            name=name, rows=facts["rows"][name], tokens=facts["tokens"][name], loss_tokens=facts["loss_tokens"][name],
            groups=len(np.unique(gathering.rows[name].column("groups")[gathering.keep[name]])),
        )
        for name in NAMES
    )  # fmt: skip


def _sizes(gathering: Gathering, name: Any) -> np.ndarray:
    return gathering.rows[name].column("lengths")[gathering.keep[name]]


def _lengths(chosen: PrepareParams, gathering: Gathering, whole: Profile) -> Lengths:
    counts = np.bincount(np.concatenate([_sizes(gathering, name) for name in NAMES]).astype(np.int64))
    low, high = gathering.fences
    return Lengths(
        tokens=histogram.of_lengths({int(size): int(counts[size]) for size in np.flatnonzero(counts)}),
        prompts=histogram.of_profile(whole.prompts), answers=histogram.of_profile(whole.answers),
        max_length=chosen.max_length, fences=(max(0, int(low)), int(high)),
    )  # fmt: skip


def _rules(chosen: PrepareParams, gathering: Gathering) -> Iterator[RuleResult]:
    """Every rule that is on, also one that found nothing."""
    found, actions = dict(gathering.findings().rules), _actions(chosen)
    for rule in sorted({*found, *(rule for rule, action in actions.items() if action != "ignore")}):
        result = found.get(rule)
        examples = result.examples if result else ()
        yield RuleResult(
            rule=rule, action=actions.get(rule, "report"), found=result.found if result else 0,
            dropped=result.dropped if result else 0,
            examples=tuple(Example(id=each.id, detail=each.detail, excerpt=each.text) for each in examples),
        )  # fmt: skip


def _actions(chosen: PrepareParams) -> dict[str, str]:
    rules = chosen.quality
    return {
        "near_duplicates": rules.near_duplicates.action, "contamination": rules.contamination.action,
        "languages": rules.languages.action, "lengths": rules.lengths.action,
        "answers.repeated": rules.answers.repeated, "answers.loops": rules.answers.loops,
        "answers.refusals": rules.answers.refusals, **{f"pii.{kind}": rules.pii.action for kind in rules.pii.kinds},
    }  # fmt: skip


def _mixing(chosen: PrepareParams, gathering: Gathering) -> Iterator[Mixed]:
    train = gathering.rows["train"]
    total = max(1, int(gathering.mixed.copies.sum()))
    for name, place in train.names.items():
        mine = train.source == place
        rows, seen = int((mine & gathering.keep["train"]).sum()), int(gathering.mixed.copies[mine].sum())
        source = chosen.mixing.sources.get(name)
        yield Mixed(
            source=name,
            rows=rows,
            weight=source.weight if source else 1.0,
            copies=seen / max(1, rows),
            share=seen / total,
        )
