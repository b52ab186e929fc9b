"""Certification from end to end: certificates independent of batching; unsound or contradictory settings refused."""

import math

import lightning as L
import pytest
import torch
import yaml

import cli
from common.checkpoints.saving import save
from common.diffusion.denoisers import Denoiser, EDMDenoiser
from common.diffusion.networks import DDPMpp
from common.engine.engine import Engine
from common.exact import ExactDenoiser
from common.noise import Noise
from common.records.fingerprint import identify
from common.robustness.certification.preconditions import check_sound
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.voting import Voting
from common.units import to_pixel
from ndc.bounded import BoundedDiffusionClassifier
from ndc.classifier import NoisedDiffusionClassifier
from ndc.elimination import Elimination
from ndc.task import NDCTask
from tests.ndc.certified_worlds import SIGMA, Samples, certifier, defence, run, world

# Invariance to batching and resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "procedure"),
    [("all classes", "fixed"), ("elimination", "ladder"), ("denoised", "fixed"), ("densepure", "ladder")],
)
def test_certificates_do_not_depend_on_how_they_are_run(tmp_path, rows, kind, procedure):
    """All in one batch; one image at a time, in other batches of samples and of network rows; and killed on the way.

    What a kill leaves is a part file without its end and no merged one. It is resumed with yet other batches.
    """
    run(kind, procedure, tmp_path / "whole", images=7)
    reference = rows(tmp_path / "whole")
    assert len({row["count"] for row in reference}) > 2
    run(kind, procedure, tmp_path / "single", images=1, samples=7, rows=16)
    assert rows(tmp_path / "single") == reference
    killed = tmp_path / "killed"
    run(kind, procedure, killed, images=2, limit_test_batches=3)
    (killed / "records.jsonl").unlink(missing_ok=True)
    (part,) = killed.glob("part-*.jsonl")
    part.write_bytes(part.read_bytes()[:-25])
    run(kind, procedure, killed, images=3, samples=100, rows=64)
    assert rows(killed) == reference


def test_settings_of_speed_do_not_change_the_fingerprint():
    def fingerprint(**settings):
        return identify({"classifier": NoisedDiffusionClassifier(ExactDenoiser(world()), 4, SIGMA, **settings)})[0]

    assert fingerprint() == fingerprint(engine=Engine(channels_last=True, compile=False, batch_size=3))
    assert fingerprint() != fingerprint(engine=Engine(precision="bf16"))
    assert fingerprint() != fingerprint(elimination=Elimination())


def test_the_bounded_classifier_takes_an_engine():
    plain, reordered = (
        BoundedDiffusionClassifier(ExactDenoiser(world()), 4, 4, engine=engine)
        for engine in (None, Engine(channels_last=True))
    )
    image, noise = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), Noise.of(0, torch.arange(2))
    torch.testing.assert_close(plain(image, noise), reordered(image, noise))
    assert reordered.engine.channels_last


# Early exits ---------------------------------------------------------------------------------------------------------


class Witness(Classifier):
    """Records the noisy images of a classifier with the row of noise of each."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier, self.randomised, self.seen = classifier, classifier.randomised, {}

    def forward(self, image, noise=None):
        for row, index, draw in zip(image, noise.index.tolist(), noise.draw.tolist(), strict=True):
            assert (noise.seed, index, draw) not in self.seen, "a draw is used twice"
            self.seen[noise.seed, index, draw] = row
        return self.classifier(image, noise)


def test_samples_of_an_early_exit_do_not_depend_on_the_clean_image():
    """The number of samples does. Each sample, z and the row of noise behind it, is a function of (seed, index, draw)
    alone, as are elimination's nodes (test_elimination). All samples are the fixed procedure's, none is used twice,
    and different images stop at different stages."""
    stages, drawn = [], []
    for clean in (to_pixel(world().means[:4]), 0.5 + 0.02 * to_pixel(world().means[:4]).flip(0)):
        witness = Witness(defence("elimination", 512))
        found = certifier("ladder", 64).certify(witness, clean, Noise.of(3, torch.arange(4) + 10))
        stages.append([certificate.samples for certificate in found])
        drawn.append({key: (row - clean[key[1] - 10]) / SIGMA for key, row in witness.seen.items()})
    assert stages[0] != stages[1]
    fixed = Witness(defence("elimination", 512))
    certifier("fixed", 64).certify(fixed, to_pixel(world().means[:4]), Noise.of(3, torch.arange(4) + 10))
    assert {*drawn[0]} | {*drawn[1]} <= {*fixed.seen}
    assert len(drawn[0]) == sum(stages[0]) + 4 * 5 < len(fixed.seen) == 4 * 45
    for key in {*drawn[0]} & {*drawn[1]}:
        torch.testing.assert_close(drawn[0][key], drawn[1][key], rtol=0, atol=1e-5)  # float32, divided by sigma


# Unsound classifiers -------------------------------------------------------------------------------------------------


class Shaky(Classifier):
    """Random logits around the pixels' mean; ``source`` is the origin of the noise."""

    randomised = True

    def __init__(self, source):
        super().__init__()
        self.source, self.memory, self.generator = source, None, torch.Generator().manual_seed(0)

    def _normals(self, image, noise):
        count = len(image)
        if self.source == "noise":
            return noise.normal(0, (4,))
        if self.source == "draw":  # the noise's own rows, but the same for all draws of an image
            return Noise(noise.seed, noise.index, torch.zeros_like(noise.draw)).normal(0, (4,))
        if self.source == "image":
            seeds = image.double().sum((1, 2, 3)).view(torch.int64).abs() % 2**32
            return Noise.of(0, seeds).normal(0, (4,))
        if self.source == "global":
            return torch.randn(count, 4, generator=self.generator)
        if self.source == "memory":
            self.memory = noise.normal(0, (4,)) if self.memory is None else self.memory
            return self.memory[:1].expand(count, 4)
        place = torch.arange(count) if self.source == "place" else torch.zeros(count, dtype=torch.int64)
        return Noise.of(0, place).normal(0, (4,))  # the published code's, and one for all

    def forward(self, image, noise=None):
        side = image.flatten(1)[:, :4]
        if self.source == "hard":  # answers without probabilities, some of which the noise decides
            logits = side + 0.1 * noise.normal(0, (4,))
            return torch.nn.functional.one_hot(logits.argmax(1), 4).float()
        if self.source == "nowhere":
            return torch.full((len(image), 4), math.nan)
        if self.source == "company":
            return side + noise.normal(0, (4,)) - image[:1].flatten(1)[:, :4]
        return side + self._normals(image, noise)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("global", "a repeatable classifier: this one gives other logits for the same images and the same noise"),
        ("place", "depend on its place in the batch or on the other rows"),
        ("company", "depend on its place in the batch or on the other rows"),
        ("fixed", "gives the same logits for any `noise`. Its noise is fixed or computed from the image"),
        ("image", "gives the same logits for any `noise`. Its noise is fixed or computed from the image"),
        ("draw", "gives the same logits for every draw of an image"),
        ("nowhere", "logits are NaN"),
        ("memory", "gives the same logits for any `noise`. Its noise is fixed or computed from the image"),
    ],
)
@pytest.mark.parametrize("votes", [1, 5])
def test_unsound_randomness_is_refused(tmp_path, source, message, votes):
    classifier = Shaky(source) if votes == 1 else Voting(Shaky(source), votes)
    classifier.sigma = SIGMA
    task = NDCTask(classifier, [Certified(certifier("fixed", 64))], str(tmp_path))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, inference_mode=False)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        trainer.test(task, Samples(batch_size=4), verbose=False)
    assert not list(tmp_path.glob("part-*.jsonl"))


@pytest.mark.parametrize("votes", [1, 9])
def test_logits_that_noise_seldom_changes_pass(votes):
    classifier = Shaky("hard") if votes == 1 else Voting(Shaky("hard"), votes)
    refused = []
    for seed in range(80):
        image = torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
        try:
            check_sound(classifier, image, SIGMA, Noise.of(seed, torch.tensor([seed])))
        except ValueError as error:
            refused.append(str(error))
    assert not any("for every draw" in message for message in refused)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["all classes", "elimination", "denoised", "densepure", "shaky", "bf16"])
def test_sound_classifiers_pass(kind, seed):
    """Elimination and votes jump where rounding decides; half precision rounds coarsely. All pass."""
    if kind == "bf16":
        torch.manual_seed(0)
        engine = Engine("bf16", batch_size=7)
        classifier = NoisedDiffusionClassifier(network(), 4, SIGMA, nodes=4, engine=engine)
    else:
        classifier = Shaky("noise") if kind == "shaky" else defence(kind, 7)
    image = to_pixel(world().means[seed % 4 : seed % 4 + 1]).float()
    image = image if kind != "bf16" else image.repeat(1, 1, 2, 2)
    check_sound(classifier, image, SIGMA, Noise.of(seed, torch.tensor([seed])))


# Contradictory settings ----------------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    options = {"img_resolution": 8, "img_channels": 1, "label_dim": 4, "model_channels": 8, "channel_mult": [1]}
    body = DDPMpp(**options, num_blocks=1, attn_resolutions=[], dropout=0.0)
    return EDMDenoiser(body, num_classes=4, sigma_min=0.01, sigma_max=6.0)


class Narrow(Denoiser):
    num_classes, sigma_min, sigma_max = 4, 0.1, 6.0


BAD = [  # (the classifier's settings, the smoothing's, the message), the same in Python and on the command line
    ({}, {"n0": 61}, "samples must satisfy 1 <= n0 <= n; got n0=61, n=60"),
    ({}, {"n0": 0}, "n0 must be an integer >= 1"),
    ({}, {"alpha": 1.0}, r"alpha, the chance of a wrong certificate, must be a finite number > 0 and < 1; got 1.0"),
    ({}, {"alpha": 0.0}, r"alpha, .* must be a finite number > 0 and < 1; got 0.0"),
    ({}, {"alpha": -0.1}, r"alpha, .* must be a finite number > 0 and < 1; got -0.1"),
    ({}, {"alpha": math.nan}, r"alpha, .* must be a finite number > 0 and < 1; got nan"),
    ({}, {"sigma": 0.0}, "sigma must be above 0, in pixel units; got 0.0"),
    ({}, {"sigma": -0.25}, "sigma must be above 0, in pixel units; got -0.25"),
    ({}, {"sigma": math.nan}, "sigma must be above 0, in pixel units; got nan"),
    ({}, {"num_classes": 1}, "num_classes must be an integer >= 2; got 1"),
    ({}, {"batch_size": 0}, "batch_size must be an integer >= 1; got 0"),
    ({}, {"targets": [0.25, 2.0], "first": 20}, "60 samples at sigma 0.25 certify at most .*; got the target 2"),
    ({}, {"sigma": 0.5}, r"smoothing adds noise of sigma 0.5 \(pixels\), the classifier expects 0.25"),
    ({}, {"num_classes": 10}, "num_classes must be the classifier's, 4; got 10"),
    ({"sigma": 0.0}, {}, "needs its pixel sigma > 0; got 0.0"),
    ({"sigma": -0.25}, {}, "needs its pixel sigma > 0; got -0.25"),
    ({"sigma": math.nan}, {}, "sigma must be a finite number or a ratio"),
    ({"sigma": 4.0}, {}, r"2 sigma, the input's noise level, must lie in the denoiser's range .*; got 8.0"),
    ({"sigma": 0.001}, {}, r"2 sigma, the input's noise level, must lie in the denoiser's range .*; got 0.002"),
    ({"num_classes": 1}, {}, "num_classes must be an integer >= 2; got 1"),
    ({"num_classes": 10}, {}, "num_classes must be the denoiser's, 4; got 10"),
    ({"engine": {"batch_size": 0}}, {}, "batch_size must be an integer >= 1"),
]
COMMANDS = [0, 2, 9, 11, 12, 13, 16, 17, 19, 20]  # of these also what the command line says: every place that refuses
GOOD = {"num_classes": 4, "sigma": 0.25}, {"sigma": 0.25, "n0": 5, "n": 60, "num_classes": 4}


@pytest.fixture(scope="module")
def denoiser_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "denoiser.safetensors"
    save(network(), path)
    return path


@pytest.mark.parametrize(("classifier", "smoothing", "message"), BAD, ids=lambda x: str(x)[:40])
def test_contradictions_are_refused_in_python(classifier, smoothing, message):
    settings = GOOD[1] | smoothing
    kind = Sequential if "targets" in smoothing else Smoothing

    def build():
        engine = Engine(**classifier.get("engine", {}))
        subject = NoisedDiffusionClassifier(Narrow(), **GOOD[0] | classifier | {"engine": engine})
        return NDCTask(subject, [Certified(kind(**settings))])

    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("classifier", "smoothing", "message"), [BAD[i] for i in COMMANDS], ids=lambda x: str(x)[:40])
def test_and_on_the_command_line(tmp_path, denoiser_file, classifier, smoothing, message):
    kind = "Sequential" if "targets" in smoothing else "Smoothing"
    part = {"class_path": "common.checkpoints.load_denoiser", "init_args": {"path": str(denoiser_file)}}
    settings = {"denoiser": part, **GOOD[0], **classifier}
    certify = {"class_path": f"common.robustness.{kind}", "init_args": GOOD[1] | smoothing}
    arguments = {
        "classifier": {"class_path": "ndc.NoisedDiffusionClassifier", "init_args": settings},
        "evaluators": [{"class_path": "common.robustness.Certified", "init_args": {"smoothing": certify}}],
        "records": str(tmp_path / "records"),
    }
    config = {
        "model": {"class_path": "ndc.NDCTask", "init_args": arguments},
        "data": {"class_path": "common.data.Digits", "init_args": {"test_images": 1}},
        "trainer": {"logger": False, "accelerator": "cpu", "default_root_dir": str(tmp_path)},
    }
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=message) as error:
        cli.main(["test", "-c", str(tmp_path / "bad.yaml")])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "records").exists()


def test_a_classifier_with_other_classes_is_refused_at_its_first_logits():
    """A classifier without ``num_classes``, as one behind a denoiser."""
    smoothing, image = Smoothing(SIGMA, 5, 60, num_classes=10), to_pixel(world().means[:1])
    with pytest.raises(ValueError, match="num_classes must be the classifier's: the classifier has 4, Smoothing 10"):
        smoothing.certify(defence("denoised", 512), image, Noise.of(0, torch.arange(1)))


def test_images_and_labels_are_checked_at_the_border():
    evaluator, classifier = Certified(certifier("fixed", 64)), defence("denoised", 512)
    image, label, index = torch.full((1, 1, 4, 4), math.nan), torch.tensor([4]), torch.tensor([0])
    with pytest.raises(ValueError, match="images must be finite"):
        evaluator(classifier, (image, label, index))
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.3"):
        evaluator(classifier, (image.nan_to_num(0.5), label, index))
