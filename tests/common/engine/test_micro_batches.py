"""Micro-batches: all rows in order, and a search for the call size that settles on the cheapest."""

import math

import pytest
import torch

from common.engine.micro_batches import MicroBatches, SizeSearch


def mapped(micro_batches, function, count, x):
    parts = []
    for call in micro_batches.calls(count, x):
        with call as rows:
            parts.append(function(rows))
    return torch.cat(parts)


@pytest.mark.parametrize(("size", "count"), [(1, 5), (4, 9), (7, 7), (100, 5), ("auto", 1000)])
def test_micro_batches_cover_all_rows_in_order(size, count):
    sizes = []
    x = torch.arange(float(count))

    def square(rows):
        sizes.append(rows.stop - rows.start)
        return x[rows] ** 2

    with torch.no_grad():
        assert torch.equal(mapped(MicroBatches(size), square, count, x), x**2)
    assert sum(sizes) == count
    if size != "auto":
        assert max(sizes) <= size
        assert set(sizes[:-1]) <= {size}
        assert len(sizes) == math.ceil(count / size)


def settled_size(cost, **settings):
    """The settled size, and all sizes tried, if a row of a call of n rows takes ``cost(n)``."""
    search, tried = SizeSearch(**settings), []
    while not search.settled:
        tried.append(search.size)
        search.observe(cost(search.size))
    return search.size, tried


def test_the_size_doubles_as_long_as_rows_get_cheaper():
    size, tried = settled_size(lambda rows: 1 + 50 / rows)
    assert size == 2048  # 1024 saves 4.4 % of the 512's time, 2048 6.7 %; then 4096 saves 1.2 % and 8192 1.8 %
    assert tried == [n for n in (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) for _ in range(3)]
    assert settled_size(lambda rows: 1 / rows, largest=512)[0] == 512
    assert settled_size(lambda rows: rows)[0] == 32
    assert settled_size(lambda rows: {64: 1.1, 128: 0.5}.get(rows, 1.0))[0] == 128  # one bad size is no end


def test_the_fastest_of_each_sizes_trials_counts():
    times = iter([1.0, 9.0, 9.0, 9.0, 0.5, 0.6, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    assert settled_size(lambda rows: next(times))[0] == 64


def limited(limit, sizes):
    """A function of rows that runs out of memory beyond ``limit`` of them."""

    def function(rows):
        sizes.append(rows.stop - rows.start)
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("too many rows")
        return torch.arange(rows.start, rows.stop)

    return function


@pytest.mark.parametrize(("limit", "failures"), [(1, 5), (20, 1), (100, 1)])
def test_it_backs_off_when_memory_runs_out(limit, failures, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(
        "common.engine.micro_batches._now", lambda device: float(next(clock))
    )  # every call takes as long
    sizes, calls, x = [], MicroBatches("auto"), torch.zeros(1)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(mapped(calls, limited(limit, sizes), 3000, x), torch.arange(3000))
        assert limit / 2 < calls.size(x) <= limit
    assert sum(rows > limit for rows in sizes) == failures
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        mapped(calls, limited(0, []), 10, x)
    with pytest.raises(torch.OutOfMemoryError):
        mapped(MicroBatches(50), limited(40, []), 100, x)  # a configured size is not changed
