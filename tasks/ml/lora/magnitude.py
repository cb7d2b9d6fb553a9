"""When DoRA's magnitude trains: a function of the step and the losses alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from tasks.ml.lora.sections import Magnitude
from tasks.ml.tuned import Tuned

NAME = ".lora_magnitude_vector."


def staged(tuned: Tuned, options: Magnitude, steps: int) -> Tuned:
    """Rest the magnitudes as the options say, and give them their own rate."""
    names = frozenset(tuned.trainable())
    directions = frozenset(name for name in names if NAME not in name)
    return replace(
        tuned,
        rate=lambda name: tuned.rate(name) * (options.rate if NAME in name else 1.0),
        trains=lambda step, losses: directions if rests(step, losses, steps, options) else names,
    )


def rests(step: int, losses: Sequence[float], steps: int, options: Magnitude) -> bool:
    """Whether the magnitudes rest in this step (from 1), after these losses.

    Law: once they train they train to the end, whatever the losses do.
    """
    if step > options.after * steps:
        return False
    return not flat(losses, options.window, options.tolerance)


def flat(losses: Sequence[float], window: int, tolerance: float) -> bool:
    """Whether at some time the mean of `window` losses was no more than `tolerance` of it below that of the window before."""
    if not window:
        return False
    sums = [0.0, *accumulate(losses)]
    return any(
        sums[end] - sums[end - window] >= (1 - tolerance) * (sums[end - window] - sums[end - 2 * window])
        for end in range(2 * window, len(sums))
    )
