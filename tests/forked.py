"""Commands in forked processes, which need not import everything again, with a change inside of the process."""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import cli

LIMIT = 300.0  # seconds until a hanging process is ended, and fails its test


@dataclass
class Forked:
    """A command as a process, the leader of a group of its own; ``log`` takes its output."""

    process: int
    log: Path

    @property
    def output(self) -> str:
        """The text that the command has printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        """True once the process has ended, also before anybody has waited for it."""
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> int:
        """Exit status as a shell shows it. Fails if the process hangs, or leaves one of its group running."""
        deadline = monotonic() + LIMIT
        while not (ended := os.waitpid(self.process, os.WNOHANG))[0]:
            if monotonic() > deadline:
                os.killpg(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                raise AssertionError(f"the command hung:\n{self.output}")
            sleep(0.01)
        code = os.waitstatus_to_exitcode(ended[1])
        self._check_alone(deadline)
        return 128 - code if code < 0 else code

    def _check_alone(self, deadline: float) -> None:
        while monotonic() < deadline:
            try:
                os.killpg(self.process, 0)
            except ProcessLookupError:
                return
            sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        raise AssertionError(f"a process of the command survived it:\n{self.output}")


def fork_ranks(arguments: list[str], folder: Path, change: Callable[[int], object] = lambda rank: None) -> list[Forked]:
    """Start a command on two ranks, as torchrun does; ``change(rank)`` runs in each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": "2"}

    def start(rank: int) -> Forked:
        def prepare() -> None:
            os.environ.update(shared, LOCAL_RANK=str(rank), RANK=str(rank))
            change(rank)

        options = ["--trainer.devices=2", "--trainer.strategy=ddp"]
        return fork([*arguments, *options], folder / f"rank{rank}.log", prepare)

    return [start(0), start(1)]


def fork(arguments: list[str], log: Path, change: Callable[[], object] = lambda: None) -> Forked:
    """Start a command as from a shell; ``change()`` runs in its process before it."""
    process = os.fork()
    if process:
        with suppress(OSError):
            os.setpgid(process, process)
        return Forked(process, log)
    code: object = 1
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
        sys.argv = ["robust-diffusion", *arguments]
        change()
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
