"""Ranks of one run, each connected to the first: signals reach all, a death is noticed, nobody waits in a collective.

A collective waits for every rank, and gives up after the timeout of the process group. Here the first rank waits for
the others as long as they work; the connection of a process that dies is closed by its system, of a machine that dies
after half a minute without an answer.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

from common.processes.counters import Counters
from common.processes.interrupts import INTERRUPTS, RankLost

CONNECT = 15.0  # seconds for all ranks to connect, which have just taken part in a broadcast
LEAVE = 30.0  # seconds that ranks wait for each other after a signal or an error
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Ranks:
    """The other ranks of this run, seen from ``rank``; messages are lines of JSON.

    All ranks construct it at the same place: ``broadcast`` sends an object of rank 0 to all, ``address`` is the host of
    rank 0. Raises ``ValueError`` if a rank does not connect.
    """

    def __init__(self, rank: int, world: int, address: str, broadcast: Callable[[Any], Any]) -> None:
        self.rank = rank
        self._names: dict[int, str] = {}
        self._finished: set[int] = set()
        self._left: set[int] = set()
        self._gone: set[int] = set()
        self._connections: dict[int, socket.socket] = {}
        self._changed, self._sending = threading.Condition(), threading.Lock()
        if rank == 0:
            self._listen(world, broadcast)
        else:
            port, token = broadcast(None)
            connection = socket.create_connection((address, port), CONNECT)
            connection.settimeout(None)
            self._add(0, connection, "rank 0")
            self._send(0, hello=token, rank=rank, name=_name(rank))
            self._names[0] = f"rank 0 (on {address})"
        INTERRUPTS.forward = lambda signum: self._send_all(signal=signum)

    def finish(self) -> None:
        """At the end of the work: the first rank returns when all have finished, the others at once.

        Raises `Interrupted` or `RankLost` if it comes to that in the meantime.
        """
        if self.rank:
            self._finished.add(0)
            self._send(0, finished=True)
            return
        with self._changed:
            while set(self._connections) - self._finished:  # one that has gone before raises RankLost
                self._changed.wait(0.2)
                INTERRUPTS.check()

    def leave(self, error: str = "") -> None:
        """Before the process ends by a signal or an error, which rank 0 shows: the first rank ends first.

        A launcher ends all of them, without a line, soon after one of the others.
        """
        self._send_all(left=error)
        with self._changed:
            self._changed.wait_for(self._may_end, LEAVE)

    def _may_end(self) -> bool:
        if self.rank:
            return 0 in self._gone
        return not set(self._connections) - self._left - self._finished - self._gone

    def close(self) -> None:
        """Close this process's ends of the connections."""
        for connection in self._connections.values():
            os.close(connection.detach())
        self._connections = {}

    def _listen(self, world: int, broadcast: Callable[[Any], Any]) -> None:
        token = uuid4().hex
        with socket.create_server(("", 0), backlog=world) as server:
            broadcast((server.getsockname()[1], token))
            deadline = time.monotonic() + CONNECT
            while len(self._connections) < world - 1:
                server.settimeout(max(0.1, deadline - time.monotonic()))
                try:
                    connection, _ = server.accept()
                    connection.settimeout(5)
                    first = json.loads(connection.makefile("rb").readline(4096))
                    if first["hello"] == token:
                        connection.settimeout(None)
                        self._add(int(first["rank"]), connection, str(first["name"]))
                except (OSError, ValueError, TypeError, KeyError) as error:  # a stranger, or nobody
                    if time.monotonic() > deadline:
                        missing = sorted(set(range(1, world)) - set(self._connections))
                        raise ValueError(f"ranks {missing} did not connect to rank 0 within {CONNECT:.0f} s") from error

    def _add(self, rank: int, connection: socket.socket, name: str) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._connections[rank], self._names[rank] = connection, name
        threading.Thread(target=self._read, args=(rank, connection), daemon=True, name=f"rank {rank}").start()

    def _read(self, rank: int, connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            for line in connection.makefile("rb"):
                self._receive(rank, json.loads(line))
        with self._changed:
            known = rank in self._finished | self._left
            self._gone.add(rank)
            self._changed.notify_all()
        if not known:
            self._lose(f"{self._names[rank]} has died", 3)

    def _receive(self, rank: int, message: dict[str, Any]) -> None:
        if "signal" in message and INTERRUPTS.received is None and INTERRUPTS.active:
            os.kill(os.getpid(), int(message["signal"]))
        with self._changed:
            if "finished" in message:
                self._finished.add(rank)
            if "left" in message:
                self._left.add(rank)
            self._changed.notify_all()
        if message.get("left"):
            self._lose(f"rank {rank}: {message['left']}", 2)
        if "lost" in message:
            INTERRUPTS.lose(RankLost(message["lost"], message["status"], shown=False))

    def _lose(self, reason: str, status: int) -> None:
        self._send_all(lost=reason, status=status)
        INTERRUPTS.lose(RankLost(reason, status))

    def _send_all(self, **message: Any) -> None:
        for rank in [*self._connections]:
            self._send(rank, **message)

    def _send(self, to: int, **message: Any) -> None:
        with suppress(OSError, KeyError), self._sending:
            self._connections[to].sendall(json.dumps(message).encode() + b"\n")


class _Current:
    """The ranks of this process's last ``run`` with several of them."""

    ranks: Ranks | None = None
    counters: Counters | None = None
    run: object = None

    def close_fork(self) -> None:
        """In a forked process, such as a loader of images: leave the connections to the parent."""
        if self.ranks is not None:
            self.ranks.close()
            self.ranks = None


CURRENT = _Current()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CURRENT.close_fork)


def _name(rank: int) -> str:
    return f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"
