"""One-call evaluation: exactly known accuracies, the records of the command line, resuming."""

import math

import pytest
import torch
from scipy.stats import norm
from torch import nn

import cli
from common.api import certify, compare, evaluate
from common.api.arguments import as_suite
from common.checkpoints import load_classifier, load_denoiser
from common.data import Digits, InMemory
from common.experiments.suites import read_suite, suite_names
from common.records.fingerprint import identify
from common.records.store import Records
from common.robustness import PGD, Attacked, Clean, Evaluator, FunctionAttack, ThreatModel
from diffpure import DiffPure

SIDE, SPREAD, EPS = 8, 0.05, 0.02
QUIET = {"progress": False, "accelerator": "cpu"}


class Stop(Exception):
    pass


class Linear(nn.Module):
    """Logits (0, w·(x - 1/2)) of two classes; calls are listed, and stop at the ``_last``."""

    not_identifying = frozenset({"_calls", "_last"})
    _last = None

    def __init__(self, seed=0):
        super().__init__()
        weight = torch.randn(SIDE * SIDE, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(weight)
        self._calls = []

    def forward(self, image):
        self._calls.append(len(image))
        if len(self._calls) == self._last:
            raise Stop
        margin = (image.flatten(1) - 0.5) @ self.weight
        return torch.stack((torch.zeros_like(margin), margin), 1)


def gaussian_classes(network, count, shift, seed=1):
    """Images 0.5 + SPREAD z ± shift w/|w|, ten deviations inside of [0,1], with the sign as the label."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 2
    unit = network.weight.detach() / network.weight.detach().norm()
    pixels = 0.5 + SPREAD * torch.randn(count, SIDE * SIDE, generator=generator)
    pixels += (2 * label - 1)[:, None] * shift * unit
    return pixels.view(count, 1, SIDE, SIDE), label


def test_a_linear_network_has_its_known_robust_accuracy():
    """The margin over |w|_2 is N(shift, SPREAD²); an attack within eps in L-infinity takes eps |w|_1 / |w|_2 off it.

    Both intervals (95 %) hold the known values; the seed is fixed, and the attack is optimal on a linear network, so
    that the accuracy is also that of the 400 images, exactly.
    """
    network = Linear()
    weight = network.weight.detach().double()
    loss, shift = EPS * float(weight.abs().sum() / weight.norm()), 0.18
    images, labels = gaussian_classes(network, 400, shift)
    result = evaluate(network, images, labels, f"Linf {EPS}", [PGD(steps=10)], masking=0, **QUIET)
    assert result.clean.low <= norm.cdf(shift / SPREAD) <= result.clean.high
    known = norm.cdf((shift - loss) / SPREAD)
    assert 0.5 < known < 0.9
    assert result.robust.low <= known <= result.robust.high
    margin = ((images.double().flatten(1) - 0.5) @ weight) * (2 * labels - 1)
    assert result.robust.value == pytest.approx(float((margin > EPS * weight.abs().sum()).double().mean()), abs=1e-9)
    assert (result.robust.images, result.attack) == (400, "PGD")
    assert result.worst_draw == result.robust  # all draws of a deterministic defence agree


def test_a_linear_network_is_certified_within_its_margin():
    """No certificate exceeds the distance to the hyperplane; alpha = 0.001 on each of 24 images."""
    network = Linear()
    images, labels = gaussian_classes(network, 24, 0.2)
    result = certify(network, images, labels, sigma=0.1, n=500, n0=20, **QUIET)
    weight = network.weight.detach()
    distance = ((images.flatten(1) - 0.5) @ weight / weight.norm()).abs()
    radii = torch.tensor([row.radius for row in result.records])
    assert len(radii) == 24
    assert bool((radii <= distance + 1e-6).all())
    assert float((radii / distance).median()) > 0.7
    assert result.certified_at(0.05).value == pytest.approx(float((radii >= 0.05).double().mean()))
    assert result.clean is None


@pytest.fixture
def deployed(weights):
    """DiffPure and a classifier as in the YAML of `tiny_test`, with its evaluators."""
    purifier = DiffPure(load_denoiser(weights / "denoiser.safetensors"), t_star=0.1, steps=2)
    attacked = Attacked(PGD(steps=3, eot=2), ThreatModel("inf", "51/255"), draws=3, keep_images=2)
    return (purifier, load_classifier(weights / "classifier.safetensors")), [Clean(draws=2), attacked]


def test_the_records_are_those_of_the_command_line(deployed, tiny_test, rows, tmp_path):
    """Also of tensors: the index of an image decides its noise. A data module continues the command line's records."""
    defence, suite = deployed
    cli.main(["test", "-c", str(tiny_test())])
    expected = rows(tmp_path / "records")
    result = evaluate(defence, Digits(batch_size=4, test_images=13), suite=suite, records=tmp_path / "api", **QUIET)
    assert rows(tmp_path / "api") == expected
    assert len(result.records) == len(expected) == 26
    first, second = (Records.describe(tmp_path / name).fingerprint for name in ("records", "api"))
    assert first == second
    data = Digits()
    data.setup("test")
    images, labels = data.held_out.images[:13], data.held_out.labels[:13]
    evaluate(defence, images, labels, suite=suite, records=tmp_path / "tensors", batch_size=5, **QUIET)
    assert rows(tmp_path / "tensors") == expected


@pytest.mark.parametrize(("given", "largest"), [(None, 6), (4, 4)])
def test_a_batch_size_counts_for_a_data_module_too(given, largest):
    network = Linear()
    images, labels = gaussian_classes(network, 12, 0.2)
    data = InMemory(images, labels, batch_size=6)
    calls = []
    attack = FunctionAttack(lambda classifier, image, label, threat, noise: calls.append(len(image)) or image)
    evaluate(network, data, threat="Linf 0.02", suite=[attack], verify="off", masking=0, batch_size=given, **QUIET)
    assert max(calls) == largest and sum(calls) == 12
    assert data.batch_size == 6  # the user's own


def test_an_evaluation_goes_on_from_its_records(tmp_path, rows):
    network, folder = Linear(), tmp_path / "records"
    images, labels = gaussian_classes(network, 40, 0.2)
    arguments = {"threat": "Linf 0.02", "suite": [PGD(steps=10)], "verify": "off", "masking": 0, **QUIET}

    network._last = 25
    with pytest.raises(Stop):
        evaluate(network, images, labels, records=folder, batch_size=10, **arguments)
    network._last = None
    part = Records.read(folder)
    assert 0 < len(part) < 80
    result = evaluate(network, images, labels, records=folder, batch_size=10, **arguments)
    assert len(result.records) == 80
    assert result.records == evaluate(network, images, labels, **arguments).records
    network._calls.clear()
    evaluate(network, images, labels, records=folder, **arguments)
    # the probe; the first recorded image anew, clean and attacked, padded
    assert len(network._calls) < 20 and set(network._calls) == {2, 16}
    with pytest.raises(ValueError, match="holds records of another configuration"):
        evaluate(network, images, labels, records=folder, **arguments | {"threat": "Linf 0.03"})


@pytest.mark.parametrize("name", suite_names())
def test_a_named_suite_is_that_of_its_file(name):
    """Built by the command line's parser, it has the same identity in records."""
    import yaml
    from jsonargparse import ArgumentParser

    from common.naming import presets_root

    settings = yaml.safe_load((presets_root() / "suites" / f"{name}.yaml").read_text())["model"]["init_args"]
    parser = ArgumentParser()
    parser.add_argument("--evaluators", type=list[Evaluator])
    parsed = parser.instantiate_classes(parser.parse_object({"evaluators": settings["evaluators"]}))
    built = as_suite(name, None, None)
    assert identify({"evaluators": built.evaluators}) == identify({"evaluators": parsed.evaluators})
    assert built.masking == settings.get("masking")


def grey(classifier, image, label, threat, noise):
    """An attack of a user: towards grey."""
    return threat.project(image, torch.full_like(image, 0.5))


def test_an_attack_may_be_a_function():
    """On images with the margin's sign it takes at most eps |w|_1 away, so never more than PGD."""
    network = Linear()
    images, labels = gaussian_classes(network, 60, 0.2)
    result = evaluate(network, images, labels, f"Linf {EPS}", [grey, PGD(steps=5)], masking=0, **QUIET)
    avg = {summary.evaluator: summary.metrics["Avg"][0] for summary in result.summaries}
    assert avg["PGD"] < avg["grey"] <= avg["clean"]
    assert result.robust.value == avg["PGD"]


def test_seed_and_draws_replace_those_of_the_suite():
    suite = as_suite("gold", 5, 4).evaluators
    assert {one.seed for one in suite} == {5}
    attacks = [one for one in suite if isinstance(one, Attacked)]
    assert {(one.draws, one.resubmissions) for one in attacks} == {(4, 4)}
    assert [one.name for one in as_suite([PGD(), PGD(steps=3), Clean()], None, 2).evaluators] == [
        "PGD",
        "PGD 2",
        "clean",
    ]
    assert [type(one) for one in as_suite([PGD()], None, None).evaluators] == [Clean, Attacked]
    assert [one.name for one in as_suite([grey, grey, PGD()], None, None).evaluators] == [
        "clean",
        "grey",
        "grey 2",
        "PGD",
    ]
    assert as_suite(PGD(), None, None).evaluators[1].attack == PGD()
    with pytest.raises(ValueError, match=r"attacks such as PGD\(steps=20\).*; got PGD"):
        as_suite([PGD], None, None)


def test_results_are_shown_compared_and_written(tmp_path, capsys):
    network = Linear()
    images, labels = gaussian_classes(network, 200, 0.2)
    result = evaluate(network, images, labels, f"Linf {EPS}", **QUIET)
    assert "Linear" in str(result) == repr(result)
    low, high = f"{result.robust.low:.1%}", f"{result.robust.high:.1%}"
    assert str(result.robust) == f"{float(result.robust):.1%} ({low} to {high}, 200 images)"
    assert "Robust" in str(result)
    assert any(row.role.value == "variant" for row in result.run.records)  # the masking checks have their attacks
    assert {row.role.value for row in result.records} == {"result"}
    other = certify(network, images[:8], labels[:8], sigma=0.1, n=100, n0=10, **QUIET)
    assert [row.name for row in compare([result, other]).rows] == ["Linear", "Linear"]
    with pytest.raises(ValueError, match="compare needs a list of results; got none"):
        compare([])
    capsys.readouterr()
    page = result.report(tmp_path / "page")
    assert capsys.readouterr().out == ""
    assert page == tmp_path / "page" / "report.html"
    assert "Linear" in page.read_text()
    assert math.isclose(result.summaries[0].metrics["Avg"][0], result.clean.value)


def test_a_suite_file_builds_on_others(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: suites/quick\nmodel: {init_args: {masking: 3}}\n")
    mine, quick = read_suite(str(tmp_path / "mine.yaml")), read_suite("quick")
    assert mine.masking == 3 and mine.evaluators == quick.evaluators
