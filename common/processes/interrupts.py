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
"""Seconds until a process that does not end by itself is ended; a process that writes a checkpoint is left alone."""
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
PATIENT = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Signals that a scheduler sends well before the end: the row in hand is finished however long it takes."""


class Interrupted(SystemExit):
    """End of a command by the signal ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Interrupts:
    """The signals of this process: the first one ``received``, and when it ends the command.

    A signal raises `Interrupted` at once, except while it is deferred (`defer`): then the next `check` raises it.
    ``progress`` tells how far the command came, such as "after 6 of 48 images", and how to go on.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.progress: Callable[[], str] = str
        self.forward: Callable[[int], None] = lambda signum: None  # to the other ranks
        self._deferred = self._writing = False
        self._earlier: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Context manager of a command: handle signals, except those that the parent had ignored, as ``nohup`` does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.received, self.progress, self.forward = None, str, lambda signum: None
        self._deferred = self._writing = False
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
        """Raise `Interrupted` if a signal was received."""
        if self.received is not None:
            raise Interrupted(self.received)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Context manager: what is written here is written completely, however long it takes."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again = self.received == signal.SIGINT == signum
        self.received = signum if self.received is None else self.received
        if again or not self._deferred:
            self._deferred = True  # one exception is enough: what follows is the way out
            raise Interrupted(self.received)
        if sys.stderr.isatty() and signum == signal.SIGINT:
            print("\nfinishing what is in hand; Ctrl-C again ends at once", file=sys.stderr)

    def _watch(self, pipe: int) -> None:
        """Read signals as they come, and end the process when it does not end by itself."""
        forwarded = ending = False
        while data := os.read(pipe, 1):
            if (signum := data[0]) not in SIGNALS:
                continue
            if not forwarded:
                forwarded = True
                self.forward(signum)
            if signum not in PATIENT and not ending:
                ending = True
                threading.Thread(target=self._end, args=(signum,), daemon=True, name="grace").start()
        os.close(pipe)

    def _end(self, signum: int) -> None:
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline or self._writing:
            time.sleep(0.2)
        with suppress(OSError):
            os.write(2, b"interrupted\n")
        os._exit(128 + (self.received or signum))

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
        self._pipe, self.received, self._deferred, self._writing = None, None, False, False


INTERRUPTS = Interrupts()
"""Of this process, which has one set of signal handlers."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=INTERRUPTS.forked)
