"""Pieces of a benchmark contain the bare pieces that they say; ratios are medians over rounds."""

from collections import Counter

import pytest
import torch

from common.commands import bench
from common.commands.errors import UsageError
from common.engine.engine import Engine
from common.experiments.benchmarks import pieces, timing
from common.experiments.benchmarks.peak import measured_peak, operations
from common.experiments.benchmarks.subject import CLASSES, Subject
from common.experiments.benchmarks.timing import Piece, interleaved

CPU = torch.device("cpu")
BATCH, STEPS = 2, 2
OF_NETWORK = (pieces.NETWORK, pieces.NETWORK_GRADIENT, pieces.TRAINING)
OF_GUIDANCE = (pieces.GUIDANCE, pieces.GUIDANCE_GRADIENT, pieces.GUIDANCE_SECOND)
OF_CLASSIFIER = (pieces.CLASSIFIER, pieces.CLASSIFIER_GRADIENT)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.of("small", BATCH, Engine(), CPU)


@pytest.mark.parametrize(
    "name",
    ["purification", "its gradient, recomputed", "its gradient, kept", "attack step with EOT", "guided purification",
     "its gradient", "guidance of a step", "training step"],
)  # fmt: skip
def test_a_piece_runs_each_network_as_often_as_it_says(subject, name):
    """Rows of the denoiser's network, of φ and of the classifier, counted by hooks."""
    (piece,) = [one for one in pieces.ours(subject, STEPS) if one.name == name]
    rows: Counter[str] = Counter()
    modules = {"network": subject.denoiser.network, "φ": subject.guidance.network, "c": subject.classifier.network}
    hooks = [
        module.register_forward_pre_hook(lambda _, x, key=key: rows.update({key: len(x[0])}))
        for key, module in modules.items()
    ]
    try:
        piece.work()
    finally:
        for hook in hooks:
            hook.remove()
    for key, contained in (("network", OF_NETWORK), ("φ", OF_GUIDANCE), ("c", OF_CLASSIFIER)):
        assert rows[key] == BATCH * sum(piece.contains.get(one, 0) for one in contained), key


def test_a_certification_contains_every_class_at_every_node(subject):
    (piece,) = [one for one in pieces.ours(subject, STEPS) if one.name == "certification"]
    assert piece.contains[pieces.NETWORK] * BATCH == pieces.SAMPLES * (pieces.NODES * CLASSES + 1)


def test_other_pieces_load_a_batch_and_start(subject, monkeypatch):
    started = []
    monkeypatch.setattr(pieces.subprocess, "run", lambda command, **_: started.append(command[-1]))
    load, start = pieces.around(subject)
    assert load.work()[0].shape == subject.image.shape
    start.work()
    assert started == ["import common.commands.lightning_commands"]


def test_ratios_are_medians_over_rounds(monkeypatch):
    """A second piece of 3, 4 and 20 times the first, of which it contains 2: medians 4 and 2; the warm-up is 100."""
    clock, durations = [0.0], iter([100.0, 3.0, 4.0, 20.0])
    monkeypatch.setattr(timing.time, "process_time", lambda: clock[0])

    def advance(seconds: float) -> None:
        clock[0] += seconds

    network = Piece("network", lambda: advance(1.0), {})
    work = Piece("work", lambda: advance(next(durations)), {"network": 2})
    first, second = interleaved([network, work], 3, CPU)
    assert (first.seconds, first.to_limit, first.to_network) == (1.0, None, 1.0)
    assert (second.seconds, second.to_limit, second.to_network) == (4.0, 2.0, 4.0)


def test_operations_of_a_piece_are_those_it_contains():
    a, b = torch.rand(8, 16), torch.rand(16, 4)
    counts = operations([Piece("product", lambda: a @ b, {})], [Piece("three", lambda: None, {"product": 3})])
    assert counts == {"product": 2 * 8 * 16 * 4, "three": 3 * 2 * 8 * 16 * 4}
    assert measured_peak(CPU, "32", side=128, repeat=2) > 1e8


def test_a_denoiser_under_mixed_precision_returns_single(subject):
    mixed = Subject.of("small", BATCH, Engine("bf16"), CPU)
    x, sigma = 2 * mixed.image, mixed.image.new_full((BATCH,), 0.3)
    seen = []
    mixed.denoiser.network.map_layer0.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    with torch.no_grad():
        assert mixed.denoiser(x, sigma).dtype == torch.float32
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "64"], "--precision must be one of 32, tf32, bf16, 16, auto; got '64'"),
        (["--device", "tpu"], "--device must be one of auto, cpu, cuda; got 'tpu'"),
        (["--network", "huge"], "--network must be one of small, medium; got 'huge'"),
        (["--repeat", "0"], "--repeat must be an integer >= 1; got 0"),
        (["--bach", "4"], "Did you mean --batch"),
    ],
)
def test_mistakes_are_answered(arguments, message):
    with pytest.raises(ValueError, match=message):
        bench.run(arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_missing_device_is_named():
    with pytest.raises(UsageError, match="torch sees no such device here"):
        bench.run(["--device", "cuda"])


def test_the_table_has_the_share_of_the_peak(capsys):
    rows = [
        {"name": "network", "seconds": 0.002, "to_limit": None, "to_network": 1.0, "share": 0.5},
        {"name": "purification", "seconds": 0.0203, "to_limit": 1.015, "to_network": 10.15, "share": 0.4926},
    ]
    bench.show({"setup": "set-up", "peak": 312e12, "peak_from": "stated for A100", "pieces": rows})
    shown = capsys.readouterr().out
    assert "purification  20.30            1.015              10.15        49.3%" in shown
    assert "peak: 312 * 10^12 operations a second, stated for A100" in shown
