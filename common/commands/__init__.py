"""Commands beside Lightning's own, one file each: ``COMMANDS[name]`` runs one on the arguments after its name."""

from collections.abc import Callable, Sequence

from common.commands import convert, fetch, report, study, tour

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "report": report.run,
    "fetch": fetch.run,
    "convert": convert.run,
    "tour": tour.run,
    "study": study.run,
}
