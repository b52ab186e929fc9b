"""``plan -c CONFIG``: what a test will cost, from a measurement of 20 seconds on the machine at hand."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from common.checks.settings import check_count, check_positive
from common.commands.parsing import Arguments, with_files
from common.naming.terminal import Terminal

if TYPE_CHECKING:
    from common.commands.planned_test import PlannedTest
    from common.experiments.planning.terms import Term

DESCRIPTION = (
    "Predict network evaluations, memory and hours of a test from a measurement of 20 seconds on this machine, with "
    "its largest terms, and what the suites quick, standard and gold would take. Nothing is written."
)
SUITES = ("quick", "standard", "gold")
LARGEST = 8  # terms in the table


def run(arguments: Sequence[str]) -> None:
    """Print the plan of a test configuration; the arguments are those of ``test``, and those below."""
    started = time.perf_counter() - _alive()
    parser = Arguments("plan", DESCRIPTION)
    parser.usage = "robust-diffusion plan -c PRESET [-c FILE ...] [--devices N] [--suites NAME ...] [OPTIONS OF test]"
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="divide the images among N such devices")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="time of the measurement, about")
    parser.add_argument(
        "--suites", nargs="*", default=SUITES, metavar="NAME", help="suites to plan; none without names"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    options, rest = parser.parse_known_args(list(arguments))
    check_count("--devices", options.devices)
    check_positive("--seconds", options.seconds)
    if not any(one.partition("=")[0] in ("-c", "--config", "--model") for one in rest):
        parser.error("plan needs a test configuration: -c PRESET or FILE")
    known = with_files(rest)
    from common.commands.planned_test import planned

    plan = as_json(planned(known, options.suites, options.seconds, time.perf_counter() - started), options.devices)
    if options.json:
        print(json.dumps(plan, indent=1))
    else:
        show(plan)


def as_json(test: "PlannedTest", devices: int) -> dict[str, Any]:
    """The plan as plain values; seconds include the start unless they belong to a term or a suite."""
    plan, start = test.plan, test.plan.startup
    alone, together = test.on(1), test.on(devices)
    low, high = plan.interval
    fixed = start + sum(term.cost.seconds for term in plan.checks)
    return {
        "device": test.device,
        "images": test.images,
        "batch_size": test.batch_size,
        "seconds": alone,
        "interval": [start + low, start + high],
        "startup_seconds": start,
        "evaluations": plan.cost.evaluations,
        "peak_bytes": plan.cost.peak_bytes,
        "terms": [_term(term) for term in plan.terms],
        "checks": [_term(term) for term in plan.checks],
        "devices": {
            "number": devices,
            "seconds": together,
            "busy": (alone - fixed) / max(1e-9, (together - fixed) * devices),
        },
        "suites": [
            {
                "name": one.name,
                "images": one.images,
                "seconds": sum(term.cost.seconds for term in one.terms),
                "evaluations": sum(term.cost.evaluations for term in one.terms),
                "at_most": not all(term.exact for term in one.terms),
            }
            for one in test.suites
        ],
        "extrapolated": plan.extrapolated,
        "measurement_seconds": test.seconds,
    }


def _term(term: "Term") -> dict[str, Any]:
    return {
        "name": term.name,
        "images": term.images,
        "seconds": term.cost.seconds,
        "interval": [term.low, term.high],
        "evaluations": term.cost.evaluations,
        "basis": term.basis,
    }


def show(plan: Mapping[str, Any]) -> None:
    """Print a plan as tables."""
    console = Terminal()
    low, high = plan["interval"]
    console.print(
        f"{plan['images']} images in batches of {plan['batch_size']} on {escape(plan['device'])}: "
        f"[bold]{duration(plan['seconds'])}[/] (95 %: {duration(low)} to {duration(high)}), of which "
        f"{duration(plan['startup_seconds'])} to start; [bold]{number(plan['evaluations'])}[/] network evaluations; "
        f"memory {plan['peak_bytes'] / 2**30:.1f} GiB",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for title, side in (
        ("term", "left"),
        ("time", "right"),
        ("share", "right"),
        ("evaluations", "right"),
        ("basis", "left"),
    ):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    rows = sorted([*plan["checks"], *plan["terms"]], key=lambda row: -row["seconds"])
    total = sum(row["seconds"] for row in rows) or 1.0
    for row in rows[:LARGEST]:
        share = f"{row['seconds'] / total:.0%}"
        table.add_row(escape(row["name"]), duration(row["seconds"]), share, number(row["evaluations"]), row["basis"])
    console.print(table, highlight=False)
    if rows[LARGEST:]:
        rest = rows[LARGEST:]
        console.print(f"and {len(rest)} smaller ones, {duration(sum(row['seconds'] for row in rest))}", highlight=False)
    if (devices := plan["devices"])["number"] > 1:
        console.print(
            f"on {devices['number']} such devices: [bold]{duration(devices['seconds'])}[/], each busy "
            f"{devices['busy']:.0%} of the time with images",
            highlight=False,
        )
    if plan["suites"]:
        console.print(
            "the suites against this defence: "
            + "; ".join(
                f"[bold]{one['name']}[/] {'at most ' if one['at_most'] else ''}{duration(one['seconds'])}, "
                f"{number(one['evaluations'])} evaluations ({one['images']} images)"
                for one in plan["suites"]
            ),
            highlight=False,
        )
    if plan["extrapolated"]:
        console.print("A purification was measured with 2 and 4 of its steps.", highlight=False)


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, with two or three digits."""
    for unit, size in (("days", 2 * 86400.0), ("hours", 5400.0), ("min", 90.0)):
        if seconds >= size:
            value = seconds / {"days": 86400.0, "hours": 3600.0, "min": 60.0}[unit]
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{seconds:.1f} s"


def number(count: float) -> str:
    """An integer below a million, else a power of ten: ``1.25e+07``."""
    return f"{count:,.0f}" if count < 1e6 else f"{count:.3g}"


def _alive() -> float:
    """Seconds since this process began, where it runs this command and the system tells; else 0."""
    if sys.argv[1:2] != ["plan"]:
        return 0.0
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return up - ticks / os.sysconf("SC_CLK_TCK")
