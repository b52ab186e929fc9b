"""Gradient check: records, cost, restored state, and classifiers without a float64 copy."""

import threading

import pytest
import torch
from torch import nn

from common.diffusion.denoisers import EDMDenoiser
from common.noise import Noise
from common.numerics.finding import LARGEST, Finding
from common.robustness.classifiers import Classifier, NetworkClassifier, Purified
from common.robustness.gradient_check.classifier_check import GradientCheck, deterministic, failure_message
from common.robustness.gradient_check.recomputation import RecomputedCalls, forward_backward
from common.robustness.padding import Padded
from diffpure.purifier import DiffPure


class Body(nn.Module):
    """A tanh layer that depends on the noise level."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, label, class_labels=None):
        return torch.tanh(self.conv(x) + label[:, None, None, None])


def network():
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return NetworkClassifier(layers)


def diffpure(steps=3):
    torch.manual_seed(0)
    return Purified(DiffPure(EDMDenoiser(Body()), 0.1, steps=steps), network())


def batch(images=2):
    image = torch.rand(images, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return image, torch.zeros(images, dtype=torch.int64), torch.arange(images)


def names(records, passed=False):
    return {f.name for record in records for f in record.findings if f.passed == passed}


def test_records_are_independent_of_the_batch():
    classifier = diffpure().freeze()
    image, label, index = batch(3)
    together = GradientCheck()(classifier, (image, label, index))
    alone = [r for row in range(3) for r in GradientCheck()(classifier, (image[[row]], label[[row]], index[[row]]))]
    assert together == alone
    assert [r.evaluator for r in together] == ["verify"] * 3
    assert GradientCheck()(classifier, (image[:0], label[:0], index[:0])) == []


@pytest.mark.parametrize("directions", [1, 2])
def test_cost_matches_the_docstring(directions):
    """Per step 9 evaluations for gradients and repeated passes, 4 per direction; the classifier's cost is constant."""

    def evaluations(steps):
        (record,) = GradientCheck(directions=directions)(diffpure(steps).freeze(), batch(1))
        return record.cost.evaluations

    assert evaluations(16) - evaluations(8) == (9 + 4 * directions) * 8
    assert evaluations(8) - (9 + 4 * directions) * 8 <= 30


def test_padding_does_not_add_cost():
    bare, steady = (GradientCheck()(c.freeze(), batch(1))[0] for c in (diffpure(), Padded(diffpure(), 16)))
    assert steady == bare
    assert steady.cost.evaluations == bare.cost.evaluations


def test_hooks_modes_and_generators_are_restored():
    classifier = diffpure().train()
    for parameter in classifier.classifier.parameters():
        parameter.requires_grad_(True)
    state = torch.random.get_rng_state()
    hooks = [dict(module._forward_pre_hooks) for module in classifier.modules()]
    GradientCheck()(classifier, batch())
    assert torch.equal(state, torch.random.get_rng_state())
    assert classifier.training
    assert all(parameter.requires_grad for parameter in classifier.classifier.parameters())
    assert not any(module._forward_hooks for module in classifier.modules())
    assert [dict(module._forward_pre_hooks) for module in classifier.modules()] == hooks


def test_deterministic_kernels_are_switched_and_restored():
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    cudnn.benchmark = True
    try:
        with deterministic():
            assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
            assert (cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (False, "highest")
        assert cudnn.benchmark
    finally:
        cudnn.benchmark = before[1]
    after = cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    assert after == before


class Locked(Classifier):
    """A classifier that cannot be copied; ``share`` of its gradient is kept."""

    def __init__(self, share=1.0):
        super().__init__()
        self.inside, self.share, self.lock = network(), share, threading.Lock()

    def forward(self, image, noise=None):
        return self.inside(self.share * image + (1 - self.share) * image.detach())


def test_differences_are_in_float32_without_a_float64_copy():
    (record,) = GradientCheck()(Locked().freeze(), batch(1))
    assert record.verified
    assert "finite differences" in names([record], passed=True)
    assert "single precision" not in names([record], passed=True)
    (record,) = GradientCheck()(Locked(0.5).freeze(), batch(1))
    assert names([record]) == {"finite differences"}
    error = {f.name: f.error for f in record.findings}["finite differences"]
    assert 0.01 < error < 2


class SelfChecking(nn.Module):
    """A part with gradient checks; stores their arguments."""

    randomised = False

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.arguments = []

    def forward(self, image, noise):
        return self.weight * image

    def gradient_findings(self, image, noise, double):
        self.arguments.append((image, noise, double))
        return [Finding("its own", False, 0.5, "Something is wrong.")]


def test_parts_add_findings_of_their_own():
    purifier = SelfChecking()
    records = GradientCheck()(Purified(purifier, network()).freeze(), batch(1))
    ((image, noise, double),) = purifier.arguments
    assert image.shape == (1, 1, 4, 4)
    assert noise.index.tolist() == [0]
    assert double.weight.dtype == torch.float64
    assert names(records) == {"its own"}
    assert "- its own: Something is wrong. (error 0.5 at image 0)" in failure_message(records)


def test_outermost_recomputed_modules_are_compared():
    class Checkpointed(Classifier):
        def __init__(self):
            super().__init__()
            self.first, self.rest = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh()), nn.Linear(8, 3)

        def forward(self, image, noise=None):
            return self.rest(torch.utils.checkpoint.checkpoint(self.first, image, use_reentrant=False))

    classifier, calls = Checkpointed(), RecomputedCalls()
    with calls.watch(classifier):
        forward_backward(classifier, batch(1)[0], Noise.fresh(1), torch.ones_like, calls.start_backward)
    assert {"first", "first.1"} <= calls.recomputed
    assert calls.outermost() == {"first"}
    stored = RecomputedCalls()
    with stored.compare(classifier, {"first"}):
        forward_backward(classifier, batch(1)[0], Noise.fresh(1), torch.ones_like, stored.start_backward)
    assert [len(side["input of first"]) for side in (stored.forward_calls, stored.backward_calls)] == [1, 1]
    assert stored.error() == 0
    stored.backward_calls["input of first"][0][0, 0] *= 1.01  # an input that is one per cent longer
    assert stored.error() == pytest.approx(0.01 / 1.01)


def test_findings_are_finite_json():
    assert Finding("a", False, float("inf"), "b").values()["error"] == LARGEST
    assert not Finding.of("a", float("nan"), 1.0, "good", "bad").passed
    assert Finding.of("a", 0.5, 0.5, "good", "bad").sentence == "good"
    assert Finding.undecided("a", "b").values() == {
        "name": "a", "passed": True, "error": 0.0, "sentence": "b", "decided": False,
    }  # fmt: skip


def test_invalid_settings_and_batches_raise():
    messages = {"directions": "directions must be an integer >= 1; got 0", "limit": "limit must be an integer >= 1"}
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            GradientCheck(**{name: 0})
    with torch.inference_mode(), pytest.raises(ValueError, match="inference mode"):
        GradientCheck()(network(), batch())
    image, label, index = batch()
    with pytest.raises(ValueError, match="float32"):
        GradientCheck()(network(), (image.double(), label, index))
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2"):
        GradientCheck()(network(), (image, label + 3, index))
