"""On an NVIDIA GPU: LoRA and QLoRA against TRL with its fused head, on SmolLM2 and on a random model of 8 B's shape;
QLoRA alone on one of 65 B's shape, for the memory that it takes.

Where no GPU is, that is said, and nothing is measured.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks import harness
from benchmarks.harness import Contender, Failure, Findings, Options
from benchmarks.measuring import checkout, lessons
from benchmarks.peers import lesson as lesson_file
from benchmarks.peers.peer import TRL
from benchmarks.training import bound, course

STEPS, QUICK_STEPS = 8, 3
SMALL_ROWS, LARGE_ROWS = 64, 16
"""Of a step."""
LONGEST = 1024
PRODUCT_SECONDS = 0.2
PROBE = (
    "import json, torch; print(json.dumps({'name': torch.cuda.get_device_name() if torch.cuda.is_available() else ''}))"
)
MEASURING = Path(__file__).parents[1] / "measuring"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@dataclass(frozen=True)
class _Way:
    """One method on one base: how each contender is told."""

    name: str
    ours: Mapping[str, Any]
    trl: Mapping[str, Any]


LARGEST_ROWS, LARGEST_LONGEST, LARGEST_RANK = 4, 512, 64
LARGEST = {
    "method": "qlora", "batch": {"micro_tokens": 512}, "launch": {"recompute": "always"},
    "optimizer": {"name": "paged_adamw_8bit", "learning_rate": 2e-4, "schedule": "constant", "warmup": 0.0},
}  # fmt: skip
"""As QLoRA's paper trains LLaMA 65 B in 48 GB (arXiv 2305.14314)."""
TRL_BEST = {"micro": 8, "model": {"dtype": "bfloat16"}, "config": {"padding_free": True, "max_length": None}}
WAYS = (
    _Way("LoRA", {"method": "lora"}, TRL_BEST),
    _Way("QLoRA", {"method": "qlora"}, {**TRL_BEST, "nf4": True}),
)


def absent() -> str:
    """Why nothing can be measured here; empty where it can."""
    probe = harness.measure(Contender("probe", (sys.executable, "-c", PROBE), Path.cwd(), answers=True))
    if isinstance(probe, Failure):
        return f"no NVIDIA GPU could be looked for: {probe.reason}"
    return "" if probe.result["name"] else "no NVIDIA GPU here (torch sees none): nothing was measured on one"


def measured(options: Options, folder: Path, base: Path) -> Findings:
    parts = [_on(options, folder, base, "SmolLM2-135M", SMALL_ROWS)]
    large, largest = _made(base, folder / "large", "random_base.py"), _made(base, folder / "largest", "hollow_base.py")
    parts.append(large or _on(options, folder, folder / "large", "8 B-shaped", LARGE_ROWS))
    return course.joined(*parts, largest or largest_of(options, folder, folder / "largest"))


def _made(base: Path, out: Path, script: str) -> Findings | None:
    """The base that a script makes, with the tokenizer of a real one; None: it is there."""
    argv = (sys.executable, "-P", str(MEASURING / script), str(out))
    made = harness.measure(Contender(script, argv, base.parent, checkout.environment(checkout.ROOT)))
    if isinstance(made, Failure):
        return Findings(failures={script: made.reason})
    for name in TOKENIZER:
        shutil.copy(base / name, out / name)
    return None


def largest_of(options: Options, folder: Path, base: Path, device: Literal["cpu", "cuda"] = "cuda") -> Findings:
    """What QLoRA takes of memory on the largest base. No other contender: it is a claim about bytes."""
    made = lessons.make(base, folder / "adapter", QUICK_STEPS, LARGEST_LONGEST, LARGEST_ROWS, LARGEST_RANK)
    file = folder / "largest.json"
    lesson_file.write(file, replace(made, device=device))
    comparison = harness.compare([course.ours("tuneline", file, folder / "out", LARGEST)], rounds=1)
    found = harness.findings("65 B-shaped, QLoRA: steps after the first", course.steps_only(comparison, first=1))
    return _named(found, "65 B-shaped, QLoRA: ")


def _on(options: Options, folder: Path, base: Path, title: str, rows: int) -> Findings:
    steps = QUICK_STEPS if options.quick else STEPS
    lesson = replace(lessons.make(base, folder / "adapter", steps, LONGEST, rows), device="cuda")
    file = folder / "lesson.json"
    lesson_file.write(file, lesson)
    products = bound.products(base, lesson, PRODUCT_SECONDS)
    parts = list[Findings]()
    for way in WAYS:
        ours = course.ours("tuneline", file, folder / "out", way.ours)
        theirs = [] if TRL.absent() else [TRL.trains(file, folder / "out", way.trl)]
        comparison = harness.compare([ours, *theirs], options.rounds)
        found = harness.findings(f"{title}, {way.name}: steps after the first", course.steps_only(comparison, first=1))
        parts += [_named(found, f"{title}, {way.name}: "), _named(bound.share(comparison, base, lesson, products), "")]
    return course.joined(*parts, Findings(tables=[TRL.absent()]))


def _named(found: Findings, before: str) -> Findings:
    """With a word before every name, so that nothing is lost when they are joined."""
    ratios, absolute, failures = (
        {before + name: value for name, value in part.items()}
        for part in (found.ratios, found.absolute, found.failures)
    )
    return Findings(ratios, absolute, found.tables, failures)
