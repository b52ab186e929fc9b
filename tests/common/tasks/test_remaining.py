"""Progress of a test: images over all ranks, and the time that the others will take."""

import time

import pytest

from common.processes.counters import Counters
from common.processes.ranks import CURRENT
from common.tasks.remaining import Remaining, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (150, "2 min"), (3600, "1 h 00 min"), (7500, "2 h 05 min"), (273_600, "3 d 4 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_images_that_had_rows_do_not_count(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    remaining = Remaining(4, {1, 2, 3, 5})
    assert remaining.text == "0 of 4 images"
    clock[0] += 60
    remaining.add([0, 1])
    assert remaining.text == "1 of 4 images, 3 min left"
    remaining.add([2, 3, 4, 5])
    assert remaining.text == "4 of 4 images"


def test_ranks_count_together(monkeypatch):
    """Two ranks on one store; another test has a count of its own."""
    port = []
    first = Counters(0, "127.0.0.1", port.append)
    second = Counters(1, "127.0.0.1", lambda nothing: port[0])
    counts = []
    for counters in (first, second):
        monkeypatch.setattr(CURRENT, "counters", counters)
        counts.append(Remaining(10, session="one"))
    counts[0].add([0, 1, 2])
    counts[1].add([7])
    assert [one.done for one in counts] == [4, 4]
    monkeypatch.setattr(CURRENT, "counters", first)
    assert Remaining(10, session="two").done == 0
    assert [first.add("shares", 1), second.add("shares", 1), first.read("shares")] == [1, 2, 2]
