"""End of a command by an error or a signal: one line, of the first rank for all, and the exit status."""

import os
import sys
import time
from signal import SIGINT, SIGUSR1

from common.commands.errors import DEBUG, WIDTH, concise, text_of
from common.processes import interrupts
from common.processes.interrupts import INTERRUPTS, Interrupted, RankLost
from common.processes.ranks import CURRENT, Ranks
from common.processes.slurm import requeued

ELSEWHERE = {"MisconfigurationException", "StageError", "DistNetworkError", "DistStoreError", "DistBackendError"}
"""Expected errors of modules that are not imported here."""
RESUMED = ("test", "predict", "tour", "study")  # commands that keep what is finished
GLOO = "gloo/transport"  # in the message of a broken connection
DIED = 3  # exit status where another process of the run has died
NEWS = 2.0  # seconds in which the death of a rank is known, after the error that it causes in a collective


def exit_status(error: BaseException) -> int | str | None:
    """Exit status of a command that an error or a signal ended; its line is printed. Unexpected errors are raised.

    128 plus the number of a signal; 2 for an error of any rank; 3 if another rank has died or its connection broke.
    """
    ranks, signum = CURRENT.ranks, SIGINT if isinstance(error, KeyboardInterrupt) else INTERRUPTS.received
    if os.environ.get(DEBUG) and not isinstance(error, SystemExit):
        raise error
    if signum is not None:  # whatever was raised since
        if ranks is not None:
            ranks.leave()
        if ranks is None or ranks.rank == 0:
            requeue = requeued() if signum == SIGUSR1 and not INTERRUPTS.finished else ""
            print(f"interrupted{progress()}{requeue}", file=sys.stderr)
        return Interrupted(signum).code
    if ranks is not None and not (isinstance(error, SystemExit) and not error.code):
        _leave(ranks, error)
    if lost := (error if isinstance(error, RankLost) else INTERRUPTS.lost):
        return lost.code
    if isinstance(error, SystemExit):
        return error.code
    if type(error).__name__ in ("ProcessExitedException", "ProcessRaisedException"):  # of a launcher that forks
        return _of_forked(error)
    if isinstance(error, RuntimeError) and GLOO in str(error):  # also before the ranks know of each other
        show_lost("the connection to another rank broke: it has died or does not answer")
        return DIED
    if not isinstance(error, Exception) or not is_expected(error):
        raise error
    show(text_of(error, command()))
    return 2


def is_expected(error: Exception) -> bool:
    """True for errors whose message is for the user: of files, values, the trainer, stages, connections of ranks."""
    return isinstance(error, OSError | ValueError) or type(error).__name__ in ELSEWHERE


def command() -> str:
    """Name of the command on the command line."""
    return "".join(sys.argv[1:2]) or "the command"


def progress() -> str:
    """The progress of the command and the way to go on, as far as they are known."""
    if INTERRUPTS.finished:
        return " at its end; all of it was done"
    try:
        known = INTERRUPTS.progress()
    except (OSError, ValueError):  # of records that cannot be read
        known = ""
    return known or (": the same command goes on" if is_resumed() else "")


def is_resumed() -> bool:
    """True of a command that goes on where it was ended."""
    return any(name in RESUMED for name in sys.argv[1:2])


def show_lost(reason: str) -> None:
    """Print the death of a rank."""
    show(f"{reason}; {'the same command' if is_resumed() else '--ckpt_path last'} goes on")


def requeue_overdue() -> None:
    """Requeue the job, on the first rank, with a row in hand a minute after SIGUSR1; SLURM ends it by SIGTERM then."""
    ranks = CURRENT.ranks
    if (ranks is None or ranks.rank == 0) and (line := requeued()):
        print(f"the row in hand takes longer than {interrupts.PATIENCE:.0f} s{line}", file=sys.stderr, flush=True)


def _leave(ranks: Ranks, error: BaseException) -> None:
    """Leave the other ranks, by an error or the death of one of them, which breaks a collective before it is known."""
    deadline = time.monotonic() + (0 if isinstance(error, Exception) and is_expected(error) else NEWS)
    while INTERRUPTS.lost is None and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks.leave("" if INTERRUPTS.lost else described(error))


def described(error: BaseException) -> str:
    """An error in a line for the first rank, which shows it."""
    return (
        text_of(error, command())
        if isinstance(error, Exception) and is_expected(error)
        else f"{type(error).__name__}: {error}"
    )


def show(message: str) -> None:
    """Print an error in at most five lines."""
    width = min(WIDTH, os.get_terminal_size(2).columns) if sys.stderr.isatty() else WIDTH
    colour = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{colour[0]}error:{colour[1]} {concise(message, width - len('error: '))}", file=sys.stderr)


def _of_forked(error: BaseException) -> int:
    """Status of the process that forked the ranks: that of the first rank to end."""
    status = int(getattr(error, "exit_code", 2))
    if status > 128:
        print(f"interrupted{progress()}", file=sys.stderr)
        return status
    rank, lines = getattr(error, "error_index", "?"), str(error).strip().splitlines()
    died = status < 0 or status == DIED
    show(f"a rank has died ({lines[-1]}){progress()}" if died else f"rank {rank}: {lines[-1]}")
    return DIED if died else 2
