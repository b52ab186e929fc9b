"""Last lines of a command: the headline, and the place of the page."""

from pathlib import Path

from common.naming.terminal import Terminal
from common.report.headline import Headline, read_headline


def end_of_test(records: str | Path) -> None:
    """Print the headline of one records directory, and the command that writes its page."""
    print_ending(read_headline(records), f"All tables: robust-diffusion report {records}")


def print_ending(shown: Headline | None, where: str) -> None:
    """Print a headline, if any, and one line below it, which is never wrapped."""
    console = Terminal()
    console.print()
    if shown is not None:
        console.print(shown)
        console.print()
    console.print(where, markup=False, highlight=False, soft_wrap=True)
