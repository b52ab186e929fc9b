"""Gradient checks name the fault of planted defences and pass the methods of this repository.

Networks are tiny and random. Findings are deterministic given the seeds.
"""

from dataclasses import replace

import pytest
import torch

from agdm.guidance import AdversarialGuidance
from agdm.purifier import AGDM
from common.diffusion.adjoint import Adjoint
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.diffusion.denoisers import EpsDenoiser
from common.diffusion.differentiation import Checkpoint, Differentiation, Full
from common.diffusion.modes import Surrogate
from common.diffusion.schedules import DDPM
from common.engine.engine import Engine
from common.networks.small_cnn import SmallCNN
from common.networks.wide_resnet import WideResNet
from common.records.masking.checks import masking_checks
from common.robustness.attacks.pgd import PGD
from common.robustness.classifiers import Classifier, NetworkClassifier, Purified
from common.robustness.evaluation.attacked import Attacked
from common.robustness.gradient_check.classifier_check import GradientCheck, failure_message
from common.robustness.padding import Padded
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.voting import Voting
from diffpure.ascent import GradientAscent
from diffpure.langevin import LangevinDiffPure
from diffpure.likelihood_maximisation import LikelihoodMaximisation
from diffpure.purifier import DiffPure
from diffpure.randomised import RandomisedDiffPure
from ndc.classifier import NoisedDiffusionClassifier
from tests.defences import (
    CLASSES,
    SOLVERS,
    Body,
    HomeMade,
    ShiftedConditioning,
    agdm,
    awake,
    batch,
    denoiser,
    diffpure,
    failed,
    guidance,
    head,
)

# ---- sound defences ----


def ndc(variant, seed=0, **settings):
    sigma = 0.0 if variant == "dc" else 0.25
    return NoisedDiffusionClassifier(denoiser(seed), CLASSES, sigma, variant, nodes=3, **settings)


def timm_network(seed=0):
    from common.networks.timm_network import TimmNetwork

    return NetworkClassifier(awake(TimmNetwork("test_resnet", CLASSES), seed))


SOUND = {
    **{f"DiffPure {name}": lambda seed, s=solver: diffpure(solver=s, seed=seed) for name, solver in SOLVERS.items()},
    "DiffPure torchsde": lambda seed: diffpure(solver="torchsde", steps=2, seed=seed),
    "DiffPure full graph": lambda seed: diffpure(gradient="full", seed=seed),
    "DiffPure long": lambda seed: diffpure(steps=12, seed=seed),
    "DiffPure by DDPM indices": lambda seed: Purified(
        DiffPure(
            EpsDenoiser(awake(Body(), seed), DDPM(), "nearest"), 0.006, solver="ancestral", schedule=DDPM(), t_end=0.0
        ),
        head(seed),
    ),
    "DiffPure continuous": lambda seed: Purified(
        DiffPure(EpsDenoiser.score_sde(awake(Body(), seed)), 0.1, steps=2), head(seed)
    ),
    "DiffPure at random depth": lambda seed: diffpure(RandomisedDiffPure, seed=seed),
    "Langevin": lambda seed: diffpure(LangevinDiffPure, seed=seed),
    "likelihood": lambda seed: Purified(LikelihoodMaximisation(denoiser(seed)), head(seed)),
    "likelihood within a ball": lambda seed: Purified(
        LikelihoodMaximisation(denoiser(seed), 2, eta=0.1, ascent=GradientAscent(0.3, draws=2)), head(seed)
    ),
    "RDC": lambda seed: Purified(
        LikelihoodMaximisation(denoiser(seed)), NoisedDiffusionClassifier(denoiser(seed), CLASSES, 0, "dc", nodes=4)
    ),
    "in sequence": lambda seed: Purified(
        Chain(
            [
                Resized(DiffPure(denoiser(seed), 0.1, steps=2), 3),
                Repeated(DiffPure(denoiser(seed), 0.05, steps=1), 2),
            ]
        ),
        head(seed),
    ),
    "fixed noise": lambda seed: Purified(FixedNoise(DiffPure(denoiser(seed), 0.1, steps=2)), head(seed)),
    "AGDM": lambda seed: agdm(seed=seed),
    "AGDM hard label": lambda seed: agdm(seed=seed, guide=guidance(seed, label="hard", distance="cosine")),
    "AGDM ODE": lambda seed: agdm(seed=seed, solver="probability_flow_heun"),
    **{f"NDC {v}": lambda seed, v=v: ndc(v, seed) for v in ("dc", "epndc", "apndc")},
    "NDC in pieces": lambda seed: ndc("apndc", seed, engine=Engine(batch_size=4)),
    "majority": lambda seed: Voting(diffpure(seed=seed), 3),
    "mean logit": lambda seed: Voting(diffpure(seed=seed), 2, "mean_logit"),
    "steady": lambda seed: Padded(head(seed), 4),
    "ReLU network": lambda seed: NetworkClassifier(awake(SmallCNN(CLASSES, 1, width=8), seed)),
    "float32 inside": lambda seed: Through(lambda image: image.float().to(image.dtype), head(seed)),
    "clamped": lambda seed: Through(lambda image: image.clamp(0, 1), head(seed)),
}
WIDE = {
    "WRN": lambda seed: NetworkClassifier(awake(WideResNet(num_classes=CLASSES, depth=10, widen_factor=1), seed)),
    "timm": timm_network,
}


class Through(Classifier):
    """A function of the image, then a classifier."""

    def __init__(self, function, classifier):
        super().__init__()
        self.function, self.classifier, self.randomised = function, classifier, classifier.randomised

    def forward(self, image, noise=None):
        return self.classifier(self.function(image), noise)


SEEDS = dict.fromkeys(SOUND, (0,)) | dict.fromkeys(["AGDM", "majority", "ReLU network"], (0, 1, 2))


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, seeds in SEEDS.items() for seed in seeds])
def test_no_false_alarms(name, seed):
    assert failed(SOUND[name](seed), seed=seed) == set()


@pytest.mark.parametrize("name", WIDE)
def test_no_false_alarms_for_deep_networks(name):
    assert failed(WIDE[name](0), channels=3, side=32) == set()


def test_sound_defence_passes_all_applicable_checks():
    (record,) = GradientCheck()(agdm().freeze(), batch())
    assert [finding.name for finding in record.findings] == [
        "same noise", "declared randomness", "outputs are logits", "attacked as deployed", "recomputed networks",
        "recomputed states", "time grids", "time labels", "full graph", "guidance path", "gradient reaches the image",
        "finite differences", "single precision",
    ]  # fmt: skip
    assert all(finding.decided and finding.error < 1e-5 for finding in record.findings)


# ---- quantisation ----


def rounded(image):
    return (image * 16).round() / 16


class StraightThrough(torch.autograd.Function):
    """Rounding with the gradient of the identity."""

    @staticmethod
    def forward(ctx, image):
        return rounded(image)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent


class RoundingPurifier(DiffPure):
    def forward(self, image, noise=None):
        return rounded(super().forward(image, noise))


def test_quantisation_fails():
    for plant in (Through(rounded, head()), diffpure(RoundingPurifier)):
        assert failed(plant) == {"gradient reaches the image", "staircase"}
    assert failed(Through(StraightThrough.apply, head())) == {"finite differences", "staircase"}
    assert failed(Through(StraightThrough.apply, diffpure())) == {"finite differences", "staircase"}


# ---- detached guidance ----


class DetachedReference(AGDM):
    def bind(self, x0, noise):
        guided = super().bind(x0, noise)
        return guided.over([tensor.detach() for tensor in guided.tensors])


class DetachedDenoiser(BoundDenoiser):
    """A guided denoiser that detaches its tensors in every step."""

    def __call__(self, x, sigma):
        return self.denoiser.over([tensor.detach() for tensor in self.tensors])(x, sigma)


class DetachedInSteps(AGDM):
    def bind(self, x0, noise):
        guided = super().bind(x0, noise)
        return DetachedDenoiser(guided, guided.tensors)


class FirstOrder(AdversarialGuidance):
    """Guidance whose gradient cannot be differentiated."""

    def gradient_at(self, x, sigma, *embedding):
        return super().gradient_at(x.detach(), sigma, *(part.detach() for part in embedding))


class ConstantInItsState(AdversarialGuidance):
    def gradient_at(self, x, sigma, *embedding):
        return super().gradient_at(x.detach(), sigma, *embedding)


class ClosedOver(AGDM):
    """The bound denoiser does not declare the tensors of the reference."""

    def bind(self, x0, noise):
        return BoundDenoiser(super().bind(x0, noise))


def test_detached_guidance_fails():
    for plant in (
        agdm(DetachedReference),
        agdm(DetachedInSteps),
        agdm(guide=guidance(kind=FirstOrder)),
        agdm(guide=guidance(kind=ConstantInItsState)),
        agdm(DetachedReference, gradient="full", solver="ddim"),
    ):
        assert failed(plant) == {"guidance path", "finite differences"}
    assert failed(agdm(ClosedOver)) == {"full graph", "finite differences"}


# ---- other noise in the recomputation ----


class Redrawn(Checkpoint):
    """Fresh noise at every computation of a step."""

    def run(self, process):
        sampler, calls = process.sampler, iter(range(10**6))

        class Anew(type(sampler.solver)):
            def __init__(self):
                self.stochastic = True

            def __call__(self, step, x, denoise):
                draws = sampler.draws(process.noise.stream(f"call {next(calls)}"), x)
                return sampler.solver(replace(step, draws=draws), x, denoise)

        return super().run(replace(process, sampler=replace(sampler, solver=Anew())))


class Resimulated(Differentiation):
    """Recomputes the chain from its start with other noise."""

    def run(self, process):
        return _Again.apply(process.start, process)


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx, start, process):
        ctx.process = process
        ctx.save_for_backward(start)
        return Full().run(process)

    @staticmethod
    def backward(ctx, cotangent):
        leaf = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            end = Full().run(replace(ctx.process, start=leaf, noise=ctx.process.noise.stream("again")))
        return torch.autograd.grad(end, leaf, cotangent)[0], None


def test_redrawn_noise_in_the_recomputation_fails():
    assert {"recomputed states", "recomputed networks"} & failed(diffpure(gradient=Redrawn()))
    failures = failed(diffpure(gradient=Resimulated()))
    assert failures == {"recomputed states", "recomputed networks", "full graph", "finite differences"}
    assert failed(Purified(HomeMade(fresh=True), head())) == {"recomputed networks", "finite differences"}
    assert failed(Purified(HomeMade(), head())) == set()


# ---- outputs, underflow, hidden randomness ----


class After(Classifier):
    """A classifier, then a function of its logits."""

    def __init__(self, classifier, function):
        super().__init__()
        self.classifier, self.function, self.randomised = classifier, function, classifier.randomised

    def forward(self, image, noise=None):
        return self.function(self.classifier(image, noise))


class Faint(torch.autograd.Function):
    """The identity, whose gradient underflows."""

    @staticmethod
    def forward(ctx, image):
        return image.clone()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent * 1e-30 * 1e-30


def test_probabilities_and_underflow_fail():
    assert failed(After(head(), lambda logits: logits.softmax(1))) == {"outputs are logits"}
    assert failed(After(head(), lambda logits: 1e-35 * logits)) == {"gradient reaches the image"}
    failures = failed(Through(Faint.apply, head()))
    assert failures == {"gradient reaches the image", "finite differences", "single precision"}
    assert failed(Through(lambda image: image.detach(), head())) == {"gradient reaches the image", "finite differences"}


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_half_precision_fails(scale):
    """Half precision inside: slopes at finer steps disagree more, and the check still fails."""
    for seed in range(4):
        half = Through(lambda image: (image * scale).half().to(image.dtype) / scale, head())
        assert "finite differences" in failed(half, seed=seed)


def test_hidden_randomness_fails():
    torch.manual_seed(0)
    assert "same noise" in failed(Through(lambda image: image + 0.1 * torch.randn_like(image), head()))
    undeclared = diffpure()
    undeclared.randomised = False
    assert failed(undeclared) == {"declared randomness"}


class GradModeDependent(Classifier):
    """Another network while a gradient is recorded than in the score."""

    def __init__(self):
        super().__init__()
        self.score, self.shown = head(0), head(5)

    def forward(self, image, noise=None):
        return self.shown(image) if torch.is_grad_enabled() else self.score(image)


def test_dependence_on_grad_mode_fails():
    assert "attacked as deployed" in failed(GradModeDependent())


# ---- declared approximations ----


@pytest.mark.parametrize("gradient", ["bpda", "adjoint", Surrogate(2), Adjoint(dt=0.05)])
def test_declared_approximations_are_reported_and_pass(gradient):
    records = GradientCheck()(diffpure(steps=5, gradient=gradient).freeze(), batch())
    findings = {finding.name: finding for finding in records[0].findings}
    assert failure_message(records) == ""
    assert not findings["declared gradient"].decided
    assert "upper bound" in findings["declared gradient"].sentence
    assert findings["declared gradient"].error > 1e-3
    assert findings["finite differences"].decided  # for the exact gradient in its place


def test_other_faults_of_an_approximate_gradient_fail():
    assert failed(diffpure(ShiftedConditioning, gradient="bpda")) == {"time grids"}
    assert failed(agdm(DetachedReference, gradient="bpda")) == {"guidance path", "finite differences"}


# ---- faults that only an attack shows ----


def test_saturated_logits_fail_a_masking_check():
    plant = After(head(), lambda logits: 1e5 * logits).freeze()
    image, _, index = batch(16)
    label = plant(image).argmax(1)
    (first, *_) = GradientCheck()(plant, (image[:1], label[:1], index[:1]))
    alive = {f.name: f for f in first.findings}["gradient reaches the image"]
    assert alive.passed
    assert not alive.decided
    attacked = Attacked(PGD(steps=3), ThreatModel("inf", 0.1), keep_images=0)
    checks = masking_checks(attacked(plant, (image, label, index)))
    assert "attacked: gradient reaches the image" in {check.name for check in checks if not check.passed}


def test_failure_message_lists_faults_and_remedy():
    records = GradientCheck()(agdm(DetachedReference).freeze(), batch(2))
    text = failure_message(records)
    assert text.count("\n- ") == 2
    assert "guidance path: Finite differences contradict the gradient along the reference" in text
    assert "verify: warn" in text
    assert "or continue with verify: warn" in text
    accepted = failure_message(records, accepted=True)
    assert accepted.endswith("The test goes on and marks its records (verify: warn).") and "Fix" not in accepted
    assert failure_message(GradientCheck()(head().freeze(), batch())) == failure_message([]) == ""
