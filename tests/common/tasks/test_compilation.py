"""Compiled networks of a test: rank 0 decides once, and other ranks, starts and jobs take its choice."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from common.data.datasets import ImageDataset
from common.engine.engine import Engine
from common.noise import Noise
from common.processes.ranks import CURRENT
from common.robustness import PGD, Attacked, Clean, ThreatModel
from common.robustness.padding import Padded
from common.tasks.compilation import COMPILED, keep_choices, known_choices, settle
from common.tasks.engine import EngineOfTest
from tests.common.engine.test_engine import classifier as ndc
from tests.defences import SIDE, diffpure

CPU = torch.device("cpu")
EVALUATORS = (Clean(), Attacked(PGD(steps=1), threat=ThreatModel("inf", 0.1)))
IMAGES = ImageDataset(torch.rand(5, 1, SIDE, SIDE), torch.arange(5) % 3)
PLACES = {"classifier.network", "purifier.denoiser.network"}


@pytest.fixture
def compiler(monkeypatch):
    """Stand-in for a compiler: other bits, fast (or as fast as the test sets) without a gradient, slow with one."""
    state = SimpleNamespace(speed={False: 2.0, True: 0.5}, timed=0, fails=False)

    def compile(forward, dynamic):
        def compiled(*inputs, **named):
            if state.fails:
                raise RuntimeError("no compiler")
            return forward(*inputs, **named) * (1 + 1e-6)

        state.compiled = compiled
        return compiled

    def seconds(way, inputs, named, gradient):
        state.timed += 1
        return 1.0 / state.speed[gradient] if way.__name__ == "compiled" else 1.0

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr("common.engine.compiled._seconds", seconds)
    return state


def started(folder, rank=0, sent=None, evaluators=EVALUATORS, images=IMAGES, size=5):
    """The engine of a rank, the classifier and the choices that rank 0 sends."""
    texts = {} if rank == 0 else {"compiled session": json.dumps(sent).encode()}
    looks = []

    def look(name):
        looks.append(name)
        return texts.get(name) if len(looks) > 2 else None  # it polls, and takes part in no collective

    strategy = SimpleNamespace(root_device=CPU)
    loader = DataLoader(images, size) if images is not None else None
    trainer = SimpleNamespace(test_dataloaders=loader, is_global_zero=rank == 0, strategy=strategy, world_size=2)
    classifier, running = Padded(diffpure().freeze()), EngineOfTest(Engine(compile=True))
    running.start(classifier, CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CURRENT, "counters", SimpleNamespace(put=texts.__setitem__, get=look))
        settle(running, classifier, evaluators, folder, trainer, "session")
    classifier.running = running  # it ends with its last reference
    return running, classifier, json.loads(texts["compiled session"])


@pytest.mark.filterwarnings("ignore:compile. ")
def test_all_ranks_and_starts_take_the_choice_of_the_first(tmp_path, compiler):
    """Here each rank alone, and another start, would have chosen otherwise."""
    first, classifier, sent = started(tmp_path)
    assert {*sent} == PLACES and all(choice == {"forward": True, "gradient": False} for choice in sent.values())
    assert first.identity == {"compile": "classifier.network (forward); purifier.denoiser.network (forward)"}
    assert json.loads((tmp_path / COMPILED).read_text()) == sent
    image, index = torch.rand(5, 1, SIDE, SIDE), torch.arange(5)
    logits = classifier(image, Noise.of(0, index))
    compiler.speed, timed = {False: 0.5, True: 2.0}, compiler.timed
    for rank in (1, 0):
        running, again, _ = started(tmp_path, rank, sent)
        with torch.no_grad():
            assert torch.equal(again(image, Noise.of(0, index)), logits)
        again(image.requires_grad_(), Noise.of(0, index))
        assert running.identity == first.identity
        image = image.detach()
    assert compiler.timed == timed


@pytest.mark.filterwarnings("ignore:compile. ")
def test_without_attacks_no_gradient_is_timed(tmp_path, compiler):
    _, classifier, sent = started(tmp_path, evaluators=(Clean(),))
    assert [{*choice} for choice in sent.values()] == [{"forward"}] * 2
    timed = compiler.timed
    classifier(torch.rand(5, 1, SIDE, SIDE).requires_grad_(), Noise.of(0, torch.arange(5)))  # eager, not timed now
    assert compiler.timed == timed


@pytest.mark.filterwarnings("ignore:compile. ")
def test_a_rank_that_cannot_run_the_choice_says_so(tmp_path, compiler):
    _, _, sent = started(tmp_path)
    _, classifier, _ = started(tmp_path, 1, sent)
    compiler.fails = True
    with pytest.raises(ValueError, match=r"runs compiled in this test.*fails so on this machine.*no compiler"):
        classifier(torch.rand(5, 1, SIDE, SIDE), Noise.of(0, torch.arange(5)))


@pytest.mark.filterwarnings("ignore:compile. ")
def test_nothing_faster_identifies_nothing(tmp_path, compiler):
    compiler.speed = {False: 0.5, True: 0.5}
    running, _, _ = started(tmp_path)
    assert running.identity == {}
    running, _, _ = started(tmp_path / "empty", images=[])
    assert running.identity == {}


def test_networks_that_are_not_compiled_are_not_timed(tmp_path):
    running = EngineOfTest(Engine())
    settle(running, Padded(ndc()), (Clean(),), tmp_path, None, "session")
    assert running.identity == {} and not list(tmp_path.iterdir())


def test_a_job_that_is_slower_takes_the_choice_of_the_other(tmp_path):
    one, other = ({"network": {"forward": taken}} for taken in (True, False))
    assert keep_choices(tmp_path / COMPILED, one) == one
    assert keep_choices(tmp_path / COMPILED, other) == one


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"network": {"forward": 1}}', '{"network": {"back": true}}',
                                     '{"other": {"forward": true}}', '{"network": []}'])  # fmt: skip
def test_other_files_are_no_choice(tmp_path, content):
    (tmp_path / COMPILED).write_text(content)
    assert known_choices(tmp_path / COMPILED, ["network"]) == {}


@pytest.mark.filterwarnings("ignore:compile. ", "ignore:memory ran out")
def test_a_trial_without_memory_leaves_the_engine_as_it_was(tmp_path, compiler, monkeypatch):
    """Its gradient of a whole batch may be more than any attack needs."""
    forward, most = Padded._padded, []

    def limited(self, image, noise):
        most.append(len(image))
        if len(image) > 20:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, image, noise)

    monkeypatch.setattr(Padded, "_padded", limited)
    images = ImageDataset(torch.rand(40, 1, SIDE, SIDE), torch.arange(40) % 3)
    running, classifier, _ = started(tmp_path, images=images, size=40)
    assert max(most) == 40 and min(most) == 20
    assert classifier.at_once == running.used.batch_size and running._memory == "auto"
    assert not classifier._recompute  # which `Padded.halve` turned on
