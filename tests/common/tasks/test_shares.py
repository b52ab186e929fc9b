"""Shares of a test: each image once, hardest first, more for the rank that is free; jobs that share a folder."""

import os
import threading
import time
from itertools import count

import pytest
import torch
from torch.utils.data import Subset

import cli
from common.data.datasets import ImageDataset
from common.data.shared_loader import SharedLoader
from common.files.locking import lock, unlock
from common.records.schema import Cost
from common.records.store import Records
from common.robustness import PGD, Attack, Attacked, Certified, Clean, Smoothing
from common.robustness.gradient_check.classifier_check import GradientCheck
from common.tasks.parts import WHOLE, lock_file
from common.tasks.recording import RecordedSuite
from common.tasks.shares import least_share, share_sizes, shares, work_order
from tests.common.files.test_locking import another_process
from tests.common.records.made import clean_record
from tests.forked import fork, fork_ranks
from tests.test_invariance import exact_part
from tests.tiny_test import write_tiny_test


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory):
    """Records of the small test of 13 images, on one process."""
    folder = tmp_path_factory.mktemp("finished")
    cli.main(["test", "-c", str(write_tiny_test(weights, folder))])
    return folder / "records"


@pytest.mark.parametrize(("images", "ranks", "batch", "least"), [
    (13, 2, 7, 7), (500, 64, 64, 1), (48, 4, 64, 16), (1, 3, 8, 1), (0, 2, 8, 1), (100, 1, 7, 1),
])  # fmt: skip
def test_sizes_add_up_and_end_small(images, ranks, batch, least):
    sizes = share_sizes(images, ranks, batch, least)
    assert sum(sizes) == images and max(sizes, default=0) <= batch
    assert all(size >= least for size in sizes[:-1])
    if ranks == 1:
        assert all(size == batch for size in sizes[:-1])
    elif images > ranks * least:
        assert max(sizes) <= max(least, images / ranks / 2)  # no rank takes half of what each would have
        assert sizes == sorted(sizes, reverse=True)


def test_threads_that_claim_take_every_image_once():
    order, sizes, numbers, taken = list(range(100))[::-1], share_sizes(100, 4, 8, 1), count(), []
    claim = numbers.__next__  # one step of the interpreter
    threads = [threading.Thread(target=lambda: taken.extend([*shares(order, sizes, claim)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(image for share in taken for image in share) == list(range(100))
    assert len(taken) == len(sizes)


def test_a_loader_fetches_no_share_ahead():
    images = ImageDataset(torch.zeros(9, 1, 2, 2), torch.zeros(9, dtype=torch.int64))
    loader, claimed = SharedLoader(images, 4, 0), []
    assert [len(batch[2]) for batch in loader] == [4, 4, 1] and len(loader) == 3
    loader.shares = (claimed.append(share) or share for share in ([8, 1], [0], [5, 3, 2]))
    batches = iter(loader)
    assert next(batches)[2].tolist() == [8, 1] and claimed == [[8, 1]]
    assert [batch[2].tolist() for batch in batches] == [[0], [5, 3, 2]]


class Suite:
    """Two evaluations of images 10 .. 15, of which the first has rows, and of which one the second has all rows."""

    def __init__(self, tmp_path):
        (tmp_path / "part-1.jsonl").unlink(missing_ok=True)
        store = Records(tmp_path, "print")
        costs = {10: 5.0, 11: 70.0, 12: 1.0, 13: None, 14: 70.0}
        store.append([clean_record(index=i, cost=Cost(evaluations=cost)) for i, cost in costs.items()])
        store.close()
        self.records = Records(tmp_path, "print")

    def lacks(self, index):
        return index != 12


def test_the_dearest_images_come_first(tmp_path):
    """Of those that lack a row; those of equal cost in order. A part is every n-th image, whatever was done before."""
    images = Subset(ImageDataset(torch.zeros(20, 1, 2, 2), torch.zeros(20, dtype=torch.int64)), range(10, 16))
    suites = [Suite(tmp_path)]
    assert work_order(images, suites, (1, 1)) == [1, 4, 0, 3, 5]
    (tmp_path / f"notes-{'a' * 16}-15.json").touch()  # of an image that was in hand when a process was killed
    assert work_order(images, suites, (1, 1)) == [5, 1, 4, 0, 3]
    assert work_order(images, suites, (1, 2)) == [4, 0]
    assert work_order(images, suites, (2, 2)) == [5, 1, 3]
    assert work_order([0] * 3, suites, (1, 1)) == [0, 1, 2]  # of another class: indices are not known before loading


def test_the_least_share_wastes_nothing():
    assert least_share([Clean(), Attacked(PGD())], 16, 64) == 16
    assert least_share([Attacked(PGD())], 16, 7) == 7
    assert least_share([Clean(), Certified(Smoothing(0.25))], 16, 64) == 1
    assert (
        least_share([Attacked(PGD()), Certified(Smoothing(0.25))], 16, 64) == 16
    )  # an attack of one image fills 16 rows
    assert least_share([Clean()], 16, 64) == 16
    assert least_share([GradientCheck(), Certified(Smoothing(0.25))], 16, 64) == 1
    assert least_share([Attacked(WholeBatch()), Certified(Smoothing(0.25))], 16, 64) == 64


class WholeBatch(Attack):
    """An attack whose result for an image depends on the others."""

    by_image = False

    def __call__(self, classifier, image, label, threat, noise):
        return image


def test_the_rank_that_is_free_takes_more(tiny_test, tmp_path, rows, finished):
    """Rank 0 waits in its first image until rank 1 has done all others; the records are those of one process."""
    config = str(tiny_test(data={"batch_size": 1, "test_images": 13}))
    (tmp_path / "records").mkdir()

    def change(rank):
        from common.tasks.robust import RobustTask

        step, calls = RobustTask.test_step, []

        def slowed(self, *args):
            deadline = time.monotonic() + 40
            while rank == 0 and not calls and written(tmp_path / "records") < 24 and time.monotonic() < deadline:
                time.sleep(0.05)
            calls.append(1)
            return step(self, *args)

        RobustTask.test_step = slowed

    ranks = fork_ranks(["test", "-c", config], tmp_path, change)
    assert [one.wait() for one in ranks] == [0, 0], [one.output for one in ranks]
    assert exact_part(rows(tmp_path / "records")) == exact_part(rows(finished))
    assert [written(tmp_path / "records", rank) for rank in (0, 1)] == [2, 24]


def written(records, rank=1):
    """Number of rows that a rank has written."""
    files = records.glob(f"part-0000{rank}-*.jsonl")
    return sum(max(0, len(file.read_bytes().splitlines()) - 1) for file in files)


def test_jobs_share_a_folder(tiny_test, tmp_path, rows, finished):
    """Part 2 runs while part 1 holds its lock. Each merges what is there."""
    config, records = str(tiny_test()), tmp_path / "records"
    records.mkdir()
    with another_process(lambda: lock(records, lock_file(records, (1, 2)))):
        cli.main(["test", "-c", config, "--part", "2/2"])
    assert [row["index"] for row in rows(records)[:6]] == [row["index"] for row in rows(finished)[:13]][1::2]
    cli.main(["test", "-c", config, "--part", "1/2"])
    assert exact_part(rows(records)) == exact_part(rows(finished))
    assert not [file for file in os.listdir(records) if "lock" in file]


@pytest.mark.parametrize(("held", "wanted", "refused"), [
    ((1, 2), (2, 2), False), ((1, 2), (1, 2), True), ((1, 2), WHOLE, True), (WHOLE, (1, 2), True), (WHOLE, WHOLE, True),
    ((1, 2), (1, 3), True), ((2, 12), (1, 2), True), ((1, 2), (2, 12), True),
])  # fmt: skip
def test_two_jobs_never_test_the_same_part(tmp_path, held, wanted, refused):
    def suite():
        return RecordedSuite([], Records(tmp_path, "print"), {}, [], None)

    tmp_path.joinpath(".lock-3-of-8").touch()  # of a job that was killed
    with another_process(lambda: suite().lock(held)):
        second = suite()
        if refused:
            with pytest.raises(ValueError, match=f"{tmp_path} is being written by process .* If it has ended, delete"):
                second.lock(wanted)
            if WHOLE not in (held, wanted) and held != wanted:
                share = f"Part {wanted[0]}/{wanted[1]} shares images with its part {held[0]}-of-{held[1]}: all jobs"
                with pytest.raises(ValueError, match=share):
                    suite().lock(wanted)
        else:
            second.lock(wanted)
    second.lock(wanted) if not refused else suite().lock(wanted)
    assert lock_file(tmp_path, wanted).exists()
    unlock(tmp_path, lock_file(tmp_path, wanted))


def test_a_wrong_part_is_refused(tiny_test, tmp_path):
    run = fork(["test", "-c", str(tiny_test()), "--part", "9/8"], tmp_path / "log")
    assert run.wait() == 2 and "--part must be K/N with 1 <= K <= N, such as 2/8; got 9/8" in run.output
