"""Ranks shared out by importance under a budget of parameters: a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from tasks.core.errors import ParamsError


def share_out(
    importance: Mapping[str, float], costs: Mapping[str, int], caps: Mapping[str, int], rank: int, budget: float
) -> dict[str, int]:
    """Ranks min(rank (1 + importance), cap), importance relative to the largest, times the one factor that fits the
    budget; at least 1. `costs` are parameters a rank, `budget` parameters in all.

    Laws: the budget is kept; of two layers with the same cap the more important has no lower rank, and equal ones have
    equal ranks; with budget enough the formula holds as it stands. ParamsError: not even rank 1 everywhere fits.
    """
    spent = sum(costs.values())
    if spent > budget:
        raise ParamsError(
            f"train.options.allocate.budget allows {budget:.0f} parameters, but rank 1 everywhere takes {spent}: raise it, "
            "or choose fewer train.targets"
        )
    largest = max(importance.values())
    wanted = {name: rank * (1 + (value / largest if largest else 0.0)) for name, value in importance.items()}
    ranks = dict.fromkeys(importance, 1)
    growth = sorted(
        (step / wanted[name], name) for name in wanted for step in range(2, min(caps[name], int(wanted[name])) + 1)
    )
    # Layer after layer reaches its next rank as the factor grows; those that do so together grow together or not at all.
    for _, together in groupby(growth, key=lambda item: item[0]):
        names = [name for _, name in together]
        spent += sum(costs[name] for name in names)
        if spent > budget:
            break
        for name in names:
            ranks[name] += 1
    return ranks
