"""Ranking of sound runs by their worst case over the attacks that all of them met."""

from collections.abc import Sequence
from dataclasses import replace

from common.report.runs import Run, state
from common.report.scores import main_budget
from common.report.shared_attacks import Shared, shared_worst
from common.report.tables.gradients import gradients

SOUND = ("exact", "unknown")  # states of the gradients of a run that may lead


def is_sound(run: Run) -> bool:
    """False if a check failed, or the gradients of its attacks failed theirs or are approximate."""
    known = gradients(run)
    return all(state(check) != "failed" for check in run.checks) and (known is None or known.state in SOUND)


def leader(runs: Sequence[Run]) -> tuple[list[Run], Shared] | None:
    """Sound runs, the most robust first, and their worst cases over the attacks that all of them met, in that order.

    The budget is the main one of these runs. None unless at least two share it. Without an attack of all there are no
    worst cases, and the order is that of ``runs``.
    """
    sound = [run for run in runs if is_sound(run)]
    key = main_budget(sound)
    found = [run for run in sound if key in run.worst_by_budget]
    if key is None or len(found) < 2:
        return None
    shared = shared_worst(found, key)
    order = sorted(range(len(shared.worst)), key=lambda i: -shared.worst[i].summary.metrics["Avg"][0])
    worst = [shared.worst[i] for i in order]
    return [found[i] for i in order] or found, replace(shared, worst=worst)
