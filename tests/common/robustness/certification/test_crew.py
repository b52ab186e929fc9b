"""Ranks that help with the samples of others' images: the counts of one process, in any order of the slices."""

import threading
import time
from functools import partial

import pytest
import torch
from torch import nn

from common.engine.meter import Meter
from common.noise import Noise
from common.robustness import Classifier, Sequential, Smoothing
from common.robustness.certification import crew as module
from common.robustness.certification.crew import Crew, crew_of, helped
from common.robustness.padding import Padded
from common.tasks.engine import EngineOfTest


class Board:
    """Numbers and texts of threads."""

    def __init__(self):
        self.values, self.lock = {}, threading.Lock()

    def add(self, name, amount):
        with self.lock:
            self.values[name] = self.values.get(name, 0) + amount
            return self.values[name]

    def put(self, name, content):
        with self.lock:
            self.values[name] = content

    def get(self, name):
        return self.values.get(name)

    def remove(self, *names):
        with self.lock:
            for name in names:
                self.values.pop(name, None)


class Slow(Classifier):
    """Linear, and random: its own noise moves the logits. ``seconds`` per call."""

    randomised = True

    def __init__(self, seconds=0.0, limit=10**9):
        super().__init__()
        self.linear, self.seconds, self.seen = nn.Linear(4, 3, bias=False), seconds, 0
        self.limit = limit  # rows for which there is memory
        with torch.no_grad():
            self.linear.weight.copy_(torch.arange(12.0).sin().view(3, 4))

    def forward(self, image, noise=None):
        time.sleep(self.seconds)
        if len(image) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        self.seen += len(image)
        return self.linear(image.flatten(1)) + noise.stream("own").normal(0, (3,))


def wrapped(subject):
    return isinstance(subject, Padded)


IMAGES = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
NOISE = Noise.of(3, torch.tensor([5, 9]))


@pytest.fixture
def shared(monkeypatch):
    """Function: what ``act(smoothing, classifier)`` returns while two other ranks help; and what each rank has seen."""
    monkeypatch.setattr(module, "WORTH", 0.0)
    monkeypatch.setattr(module, "LEAST", 8)
    monkeypatch.setattr(module, "POLL", 0.002)

    def run(smoothing, act, subjects=None):
        board, subjects = Board(), subjects or [Slow(0.002) for _ in range(3)]
        crews = [Crew(board, "test", 3, subject, [smoothing]) for subject in subjects]
        for crew in crews:
            engine = EngineOfTest(None)
            crew.fitted = partial(engine.fitted, name="a slice", classifier=crew.classifier)
        helpers = [threading.Thread(target=crew.help) for crew in crews[1:]]
        for helper in helpers:
            helper.start()
        while crews[0].idle < 2:
            time.sleep(0.001)
        with helped(crews[0]):
            result = act(smoothing, subjects[0])
        crews[0].leave()
        for helper in helpers:
            helper.join(timeout=20)
        assert not any(helper.is_alive() for helper in helpers)
        return result, [(subject.classifier if wrapped(subject) else subject).seen for subject in subjects], board

    return run


@pytest.mark.parametrize("batch_size", [7, 40, 1024])
def test_counts_of_a_crew_are_those_of_one_process(shared, batch_size):
    """Of two images, samples 10 .. 309, whose last slice and round are not full."""
    smoothing = Smoothing(0.5, n=300, num_classes=3, batch_size=batch_size)
    expected = smoothing.counts(Slow(), IMAGES, NOISE, 300, start=10)
    found, seen, board = shared(smoothing, lambda own, subject: own.counts(subject, IMAGES, NOISE, 300, start=10))
    assert torch.equal(found, expected) and expected.sum(1).tolist() == [300, 300]
    assert sum(seen) == 600 and sum(seen[1:]) > 0
    assert len(expected.unique()) > 3
    assert not [name for name, value in board.values.items() if isinstance(value, bytes) and len(value) > 100]


def test_a_helper_reads_a_round_once():
    """However many of its slices it takes: the images of an attack are megabytes."""
    smoothing, board, read = Smoothing(0.5, n=200, num_classes=3), Board(), []
    owner, helper = (Crew(board, "test", 2, Slow(), [smoothing]) for _ in range(2))
    owners = torch.arange(2).repeat_interleave(20)
    name = owner._open(module.Samples.of([smoothing], smoothing, IMAGES, owners, NOISE.draws(20), 8))
    get = board.get
    board.get = lambda key: read.append(key) or get(key)
    while helper._take(name):
        pass
    assert read == [name] and len([key for key in board.values if key.startswith(f"{name} ")]) == 5 + 1
    assert not helper._round


def test_certificates_of_a_crew_are_those_of_one_process(shared):
    smoothing = Sequential(0.5, n0=40, n=600, alpha=0.1, num_classes=3, batch_size=16, targets=[0.05, 0.2], first=60)
    expected = smoothing.certify(Slow(), IMAGES, NOISE)
    certificates, seen, _ = shared(smoothing, lambda own, subject: own.certify(subject, IMAGES, NOISE))
    assert certificates == expected
    assert sum(seen[1:]) > 0


def test_evaluations_of_helpers_count(shared):
    smoothing = Smoothing(0.5, n=300, num_classes=3, batch_size=16)

    def act(own, subject):
        with Meter(subject) as meter:
            own.counts(subject, IMAGES, NOISE, 300)
        return meter.cost(1)["evaluations"]

    evaluations, seen, _ = shared(smoothing, act)
    assert evaluations == sum(seen) == 600


def test_a_crew_helps_its_own_certifier_and_classifier_alone():
    """Others are not known to the ranks: a copy might be another one."""
    smoothing, subject = Smoothing(0.5, num_classes=3), Slow()
    crew = Crew(Board(), "test", 2, subject, [smoothing])
    with helped(crew):
        assert crew_of(smoothing, subject) is crew
        assert crew_of(Smoothing(0.5, num_classes=3), subject) is None
        assert crew_of(smoothing, Slow()) is None
    assert crew_of(smoothing, subject) is None


def test_fast_samples_are_not_shared():
    crew = Crew(Board(), "test", 2, Slow(), [])
    Crew(crew._board, "test", 2, Slow(), []).leave()
    assert crew.idle == 1 and not crew.helps(10**6)  # before it is known what they take
    crew.learn(100, 1.0)
    assert crew.helps(50) and not crew.helps(49)


def test_shared_samples_tell_nothing_of_the_pace_of_one_rank(monkeypatch):
    """With eight helpers they take a ninth of the time, and the next stage would not be worth sharing."""
    smoothing, subject = Smoothing(0.5, n=200, num_classes=3), Slow()
    crew, clock, counted = Crew(Board(), "test", 9, subject, [smoothing]), [0.0], []
    monkeypatch.setattr("common.robustness.certification.smoothing.time.monotonic", lambda: clock[0])
    crew._board.add("test idle", 8)

    def count(counter, image, owner, rows):
        clock[0] += len(owner) * 0.01 / 9
        counted.append(len(owner))
        return torch.zeros(2, 3, dtype=torch.int64), len(owner)

    crew.count = count
    crew.learn(100, 1.0)
    with helped(crew):
        for _ in range(3):
            smoothing.counts(subject, IMAGES, NOISE, 100)
    assert counted == [200] * 3


def test_an_owner_ends_when_a_helper_is_gone(monkeypatch):
    """It has taken a slice, and will never answer."""
    smoothing, subject = Smoothing(0.5, n=200, num_classes=3), Slow()
    board = Board()
    crew = Crew(board, "test", 2, subject, [smoothing])
    monkeypatch.setattr(module, "WORTH", 0.0)
    board.add("test idle", 1)
    add = board.add
    board.add = lambda name, amount: add(name, amount - 1 if name.endswith("left") and amount < 0 else amount)
    calls = []

    def alive():
        calls.append(1)
        if len(calls) > 3:
            raise SystemExit(3)

    crew.alive = alive
    with helped(crew), pytest.raises(SystemExit):
        smoothing.counts(subject, IMAGES, NOISE, 200)


@pytest.mark.filterwarnings("ignore:memory ran out")
@pytest.mark.parametrize(("limits", "counted"), [
    ((10**9, 16, 10**9), (True, True, True)),  # rows of rank 0, which certifies, and of two others that help
    ((16, 10**9, 10**9), (True, True, True)),
    ((10**9, 8, 8), (True, False, False)),  # less than the smallest call
])  # fmt: skip
def test_a_rank_without_memory_halves_its_calls_or_hands_samples_back(shared, limits, counted):
    """The counts are those of one process, and all ranks go on."""
    smoothing = Smoothing(0.5, n=300, num_classes=3, batch_size=40)
    expected = smoothing.counts(Slow(), IMAGES, NOISE, 300)
    subjects = [Padded(Slow(0.002, limit)) for limit in limits]

    def act(own, subject):
        with Meter(subject) as meter:
            return own.counts(subject, IMAGES, NOISE, 300), meter

    (found, meter), seen, _ = shared(smoothing, act, subjects)
    assert torch.equal(found, expected)
    assert [rows > 0 for rows in seen] == [*counted]
    assert meter.cost(1)["evaluations"] >= 600


def test_a_round_that_fails_leaves_nothing_behind():
    """One helper is in the middle of a slice, another has taken one and not yet read the content."""
    smoothing, board = Smoothing(0.5, n=200, num_classes=3), Board()
    owner, busy, late = (Crew(board, "test", 2, Slow(), [smoothing]) for _ in range(3))
    owners = torch.arange(2).repeat_interleave(20)
    call = module.Samples.of([smoothing], smoothing, IMAGES, owners, NOISE.draws(20), 8)
    names = []

    def part(classifier, number, own=call.part):
        if classifier is not owner.classifier:
            return own(classifier, number)
        (name,) = {key.split()[1] for key in board.values if key.endswith(" left")}
        names.append(f"test {name}")
        assert busy._take(names[0])  # an answer that nobody reads
        raise torch.OutOfMemoryError("out of memory")

    call.part = part
    with pytest.raises(torch.OutOfMemoryError):
        owner.results(call)
    assert not [value for value in board.values.values() if isinstance(value, bytes) and len(value) > 100]
    assert not late._take(names[0])
    assert late._published(names[0]) is None  # it had taken a slice before
    busy._publish(names[0], 3, {"evaluations": 1})
    assert f"{names[0]} 3" not in board.values


def test_other_errors_of_a_helper_are_its_own():
    class Broken(Slow):
        def forward(self, image, noise=None):
            raise RuntimeError("shapes do not match")

    smoothing, board = Smoothing(0.5, n=200, num_classes=3), Board()
    owner, helper = (Crew(board, "test", 2, subject, [smoothing]) for subject in (Slow(), Padded(Broken())))
    call = module.Samples.of(
        [smoothing], smoothing, IMAGES, torch.tensor([0, 0, 1]), NOISE.rows(torch.tensor([0, 0, 1])), 8
    )
    name = owner._open(call)
    with pytest.raises(RuntimeError, match="shapes"):
        helper._take(name)
