"""Command line: finds the command, runs it, and prints errors in at most five lines.

Nothing heavy is imported before a command needs it: the overview, help pages and lists take no torch.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from common.commands import COMMANDS, LIGHTNING
from common.commands.class_pages import class_page
from common.commands.ending import exit_status, is_expected, requeue_overdue, show_lost
from common.commands.errors import UsageError
from common.commands.overview import help_page, overview
from common.commands.parsing import with_files
from common.naming.nearest import did_you_mean
from common.naming.outside_text import accept_any_text
from common.processes.family import end_with_parent
from common.processes.interrupts import INTERRUPTS
from common.processes.streams import open_streams

HELP = ("-h", "--help")
__all__ = ["is_expected", "main", "run", "run_lightning"]


def run(arguments: Sequence[str]) -> None:
    """Run one command."""
    name, *rest = arguments or HELP
    if name == "help" and rest:
        run([rest[0], "--help", *rest[1:]])
    elif name in (*HELP, "help"):
        print(overview())
    elif name == "--version":
        print(version("robust-diffusion"))
    elif name not in COMMANDS:
        raise UsageError(
            f"there is no command {name!r}.{did_you_mean(name, COMMANDS)}\n"
            f"The commands are {', '.join(COMMANDS)}; robust-diffusion --help describes them."
        )
    elif name not in LIGHTNING:
        COMMANDS[name].run(rest)
    elif asked := [argument for argument in rest if argument in HELP]:
        named = rest[rest.index(asked[0]) + 1 :][:1]
        print(class_page(named[0]) if named else help_page(name))
    else:
        run_lightning(name, rest)


def run_lightning(name: str, arguments: Sequence[str]) -> None:
    """Run one of Lightning's commands, which takes seconds to import, once its files are found."""
    known = with_files(arguments)
    from common.commands.lightning_commands import run_lightning

    run_lightning(name, known)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command; ``args`` as on the command line, without the program's name.

    Called from Python, errors are raised. On the command line an error is printed in at most five lines, with exit
    status 2. A signal ends the command after the row in hand, in one line, with exit status 128 plus its number, also
    one that came too late to leave any of the work.
    ``ROBUST_DIFFUSION_DEBUG=1`` prints the traceback.
    """
    if args is not None:
        run(args)
        return
    sys.path.append("")  # the user's classes in the working directory
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        accept_any_text(stream)
    end_with_parent()
    INTERRUPTS.show, INTERRUPTS.overdue = show_lost, requeue_overdue
    with INTERRUPTS.handled():
        try:
            run(sys.argv[1:])
            INTERRUPTS.finish()
        except BrokenPipeError:  # of `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except BaseException as error:
            sys.exit(exit_status(error))


if __name__ == "__main__":
    main()
