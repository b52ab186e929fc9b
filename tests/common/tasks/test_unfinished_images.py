"""Images that a kill leaves unfinished: the next start counts what is missing, and writes the same row."""

import json
import os
import signal

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from common.data.datasets import ImageDataset
from common.noise import Noise
from common.records import notes as module
from common.records.notes import Notes, current_notes, keeping, noted
from common.records.rows import sealed
from common.records.schema import Source
from common.records.store import Records
from common.robustness import PGD, Attacked, Certified, Classifier, Sequential, Smoothing, ThreatModel
from common.tasks.recording import RecordedSuite
from common.tasks.robust import RobustTask

IMAGES = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
SMOOTHING = {
    "fixed": Smoothing(0.5, n0=20, n=400, alpha=0.1, num_classes=3, batch_size=50),
    "sequential": Sequential(0.5, n0=20, n=400, alpha=0.1, num_classes=3, batch_size=50, targets=[0.05, 0.3], first=40),
}


class Counting(Classifier):
    """Linear, near its decision boundary; it counts its rows, and dies before the ``last`` of them."""

    not_identifying = frozenset({"rows", "last", "clock"})
    clock = 0.0

    def __init__(self, last=None):
        super().__init__()
        self.linear = nn.Linear(4, 3, bias=False)
        self.rows, self.last = 0, last
        with torch.no_grad():
            self.linear.weight.copy_(torch.arange(12.0).sin().view(3, 4))

    def forward(self, image, noise=None):
        self.rows += len(image)
        Counting.clock += len(image) / 1024  # seconds, in the test of costs
        if self.last is not None and self.rows >= self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.linear(image.flatten(1))


def run(path, classifier, subject, images=1):
    """Rows of a test, in ``path``, and how many images the classifier saw in it."""
    data = Subset(ImageDataset(IMAGES, torch.tensor([0, 1, 2])), range(images))
    evaluator = Certified(subject) if isinstance(subject, Smoothing) else subject
    task = RobustTask(classifier, [evaluator], str(path), masking=0, verify="off")
    task.show = lambda: None
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(**options, inference_mode=False, enable_model_summary=False)
    trainer.test(task, torch.utils.data.DataLoader(data, 3), verbose=False)
    return Records.read(path), classifier.rows


def killed(path, last, smoothing, images=1):
    """Run the test in another process, which dies in its ``last`` row."""
    if (child := os.fork()) == 0:
        try:
            run(path, Counting(last), smoothing, images)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("name", SMOOTHING)
def test_a_killed_certification_goes_on_within_its_image(tmp_path, monkeypatch, name):
    """The second start draws the samples that the first has not counted, and those of its last batch."""
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    expected, total = run(tmp_path / "straight", Counting(), SMOOTHING[name])
    (row,) = expected
    assert 0 < row.count < row.samples
    killed(tmp_path / "killed", total - 60, SMOOTHING[name])
    assert noted(tmp_path / "killed") == {0}
    rows, seen = run(tmp_path / "killed", Counting(), SMOOTHING[name])
    assert rows == expected
    checks = total - SMOOTHING[name].n0 - row.samples  # of the preconditions; and a batch is filled up to 16 rows
    assert checks < seen <= checks + 60 + SMOOTHING[name].batch_size + 16
    assert not noted(tmp_path / "killed")


def test_images_of_a_batch_are_resumed_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    smoothing = SMOOTHING["sequential"]
    expected, total = run(tmp_path / "straight", Counting(), smoothing, images=3)
    monkeypatch.setattr("common.tasks.portions.Portions.of", lambda self, batch: [batch])
    killed(tmp_path / "killed", total - 100, smoothing, images=3)
    monkeypatch.undo()
    assert noted(tmp_path / "killed") == {0, 1, 2}
    assert run(tmp_path / "killed", Counting(), smoothing, images=3)[0] == expected
    assert len({row.count for row in expected}) == 3


@pytest.mark.parametrize("name", SMOOTHING)
def test_notes_of_other_code_are_not_taken_over(tmp_path, monkeypatch, name):
    """Before the first row, nothing else tells that a file of the code has changed."""
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    _, total = run(tmp_path / "straight", Counting(), SMOOTHING[name])
    killed(tmp_path / "killed", total - 60, SMOOTHING[name])
    monkeypatch.setattr("common.tasks.recording.code_checksum", lambda: "of other code")
    rows, seen = run(tmp_path / "killed", Counting(), SMOOTHING[name])
    assert seen == total and len(rows) == 1
    assert not noted(tmp_path / "killed")


def test_stale_notes_are_removed_at_the_end(tmp_path):
    """Of an image with a row, and of evaluations that the test does not have; other jobs may need those of image 2."""
    sources = [(Source("certified"), 0), (Source("certified"), 2), (Source("certified", 1), 2), (Source("gone"), 2)]
    names = [f"notes-{module._name(source)}-{index}.json" for source, index in sources]
    tmp_path.joinpath("run").mkdir()
    for name in (*names, "notes-of-mine.json"):
        tmp_path.joinpath("run", name).touch()
    run(tmp_path / "run", Counting(), SMOOTHING["fixed"], images=1)
    assert {file.name for file in (tmp_path / "run").glob("notes*")} == {names[1], "notes-of-mine.json"}


@pytest.mark.parametrize("places", [[], ["classifier.rule is a lambda"]])
def test_parts_that_cannot_be_determined_have_no_notes(tmp_path, places):
    """The next start may be of another defence, whose fingerprint is the same."""
    records = Records(tmp_path, "print", {"undetermined": places} if places else {})
    suite = RecordedSuite([], records, {}, [], None)
    with suite.keeping(Source("certified"), torch.tensor([4])):
        assert (current_notes() is None) is bool(places)
    assert current_notes() is None


ATTACKED = Attacked(PGD(steps=4, restarts=6), threat=ThreatModel("inf", 0.01), draws=1)


@pytest.mark.parametrize("subject", [*SMOOTHING.values(), ATTACKED], ids=[*SMOOTHING, "attack"])
def test_a_resumed_image_costs_what_an_uninterrupted_one_does(tmp_path, monkeypatch, subject):
    """Killed twice; what a process did after its last note is done again and counts once."""
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    monkeypatch.setattr("common.engine.meter.time.perf_counter", lambda: Counting.clock)
    monkeypatch.setattr("common.engine.meter.peak_bytes", lambda: 4096)
    monkeypatch.setattr("common.robustness.noted_cost.peak_bytes", lambda: 8192)
    (expected,), total = run(tmp_path / "straight", Counting(), subject)
    for _ in range(2):
        killed(tmp_path / "killed", 0.45 * total, subject)
    (row,), rest = run(tmp_path / "killed", Counting(), subject)
    assert row == expected and rest < 0.6 * total
    assert row.cost.evaluations == pytest.approx(expected.cost.evaluations, rel=1e-5)
    assert row.cost.seconds == pytest.approx(expected.cost.seconds, rel=1e-5)
    assert row.cost.seconds == pytest.approx(row.cost.evaluations / 1024, rel=1e-5)
    assert expected.cost.peak_bytes == 4096 and row.cost.peak_bytes == 8192  # the most of all processes


def in_hand(path, index=4, fingerprint="print"):
    return Notes(path, fingerprint, Source("certified"), [index])


def test_notes_are_read_by_the_same_run_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    notes = in_hand(tmp_path)
    notes.put(4, "a", [1, 2])
    notes.put(5, "a", "not in hand")
    notes.save()
    (file,) = tmp_path.iterdir()
    assert in_hand(tmp_path).get(4, "a") == [1, 2] and in_hand(tmp_path).get(5, "a") is None
    assert in_hand(tmp_path, fingerprint="other").get(4, "a") is None
    assert Notes(tmp_path, "print", Source("certified", 1), [4]).get(4, "a") is None
    for content in (file.read_bytes().replace(b"[1, 2]", b"[1, 3]"), b"", b"[]", sealed(json.dumps({"index": 4}))):
        file.write_bytes(content)
        assert in_hand(tmp_path).get(4, "a") is None
    notes.remove()
    assert not noted(tmp_path)


def test_notes_wait_for_their_interval(tmp_path):
    """Images that take seconds have none."""
    notes = in_hand(tmp_path)
    notes.put(4, "a", 1)
    notes.save()
    assert not noted(tmp_path)


@pytest.mark.parametrize("cost", [None, [1.0, 2.0], [1.0, -2.0, 0], [1.0, "2", 0], [float("inf"), 2.0, 0]])
def test_counts_of_unknown_cost_are_drawn_anew(tmp_path, cost):
    """They would make their image look cheap."""
    smoothing, noise, notes = SMOOTHING["fixed"], Noise.of(0, torch.tensor([4])), in_hand(tmp_path)
    with keeping(notes):
        expected = smoothing.counts(Counting(), IMAGES[:1], noise, 400)
        (key,) = notes._values[4]
        fresh, subject = in_hand(tmp_path), Counting()
        fresh.put(4, key, {"counts": [1, 2, 3], "cost": cost})
        with keeping(fresh):
            assert torch.equal(smoothing.counts(subject, IMAGES[:1], noise, 400), expected)
    assert subject.rows == 400


@pytest.mark.parametrize("known", [[200, 300, -100], [200, 200, 1], [400, 0], [True, 0, 0], "400", None])
def test_impossible_counts_are_drawn_anew(tmp_path, monkeypatch, known):
    """As of an edited file, or of another number of classes."""
    smoothing, image, noise = SMOOTHING["fixed"], IMAGES[:1], Noise.of(0, torch.tensor([4]))
    expected = smoothing.counts(Counting(), image, noise, 400)
    notes = in_hand(tmp_path)
    with keeping(notes):
        assert torch.equal(smoothing.counts(Counting(), image, noise, 400), expected)
        (key,) = notes._values[4]
        fresh = in_hand(tmp_path)
        fresh.put(4, key, {"counts": known, "cost": [0.0, 0.0, 0]})
        with keeping(fresh):
            assert torch.equal(smoothing.counts(Counting(), image, noise, 400), expected)


def test_the_same_samples_of_another_image_are_counted_again(tmp_path):
    """A certifier may count around several points under the same noise."""
    smoothing, noise = SMOOTHING["fixed"], Noise.of(0, torch.tensor([4]))
    expected = [smoothing.counts(Counting(), image[None], noise, 400) for image in (IMAGES[0], 1 - IMAGES[0])]
    assert not torch.equal(*expected)
    with keeping(in_hand(tmp_path)):
        for image, counts in zip((IMAGES[0], 1 - IMAGES[0]), expected, strict=True):
            assert torch.equal(smoothing.counts(Counting(), image[None], noise, 400), counts)
