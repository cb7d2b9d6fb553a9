"""The data card: what a training set was made from, what became of every row, and what it looks like.

`prepare` fills the value; it is kept as card.json and shown as index.html and as README.md (also a Prefect artifact).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from markupsafe import Markup
from pydantic import ValidationError, model_validator

from tasks.core.errors import IntegrityError
from tasks.data.report import charts, pictures, template, units
from tasks.data.report.datafacts import (
    Accounting,
    Arrival,
    Change,
    Composition,
    Continuing,
    FrozenTest,
    Identity,
    Lengths,
    Mixed,
    Packing,
    Parent,
    RuleResult,
)
from tasks.data.report.pictures import Picture
from tasks.data.report.values import Value, complaint

FILE = "card.json"
SHOWN = 40
"""Lines of a table of names or arrivals, and examples of a rule; card.json has the whole."""
CLIP = 300
"""Characters of one text."""


@dataclass(frozen=True)
class Headline:
    """One figure in large, with what it counts and what it is to be held against."""

    role: str
    value: str
    what: str
    beside: str = ""


class DataCard(Value):
    """Law: `read(folder) == card` after `write(folder, card)`."""

    identity: Identity
    parent: Parent | None = None
    accounting: Accounting
    continuing: Continuing | None = None
    arrivals: tuple[Arrival, ...] = ()
    change: Change | None = None
    composition: Composition = Composition()
    lengths: Lengths
    quality: tuple[RuleResult, ...] = ()
    mixing: tuple[Mixed, ...] = ()
    packing: Packing | None = None
    test: FrozenTest | None = None

    @model_validator(mode="after")
    def _follows_its_parent(self) -> Self:
        if (of := self.parent) and of.before + of.added - of.forgotten != self.accounting.read:
            raise ValueError(
                f"{of.before:,} rows before, {of.added:,} added and {of.forgotten:,} forgotten are not the "
                f"{self.accounting.read:,} that were read"
            )
        return self

    def to_json(self) -> str:
        """One spelling: equal cards give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def page(card: DataCard) -> str:
    """`index.html`: one page that loads nothing from anywhere and runs no script."""
    drawn = [picture for picture in _pictures(card) if picture]
    svgs = {picture.name: Markup(picture.svg) for picture in drawn}  # noqa: S704  matplotlib escapes the names in it
    return template.render("datacard.html.j2", **_shown(card), pictures=drawn, svgs=svgs)


def markdown(card: DataCard) -> str:
    """`README.md`: tables and one image as a data URI, for a hub and for a Prefect artifact."""
    image = next(pictures.lengths(card.lengths), None)
    address = charts.as_image(image.svg) if image else ""
    return template.render("datacard.md.j2", **_shown(card), image=image, address=address)


def _pictures(card: DataCard) -> Iterator[Picture | None]:
    yield pictures.fate(card.accounting)
    yield from pictures.lengths(card.lengths)
    yield pictures.tags(card.composition)
    yield pictures.sources(card.composition, card.mixing)
    yield pictures.drift(card.change.drift if card.change else None)


def _shown(card: DataCard) -> dict[str, object]:
    """What both templates show, in an order that is the cards' own."""
    tags = [(tag, splits, sum(splits.values())) for tag, splits in card.composition.tags.items()]
    return {
        "card": card,
        "headlines": list(_headlines(card)),
        "law": _law(card.accounting),
        "sources": pictures.ranked(card.composition.sources),
        "tags": sorted(tags, key=lambda each: (-each[2], each[0])),
        "turns": sorted(card.composition.turns.items()),
        "ranked": pictures.ranked,
        "shown": SHOWN,
        "clip": _clip,
    }


def _headlines(card: DataCard) -> Iterator[Headline]:
    accounting, train = card.accounting, card.accounting.split("train")
    since = _since(card.parent) if card.parent else "the first version"
    yield Headline("Rows read", _large(accounting.read), f"in {len(card.arrivals):,} arrivals", since)
    yield Headline(
        "Trained on", _large(train.rows), f"rows, {_share(train.rows, accounting.read)}", f"{train.groups:,} prompts"
    )
    if of := card.continuing:
        yield Headline("New", _large(of.new), f"rows, beside {of.replayed:,} replayed", f"to {of.reference}")
    yield Headline(
        "Tokens with loss", _large(train.loss_tokens), f"{_share(train.loss_tokens, train.tokens)} of the training tokens",
        f"{train.tokens:,} in all",
    )  # fmt: skip
    if card.packing:
        packs = f"{card.packing.packs:,} of {card.packing.budget:,} tokens"
        yield Headline(
            "Packs filled", units.as_text(card.packing.fill, "share"), packs, f"longest row {card.packing.longest:,}"
        )
    if card.change and card.change.drift:
        found = card.change.drift
        yield Headline(
            "Drift",
            f"{found.overall:.2f}",
            "beyond chance",
            f"{found.new_rows:,} rows against {found.reference_rows:,}",
        )


def _since(parent: Parent) -> str:
    forgotten = f", {parent.forgotten:,} forgotten" if parent.forgotten else ""
    return f"{parent.added:,} added{forgotten}"


def _law(accounting: Accounting) -> str:
    parts = [f"{split.rows:,} {split.name}" for split in accounting.splits]
    parts += [f"{sum(accounting.dropped.values()):,} dropped", f"{accounting.held_out:,} held out"]
    if accounting.learned:
        parts.append(f"{accounting.learned:,} learned before")
    return f"{accounting.read:,} read = {' + '.join(parts)}"


def _large(value: int) -> str:
    """In full below a million."""
    for power, name in ((9, "G"), (6, "M")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {name}"
    return f"{value:,}"


def _share(part: int, whole: int) -> str:
    return units.as_text(part / whole if whole else None, "share")


def _clip(text: str) -> str:
    return text if len(text) <= CLIP else f"{text[:CLIP]} …"


def write(folder: Path, card: DataCard) -> None:
    """card.json, index.html and README.md. Equal cards give equal bytes: no clock, no order of insertion."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((FILE, card.to_json()), ("index.html", page(card)), ("README.md", markdown(card))):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def read(folder: Path) -> DataCard:
    """The card that `write` left."""
    path = folder / FILE
    again = "Run the stage that makes it: dvc repro --force --single-item prepare"
    try:
        return DataCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{folder} has no {FILE}. {again}") from None
    except ValidationError as error:
        raise IntegrityError(f"{path} is not a data card: {complaint(error)}. {again}") from None
