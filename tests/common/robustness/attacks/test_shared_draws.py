"""Ranks without images take draws of others' attacks: the results of one process, in any order of the slices."""

import threading
import time
from functools import partial

import pytest
import torch

from common.engine.memory import budget_in_bytes
from common.engine.meter import Meter
from common.noise import Noise
from common.robustness import APGD, PGD, Classifier, ThreatModel
from common.robustness.attacks.draws import Draws
from common.robustness.attacks.eot import EOTLoss
from common.robustness.certification import crew as module
from common.robustness.certification.crew import Crew, helped
from common.robustness.losses import margin, targeted_margin
from common.robustness.padding import Padded, whole_batches
from common.tasks.engine import EngineOfTest
from tests.common.robustness.certification.test_crew import Board
from tests.defences import batch, diffpure

IMAGE, LABEL, INDEX = batch(2)
NOISE, THREAT = Noise.of(3, INDEX), ThreatModel("inf", 0.1)


class Defence(Classifier):
    """DiffPure that counts its calls; memory runs out in calls of more than ``limit`` rows, but the first ``free``."""

    randomised = True

    def __init__(self, limit=10**9, free=0, wait=0.0):
        super().__init__()
        self.inner, self.calls, self.limit, self.free, self.wait = diffpure(steps=2), 0, limit, free, wait

    def forward(self, image, noise=None):
        time.sleep(self.wait)
        if len(image) > self.limit and self.calls >= self.free:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.calls += 1
        return self.inner(image, noise)


@pytest.fixture
def shared(monkeypatch):
    """Function: what ``act(classifier)`` returns while two other ranks help, and the calls of each rank."""
    monkeypatch.setattr(module, "WORTH", 0.0)
    monkeypatch.setattr(module, "POLL", 0.002)

    def run(act, subjects):
        board = Board()
        crews = [Crew(board, "test", 3, one, [], Draws.read) for one in subjects]
        for crew in crews:
            engine = EngineOfTest(None)
            crew.fitted = partial(engine.fitted, name="a slice", classifier=crew.classifier)
        helpers = [threading.Thread(target=crew.help, daemon=True) for crew in crews[1:]]
        for helper in helpers:
            helper.start()
        while crews[0].idle < 2:
            time.sleep(0.001)
        with helped(crews[0]):
            result = act(subjects[0])
        crews[0].leave()
        for helper in helpers:
            helper.join(timeout=20)
        assert not any(helper.is_alive() for helper in helpers)
        left = [name for name, value in board.values.items() if isinstance(value, bytes) and len(value) > 100]
        assert not left
        return result, [one.classifier.calls for one in subjects]

    return run


def ranks(*defences):
    return [Padded(one, 4).freeze() for one in defences]


def attack(kind, **settings):
    return lambda classifier: kind(**settings).search(classifier, IMAGE, LABEL, THREAT, NOISE)


@pytest.mark.parametrize(
    "act",
    [
        attack(PGD, steps=3, eot=9),
        attack(PGD, steps=2, eot=9, chunk=5),
        attack(APGD, steps=2, eot=8, loss="targeted_margin"),
    ],
    ids=["PGD", "PGD in chunks", "APGD towards targets"],
)
def test_an_attack_of_a_crew_is_that_of_one_process(shared, act):
    """To the bit, with slices whose last one is not full."""
    expected = act(ranks(Defence())[0])
    found, calls = shared(act, ranks(*(Defence(wait=0.003) for _ in range(3))))
    for name, value in vars(expected).items():
        assert torch.equal(getattr(found, name), value), name
    assert min(calls) > 0


@pytest.mark.parametrize("limits", [(10**9, 2, 10**9), (10**9, 5, 2), (6, 10**9, 10**9)])
def test_memory_that_runs_out_is_survived(shared, limits):
    """A helper halves its calls or hands its slices back; the owner, whose first two calls are whole, halves too."""
    act = attack(PGD, steps=3, eot=9)
    expected = act(ranks(Defence())[0])
    found, _ = shared(act, ranks(*(Defence(limit, 2 * (rank == 0), 0.003) for rank, limit in enumerate(limits))))
    assert torch.equal(found.adv, expected.adv) and torch.equal(found.loss, expected.loss)


def test_helpers_have_the_memory_budget_of_their_engine(shared):
    """Without one they would recompute every step of their gradients."""
    budgets = []

    class Looking(Defence):
        def forward(self, image, noise=None):
            budgets.append((self, budget_in_bytes(image.device)))
            return super().forward(image, noise)

    defences = [Looking(wait=0.003) for _ in range(3)]
    shared(attack(PGD, steps=3, eot=9), ranks(*defences))
    for helper in defences[1:]:
        seen = [budget for defence, budget in budgets if defence is helper]
        assert seen and min(seen) > 0


def test_a_lost_helper_is_survived(monkeypatch):
    """It has taken a slice and never answers; the row in hand is finished alone."""
    monkeypatch.setattr(module, "WORTH", 0.0)
    board, (subject,) = Board(), ranks(Defence())
    crew = Crew(board, "test", 2, subject, [], Draws.read)
    board.add("test idle", 1)
    add, lost = board.add, []

    def stolen(name, amount):
        if name.endswith(" left") and amount < 0 and not lost:
            lost.append(add(name, amount))
        return add(name, amount)

    board.add = stolen
    crew.gone = lambda: bool(lost)
    act = attack(PGD, steps=3, eot=9)
    with helped(crew):
        found = act(subject)
    assert lost and torch.equal(found.adv, act(ranks(Defence())[0]).adv)
    assert not crew.helps(10**6, "True (1, 4, 4)")


def test_rows_of_helpers_count(shared):
    def act(classifier):
        with Meter(classifier) as meter:
            attack(PGD, steps=3, eot=8)(classifier)
        return meter.cost(1)["evaluations"]

    alone = act(ranks(Defence())[0])
    found, _ = shared(act, ranks(*(Defence(wait=0.003) for _ in range(3))))
    assert found == alone


@pytest.mark.parametrize(
    ("context", "loss", "helps"),
    [
        (lambda one: one.classifier.inner.purifier.differentiated("full"), margin, False),
        (lambda one: one.classifier.inner.purifier.recorded(), margin, False),
        (lambda one: whole_batches(), margin, False),
        (lambda one: helped(None), margin, False),
        (lambda one: torch.enable_grad(), lambda logits, label: -logits[:, 0], False),
        (lambda one: torch.enable_grad(), margin, True),
    ],
    ids=["another gradient", "recorded states", "whole batches", "no crew", "a loss without a name", "helps"],
)
def test_only_what_other_ranks_would_compute_is_shared(monkeypatch, context, loss, helps):
    monkeypatch.setattr(module, "WORTH", 0.0)
    board, (subject,) = Board(), ranks(Defence())
    crew, asked = Crew(board, "test", 2, subject, [], Draws.read), []
    board.add("test idle", 1)
    monkeypatch.setattr(crew, "results", lambda call: asked.append(call) or [call.part(subject, 0)])
    eot = EOTLoss(subject, LABEL, NOISE, 2)
    with helped(crew), context(subject):
        for stream in ("first", "second", "third", "fourth"):
            eot(IMAGE, loss, stream)
    assert bool(asked) == helps


def test_draws_are_read_as_they_were_published():
    targets = (LABEL + 1) % 3
    call = Draws(IMAGE, NOISE.stream("step").draws(3), [LABEL, targets], 3, targeted_margin, True, 4)
    read, (subject,) = Draws.read(call.content()), ranks(Defence())
    assert read.slices == call.slices == 2
    for number in range(2):
        mine, other = call.part(subject, number), read.part(subject, number)
        assert mine.keys() == {"loss", "logits", "gradient"}
        assert all(torch.equal(value, other[name]) for name, value in mine.items())
