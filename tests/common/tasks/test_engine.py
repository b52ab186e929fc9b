"""The engine of a test: recorded in the fingerprint, the same predictions, smaller calls where memory runs out."""

import json

import lightning as L
import pytest
import torch
import yaml

import cli
from common.engine.engine import Engine
from common.engine.memory import budget_in_bytes
from common.noise import Noise
from common.records.notes import Notes, keeping
from common.robustness.attacks.diffattack import DiffAttack
from common.robustness.attacks.diffhammer import DiffHammer
from common.robustness.attacks.pgd import PGD
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.clean_and_certified import Clean
from common.robustness.padding import Padded, whole_batches
from common.robustness.threats.norm_ball import ThreatModel
from common.tasks.engine import EngineOfTest
from common.tasks.robust import RobustTask
from tests.common.engine.test_engine import classifier as ndc
from tests.defences import SIDE, batch, diffpure, head

CPU = torch.device("cpu")


@pytest.fixture
def with_engine(tiny_test):
    """Writer of the small DiffPure test with an engine."""

    def write(engine, **changes):
        path = tiny_test(**changes)
        config = yaml.safe_load(path.read_text())
        config["model"]["init_args"]["engine"] = engine
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def test_an_engine_of_a_test(with_engine, tiny_test, rows, tmp_path):
    """bf16 throughout: named in the header, refused to another precision, decisions those of float32 but for few."""
    cli.main(["test", "-c", str(tiny_test(records=tmp_path / "exact"))])
    half = with_engine({"precision": "bf16", "batch_size": 32}, records=tmp_path / "half")
    cli.main(["test", "-c", str(half)])
    header = json.loads((tmp_path / "half" / "records.jsonl").read_text().splitlines()[0])
    assert '"precision": "bf16"' in json.dumps(header)
    pairs = [
        (a["clean_predictions"] == b["clean_predictions"])
        for a, b in zip(rows(tmp_path / "exact"), rows(tmp_path / "half"), strict=True)
        if "clean_predictions" in a
    ]
    assert len(pairs) == 13 and sum(pairs) >= 11
    with pytest.raises(ValueError, match=r"Changed: engine\.precision: 'bf16' -> None"):
        cli.main(["test", "-c", str(with_engine({"precision": "32"}, records=tmp_path / "half"))])


def test_what_changes_the_speed_alone_resumes(with_engine, tiny_test, rows, tmp_path):
    cli.main(["test", "-c", str(tiny_test(records=tmp_path / "run"))])
    before = rows(tmp_path / "run")
    cli.main(["test", "-c", str(with_engine({"batch_size": 16, "memory": 0}, records=tmp_path / "run"))])
    assert rows(tmp_path / "run") == before


class Limited(torch.nn.Module):
    """A classifier on a device with memory for so many rows, of forward passes with a gradient."""

    def __init__(self, inside, limit):
        super().__init__()
        self.inside, self.limit, self.seen = inside, limit, []

    def forward(self, x, *others):
        self.seen.append(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("out of memory")
        return self.inside(x, *others)


def attacked():
    return Attacked(PGD(steps=2, eot=8), threat=ThreatModel("inf", 0.1), draws=2)


def test_half_as_many_rows_where_memory_runs_out():
    """Eight draws of eight images are 64 rows: 32, then 16 suffice; the adversarial images are those of one call."""
    expected = attacked()(Padded(diffpure().freeze()), batch(8))
    defence = diffpure()
    defence.classifier.network = limited = Limited(defence.classifier.network, 16)
    classifier, running = Padded(defence.freeze()), EngineOfTest(None)
    running.start(classifier, CPU)
    with pytest.warns(UserWarning, match="goes on with 16 rows per call, without kept graphs"):
        rows = running.evaluate(attacked(), classifier, batch(8))
    running.stop()
    assert classifier.at_once == 16 and max(limited.seen[-20:]) == 16
    assert [row.predictions for row in rows] == [row.predictions for row in expected]
    assert [row.distance for row in rows] == pytest.approx([row.distance for row in expected], abs=1e-6)


def test_a_repeated_evaluation_finds_the_notes_of_its_first_turn(tmp_path):
    """An attack asks for the same key at its start; after memory ran out it is again the first turn."""
    notes, turns = Notes(tmp_path, "fingerprint", attacked().source, [7]), []

    class Attack:
        name = "attack"

        def __call__(self, classifier, batch):
            turns.append(notes.turn(7, "iterates"))
            if len(turns) < 3:
                raise torch.OutOfMemoryError("out of memory")
            return []

    classifier = Padded(head().freeze())
    classifier(*batch(64)[:1])
    with keeping(notes), pytest.warns(UserWarning, match="memory ran out"):
        EngineOfTest(None).evaluate(Attack(), classifier, batch(64))
    assert turns == ["iterates 1"] * 3


def test_kept_graphs_have_the_share_of_this_process(monkeypatch):
    """A test on three processes of one machine, which Lightning has started without a launcher."""
    monkeypatch.setattr("common.engine.memory.free_bytes", lambda device, processes: 6000 // processes)
    monkeypatch.setattr(L.Trainer, "num_devices", property(lambda self: 3))
    task, budgets = RobustTask(head(), [Clean()], verify="off", masking=0), []
    task.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    task.setup("test")

    class Looking:
        name = "looking"

        def __call__(self, classifier, batch):
            budgets.append(budget_in_bytes(CPU))
            return []

    task.engine.evaluate(Looking(), task.classifier, batch(2))
    task.engine.stop()
    assert budgets == [1000]


def test_memory_for_less_than_the_smallest_call_is_an_error():
    defence = head()
    defence.network = Limited(defence.network, 8)
    with pytest.raises(torch.OutOfMemoryError):
        EngineOfTest(None).evaluate(attacked(), Padded(defence.freeze()), batch(8))


def test_other_errors_are_not_repeated():
    defence = head()

    def fails(*inputs):
        calls.append(1)
        raise RuntimeError("shapes do not match")

    calls = []
    defence.network.forward = fails
    with pytest.raises(RuntimeError, match="shapes"):
        EngineOfTest(None).evaluate(attacked(), Padded(defence.freeze()), batch(8))
    assert len(calls) == 1


def test_calls_of_few_rows_give_logits_and_gradient_of_one_call():
    image, _, index = batch(50)
    results = []
    for size in (None, 16):
        classifier = Padded(diffpure().freeze())
        classifier.at_once = size
        leaf = image.clone().requires_grad_()
        logits = classifier(leaf, Noise.of(0, index))
        results += [logits.detach(), *torch.autograd.grad(logits.square().sum(), leaf)]
    torch.testing.assert_close(results[:2], results[2:], rtol=1e-5, atol=1e-6)


def test_states_of_whole_batches_are_collected():
    classifier = Padded(diffpure().freeze())
    classifier.at_once = 16
    image, _, index = batch(40)
    with whole_batches(), classifier.classifier.purifier.recorded() as trajectories:
        classifier(image.requires_grad_(), Noise.of(0, index))
    assert [tuple(one.states[0][1].shape) for one in trajectories] == [(40, 1, SIDE, SIDE)]


def test_an_engine_is_given_to_parts_with_their_own():
    own = ndc(engine=Engine(batch_size=3))
    with Engine("bf16", batch_size=64).applied(own):
        assert (own.engine.precision, own.engine.batch_size) == ("bf16", 64)
    assert own.engine == Engine(batch_size=3)


@pytest.mark.parametrize("attack", [DiffAttack(PGD(steps=1, eot=2)), DiffHammer(PGD(steps=1, eot=2), graft=True)])
def test_attacks_that_look_inside_get_whole_batches(attack):
    """Twenty images with two draws are 40 rows, beyond the engine's 16."""
    results = []
    for size in (None, 16):
        classifier = Padded(diffpure().freeze())
        classifier.at_once = size
        evaluator = Attacked(attack, threat=ThreatModel("inf", 0.1), draws=1)
        results.append([row.predictions for row in evaluator(classifier, batch(20))])
    assert results[0] == results[1]


def test_scripted_networks_are_refused_and_left_as_they_are():
    defence = head()
    defence.network = torch.jit.trace(defence.network, torch.rand(2, 1, SIDE, SIDE))
    with pytest.raises(ValueError, match="TorchScript"), Engine("bf16").applied(defence):
        pass
    defence(batch(2)[0])


def test_an_engine_of_a_part_is_resolved_on_the_device(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    own, running = ndc(engine=Engine("auto")), EngineOfTest(None)
    running.start(Padded(own), CPU)
    assert own.engine.precision == "bf16"
    running.stop()
    assert own.engine.precision == "auto"


def test_the_resolved_precision_identifies_a_run():
    identities = []
    for engine in (None, Engine(), Engine("tf32", batch_size=3), Engine("16"), Engine(compile=True)):
        running = EngineOfTest(engine)
        running.start(Padded(head()), CPU)
        identities.append(running.identity)
        running.stop()
    assert identities == [{}, {}, {}, {"precision": "16"}, {}]  # of compilation what was decided: test_compilation.py


@pytest.mark.parametrize("own", [False, True])
def test_ranks_take_the_precision_of_rank_0(monkeypatch, own):
    """On machines of two kinds; the one without units for it says so."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    classifier, running = ndc(engine=Engine("auto")) if own else head(), EngineOfTest(None if own else Engine("auto"))
    with pytest.warns(UserWarning, match="process .* takes the precision of rank 0, bf16: this CPU has no units"):
        running.start(Padded(classifier), CPU, broadcast=lambda precisions: ["bf16"] * len(precisions))
    assert (classifier.engine if own else running.used).precision == "bf16"
    running.stop()
    running.start(Padded(classifier), CPU)
    assert (classifier.engine if own else running.used).precision == "32"
    running.stop()
