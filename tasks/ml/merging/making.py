"""The merged model made and proved: onto which base, by what was measured, and as near to base and adapter as it must be."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tasks.core import digest, events
from tasks.core.errors import ModelError
from tasks.core.manifest import Manifest
from tasks.core.sections import MergeParams
from tasks.ml import fidelity, loading
from tasks.ml.export import merge
from tasks.ml.merging import held, loftq, proof
from tasks.ml.merging.held import Held, Seen
from tasks.ml.merging.proof import Answers, Rows
from tasks.ml.tuned import Runner
from tasks.ml.updates import Unmergeable

ORIGINAL, TRAINED = "original", "trained"
NO_ROOM = "the memory has no room for the model, not even in the type that it was trained in"


@dataclass(frozen=True)
class Bench:
    """What every candidate shares: the base, the rows it is measured on, in which type (None: it can't be), and a folder
    for what is measured."""

    base: Path
    rows: Rows
    dtype: torch.dtype | None
    scratch: Path


@dataclass(frozen=True)
class Candidate:
    """A base to merge into, and the adapter that belongs on it. `seen`: the base is what training saw of it."""

    name: str
    adapter: Path
    seen: Seen | None = None


@dataclass(frozen=True)
class Made:
    """A candidate merged in a folder of its own; `answers`: None where nothing could be measured."""

    candidate: Candidate
    folder: Path
    facts: dict[str, Any]
    answers: Answers | None


def make(params: MergeParams, base: Path, adapter: Path, chat: Path, into: Path, trained: Manifest) -> dict[str, Any]:
    """Leave the merged model in `into`; facts about it, equal for equal work.

    Unmergeable: it can't be. ModelError: base and adapter don't fit, or the result is further from them than `bound` allows.
    """
    loading.threads()
    if kind := loading.stored_quantisation(base):
        raise Unmergeable(
            f"the base itself is quantised ({kind}), and rounding to such weights again would lose what was trained"
        )
    with tempfile.TemporaryDirectory(prefix=".merge-", dir=into) as name:
        was_held = Held.of(trained)
        if params.also:
            from tasks.ml.merging import several

            several.combine(params, base, adapter, Path(name) / "combined")
            adapter = Path(name) / "combined"
        dtype = proof.precision(base, torch.float32 if was_held is None else was_held.dtype)
        bench = Bench(base, Rows.of(chat), dtype, Path(name))
        candidates = _candidates(params, bench, adapter, was_held)
        made = [_made(params, bench, each, loss=was_held is not None) for each in candidates]
        choice = min(made, key=_loss)
        facts = {**choice.facts, "onto": choice.candidate.name}
        if was_held is not None:
            facts |= _compared(bench, adapter, was_held, made)
        facts["proof"] = _proved(params, bench, choice)
        for file in sorted(choice.folder.iterdir()):
            file.rename(into / file.name)
    return facts


def _candidates(params: MergeParams, bench: Bench, adapter: Path, was_held: Held | None) -> Sequence[Candidate]:
    if was_held is None:
        return [Candidate(ORIGINAL, adapter)]
    seen = Seen(was_held, held.layers(bench.base, was_held))
    wanted = (TRAINED, ORIGINAL) if params.onto == "auto" else (params.onto,)
    if len(wanted) > 1 and bench.dtype is None:
        events.warning(
            f"merge.onto=auto merges into the base as training saw it, as nothing can be measured: {NO_ROOM}"
        )
        wanted = (TRAINED,)
    return [
        Candidate(TRAINED, adapter, seen) if name == TRAINED else Candidate(name, _plain(bench, adapter, seen))
        for name in wanted
    ]


def _plain(bench: Bench, adapter: Path, seen: Seen) -> Path:
    """The adapter for the original base."""
    if not seen.held.loftq:
        return adapter
    into = bench.scratch / "plain"
    into.mkdir()
    loftq.without_start(bench.base, adapter, seen.held, seen.turned, into)
    return into


def _made(params: MergeParams, bench: Bench, candidate: Candidate, *, loss: bool) -> Made:
    folder = bench.scratch / candidate.name
    folder.mkdir()
    facts = merge.write(bench.base, candidate.adapter, folder, params.dtype, candidate.seen)
    answers = None
    if bench.dtype is not None:
        load, place = partial(_merged, folder, bench.dtype), bench.scratch / f"{candidate.name}-answers"
        answers = proof.ask(load, bench.rows, place, f"merged onto {candidate.name}", loss=loss)
    return Made(candidate, folder, facts, answers)


def _loss(made: Made) -> float:
    return made.answers.loss if made.answers and made.answers.loss is not None else 0.0


def _merged(folder: Path, dtype: torch.dtype) -> Runner:
    return Runner.of(loading.load(folder, dtype))


def _compared(bench: Bench, adapter: Path, was_held: Held, made: Sequence[Made]) -> dict[str, Any]:
    """Every candidate against the model as it was trained."""
    if bench.dtype is None:
        return {"candidates": {each.candidate.name: {"skipped": NO_ROOM} for each in made}}
    as_trained = proof.ask(
        partial(_as_trained, bench.base, adapter, was_held),
        bench.rows,
        bench.scratch / "as-trained",
        "as trained",
        loss=True,
    )
    found: dict[str, Any] = {"as trained": {"loss": _rounded(as_trained.loss)}}
    for each in made:
        assert each.answers is not None
        apart = proof.apart(as_trained, each.answers)
        found[each.candidate.name] = {"loss": _rounded(each.answers.loss), **(apart.facts if apart else {})}
    rows = [[row.id, list(row.ids)] for row in bench.rows.held_out]
    return {
        "candidates": found,
        "measured_on": {"split": bench.rows.split, "rows": len(rows), "digest": digest.of_value(rows)},
    }


def _rounded(loss: float | None) -> float | None:
    return None if loss is None else fidelity.rounded(loss)


def _as_trained(base: Path, adapter: Path, was_held: Held) -> Runner:
    return loading.with_adapter(loading.load(base, was_held.dtype, held=was_held.kind), adapter)


def _proved(params: MergeParams, bench: Bench, made: Made) -> dict[str, Any]:
    """How far the merged model is from its base with the adapter beside. ModelError: too far."""
    if bench.dtype is None or made.answers is None:
        events.warning(f"the merged model's answers are not compared with those of base and adapter: {NO_ROOM}")
        return {"skipped": NO_ROOM}
    load = partial(_unmerged, bench.base, made.candidate, bench.dtype)
    wanted = proof.ask(load, bench.rows, bench.scratch / "unmerged-answers", "base and adapter")
    apart = proof.apart(wanted, made.answers)
    if apart is None:
        return {"skipped": "no row has a token that is learned"}
    if apart.kl > params.bound:
        raise ModelError(
            f"the merged model is {apart.kl:.3g} nats from base and adapter (mean over {apart.tokens} tokens of "
            f"{len(bench.rows.prompts)} rows), merge.bound allows {params.bound:g}: set merge.dtype=float32; if it stays "
            "so, serve the adapter beside its base"
        )
    return {
        "dtype": str(bench.dtype).removeprefix("torch."), "split": bench.rows.split, "rows": len(bench.rows.prompts),
        **apart.facts,
    }  # fmt: skip


def _unmerged(base: Path, candidate: Candidate, dtype: torch.dtype) -> Runner:
    """The candidate's base with its adapter beside. What training saw of a base is unpacked here by transformers itself."""
    if candidate.seen is None:
        model: Any = loading.load(base, dtype)
    else:
        was_held = candidate.seen.held
        model = loading.load(base, was_held.dtype, held=was_held.kind).dequantize(was_held.dtype)
    runner = loading.with_adapter(model, candidate.adapter)
    for value in runner.model.parameters():
        value.data = value.data.to(dtype)
    return runner
