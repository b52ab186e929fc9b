"""Signals: a command ends after the row in hand, with one line and exit status 128 plus the signal's number.

Python runs a handler only between two instructions of the main thread. A signal that comes while the main thread is in
a long call, such as a collective of ranks, is therefore also read by a second thread, which ends the process after
``GRACE`` seconds.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

GRACE = 20.0
"""Seconds until a process that does not end by itself is ended; one that writes a checkpoint is left alone."""
EARLY_GRACE = 10.0
"""The same where no row or step is in hand, such as a process that waits for the others to start."""
LOST_GRACE = 3.0
"""The same where another rank has died: its launcher ends the others within seconds, without a line."""
PATIENCE = 60.0
"""Seconds from a `PATIENT` signal to `Interrupts.overdue`: the row in hand takes too long for the queue."""
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
PATIENT = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Signals that a scheduler sends well before the end: the row in hand is finished however long it takes."""


class Interrupted(SystemExit):
    """End of a command by the signal ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class RankLost(SystemExit):
    """End of a command since another rank has died (exit status 3) or ended with an error (2)."""

    def __init__(self, reason: str, status: int, shown: bool = True) -> None:
        super().__init__(status)
        self.reason, self.shown = reason, shown  # the first rank shows it for all


class Interrupts:
    """The signals of this process: the first one ``received``, and when it ends the command.

    A signal raises `Interrupted` at once, except while it is deferred (`defer`): then the next `check` raises it.
    ``progress`` tells how far the command came, such as "after 6 of 48 images", and how to go on.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.lost: RankLost | None = None
        self.finished = False  # the command had done all of its work
        self.progress: Callable[[], str] = str
        self.show: Callable[[str], None] = print  # the death of a rank, as soon as it is noticed
        self.overdue: Callable[[], None] = lambda: None
        self.forward: Callable[[int], None] = lambda signum: None  # to the other ranks
        self._deferred = self._patient = False
        self._raised = False
        self._since = 0.0  # time of the first signal
        self._earlier: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Context manager of a command: handle signals, except those that the parent had ignored, as ``nohup`` does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.received, self.lost, self.progress, self.forward = None, None, str, lambda signum: None
        self._deferred = self._patient = self._raised = self.finished = False
        self._earlier = {s: signal.getsignal(s) for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
        try:
            self.install()
            yield
        finally:
            self._close()
            for signum, handler in self._earlier.items():
                signal.signal(signum, handler)
            self._earlier = {}

    @property
    def active(self) -> bool:
        """True inside of `handled`, thus on the command line."""
        return bool(self._earlier)

    def install(self) -> None:
        """Install the handlers of `handled`, also over others and in a forked process; nothing outside of it."""
        for signum in self._earlier:
            signal.signal(signum, self._handle)
        if self.active and self._pipe is None:
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(self._pipe[0],), daemon=True, name="signals").start()

    def defer(self) -> None:
        """From now on a signal waits for the next `check`; a second interrupt from the keyboard does not."""
        self._deferred = self.active

    def check(self) -> None:
        """Raise `Interrupted` if a signal was received, `RankLost` if another rank is gone."""
        if self.lost is not None:
            raise self.lost
        if self.received is not None:
            raise Interrupted(self.received)

    def check_alive(self) -> None:
        """Raise `RankLost` if another rank is gone."""
        if self.lost is not None:
            raise self.lost

    def finish(self) -> None:
        """After all work of the command: raise `Interrupted` if a signal came too late to leave any of it."""
        if self.received is not None:
            self.finished = True
            raise Interrupted(self.received)

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Context manager: the process is not ended here, as while it writes a checkpoint or waits for its children."""
        earlier, self._patient = self._patient, True
        try:
            yield
        finally:
            self._patient = earlier

    def lose(self, lost: RankLost) -> None:
        """From any thread: end this process since another rank is gone, after the row in hand if that is soon."""
        if self.lost is not None:
            return
        self.lost = lost
        if self.active:
            if lost.shown:
                self.show(lost.reason)
            self._end_after(LOST_GRACE, lost.code)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again = self.received == signal.SIGINT == signum and time.monotonic() > self._since + 1
        if self.received is None:
            self.received, self._since = signum, time.monotonic()
        if again or not (self._deferred or self._raised):  # one exception is enough: what follows is the way out
            self._raised = True
            raise Interrupted(self.received)
        if sys.stderr.isatty() and signum == signal.SIGINT:
            print("\nfinishing what is in hand; Ctrl-C again ends at once", file=sys.stderr)

    def _watch(self, pipe: int) -> None:
        """Read signals as they come, and end the process when it does not end by itself."""
        forwarded = ending = waiting = False
        while data := os.read(pipe, 1):
            if (signum := data[0]) not in SIGNALS:
                continue
            if not forwarded:
                forwarded = True
                self.forward(signum)
            if signum in PATIENT and not waiting:
                waiting = True
                threading.Thread(target=self._after_patience, daemon=True, name="patience").start()
            if signum not in PATIENT and not ending:
                ending = True
                grace = GRACE if self._deferred else EARLY_GRACE
                self._end_after(grace, 128 + (self.received or signum), "interrupted\n")
        os.close(pipe)

    def _after_patience(self) -> None:
        time.sleep(PATIENCE)
        while self._patient:  # a job that is requeued now would be ended while it writes
            time.sleep(0.1)
        self.overdue()

    def _end_after(self, grace: float, status: Any, line: str = "") -> None:
        """End the process with a line, unless it ends by itself within ``grace`` seconds."""

        def end() -> None:
            deadline = time.monotonic() + grace
            while time.monotonic() < deadline or self._patient:
                time.sleep(0.1)
            with suppress(OSError):
                os.write(2, line.encode())
            os._exit(status)

        threading.Thread(target=end, daemon=True, name="grace").start()

    def _close(self) -> None:
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe[1])  # ends the thread that reads
            self._pipe = None

    def forked(self) -> None:
        """In a forked process: forget the parent's signals and its pipe, whose reading thread stayed behind."""
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            for end in self._pipe:
                os.close(end)
        self._pipe = self.received = self.lost = None
        self._deferred = self._patient = self._raised = False


INTERRUPTS = Interrupts()
"""Of this process, which has one set of signal handlers."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=INTERRUPTS.forked)
