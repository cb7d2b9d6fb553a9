"""Aliases on the move: promote, rollback."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime

from tasks.core.errors import ParamsError
from tasks.storage import aliases, checkout, promotion
from tasks.storage.aliases import Move
from tasks.storage.model_version import number_in
from tasks.storage.registry import Registry


def promote(arguments: argparse.Namespace, registry: Registry) -> int:
    move = promotion.promote(
        registry, registry.find(arguments.reference), arguments.alias, who=checkout.user(), why=arguments.why,
        expect=_expected(arguments.expect), unjudged=arguments.unjudged,
    )  # fmt: skip
    return _told(move, arguments)


def rollback(arguments: argparse.Namespace, registry: Registry) -> int:
    registry.versions(arguments.name)
    move = registry.aliases.rollback(
        arguments.name, arguments.alias, who=checkout.user(), why=arguments.why, now=datetime.now(UTC)
    )
    return _told(move, arguments)


def _expected(text: str | None) -> int | None:
    if text is None:
        return None
    if text == "none":
        return aliases.NOWHERE
    if (number := number_in(f"{text}.json")) is None:
        raise ParamsError(f"--expect {text!r} is no version: write v3, or none for an alias that must be new")
    return number


def _told(move: Move, arguments: argparse.Namespace) -> int:
    print(
        json.dumps({**move.alias.model_dump(mode="json"), "moved": move.made}, indent=1)
        if arguments.json
        else move.words
    )
    return 0
