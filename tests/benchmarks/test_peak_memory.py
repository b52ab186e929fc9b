"""Peak memory of a recomputed gradient beside that of one evaluation with its backward pass; Linux alone."""

import multiprocessing
import threading
import time
from pathlib import Path

import pytest
import torch

from common.engine.engine import Engine
from common.experiments.benchmarks.subject import Subject, part

pytestmark = pytest.mark.bench
STATUS = Path("/proc/self/statm")
STEPS = 8


def _resident() -> int:
    return int(STATUS.read_text().split()[1]) * 4096


def _peak(work) -> int:
    """Most resident memory while ``work`` runs, in bytes."""
    peak, ended = [_resident()], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            peak[0] = max(peak[0], _resident())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    ended.set()
    thread.join()
    return peak[0]


def _measured(queue, batch: int) -> None:
    torch.set_num_threads(1)
    subject = Subject.of("small", batch, Engine(), torch.device("cpu"))
    purifier = part("DiffPure", denoiser=subject.denoiser, t_star=0.1, steps=STEPS, gradient="checkpoint")
    sigma = torch.full((batch,), 0.3)

    def gradient(function) -> None:
        leaf = subject.image.clone().requires_grad_()
        torch.autograd.grad(function(leaf).square().sum(), leaf)

    start = _resident()
    one = _peak(lambda: gradient(lambda x: subject.denoiser(x, sigma))) - start
    all_steps = _peak(lambda: gradient(lambda x: purifier(x, subject.noise))) - start
    queue.put((one, all_steps, STEPS * subject.image.numel() * 4))


@pytest.mark.skipif(not STATUS.exists(), reason="no /proc")
def test_a_recomputed_gradient_takes_the_memory_of_one_step():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measured, args=(queue, 64))
    process.start()
    one, all_steps, states = queue.get(timeout=300)
    process.join()
    print(f"\none evaluation {one / 1e6:.0f} MB, {STEPS} steps {all_steps / 1e6:.0f} MB, states {states / 1e6:.0f} MB")
    assert all_steps <= 1.25 * one + states
