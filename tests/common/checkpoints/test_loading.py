"""Our own checkpoint format: round trips, and refusals of all other files with a reason."""

import json
import os

import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import nn

from agdm.networks import AdaptedNetwork, GuidanceNetwork
from common.checkpoints.files import file_sha256
from common.checkpoints.loading import load, load_classifier, load_denoiser, load_network
from common.checkpoints.saving import description_of, save
from common.diffusion.denoisers import Denoiser, EDMDenoiser, EpsDenoiser
from common.diffusion.networks import DDPMpp
from common.networks import SmallCNN, TimmNetwork, WideResNet
from common.records.fingerprint import weights_hash
from common.robustness.classifiers import NetworkClassifier


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    body = DDPMpp(8, 1, label_dim=3, model_channels=4, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,))
    return EDMDenoiser(body, sigma_data=0.4, num_classes=3, sigma_max=20.0).eval()


def test_a_denoiser_needs_only_its_path(denoiser, tmp_path):
    path = save(denoiser, tmp_path / "new folder" / "denoiser.safetensors", notes={"trained_on": "nothing"})
    again = load_denoiser(path)
    assert (again.sigma_data, again.num_classes, again.sigma_min, again.sigma_max) == (0.4, 3, 0.002, 20.0)
    assert not again.training
    x, sigma, label = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 3.0]), torch.tensor([2, 0])
    torch.testing.assert_close(again(x, sigma, label), denoiser(x, sigma, label), rtol=0, atol=0)
    assert weights_hash(again) == weights_hash(denoiser)
    assert os.listdir(path.parent) == ["denoiser.safetensors"]  # no unfinished file is left


def test_classifiers_of_every_kind(tmp_path):
    import timm

    image = torch.rand(2, 3, 32, 32)
    kinds = [
        NetworkClassifier(SmallCNN(4), mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]),
        NetworkClassifier(WideResNet(10, 1)),
        NetworkClassifier(TimmNetwork("test_resnet", 5)),
        NetworkClassifier(timm.create_model("test_resnet", num_classes=6)),
    ]
    for number, classifier in enumerate(kinds):
        again = load_classifier(save(classifier.eval(), tmp_path / f"{number}.safetensors"))
        torch.testing.assert_close(again(image), classifier(image), rtol=0, atol=0)
        assert all(p.requires_grad for p in again.parameters())


def test_a_bare_network(tmp_path):
    network = SmallCNN(4, 1, activation="silu").eval()
    again = load_network(save(network, tmp_path / "n.safetensors"))
    assert isinstance(again, SmallCNN)
    assert again.config == network.config


def test_configuration_files_may_name_the_loaders(denoiser, tmp_path):
    path = str(save(denoiser, tmp_path / "d.safetensors"))
    for kind, loader in ((Denoiser, "load_denoiser"), (nn.Module, "load_network")):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--part", type=kind)
        node = {"class_path": f"common.checkpoints.{loader}", "init_args": {"path": path}}
        part = parser.instantiate(parser.parse_object({"part": node})).part
        assert weights_hash(part) == weights_hash(denoiser)


def test_a_file_appears_only_when_complete(denoiser, tmp_path, monkeypatch):
    path = save(denoiser, tmp_path / "d.safetensors")
    before = file_sha256(path)

    def interrupted(state, file, metadata):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("common.checkpoints.saving.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(denoiser, path)
    assert file_sha256(path) == before
    assert os.listdir(tmp_path) == ["d.safetensors"]


def test_a_file_is_as_readable_as_any_other(denoiser, tmp_path):
    (tmp_path / "other").touch()
    assert save(denoiser, tmp_path / "d.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_tied_weights_are_stored(tmp_path):
    network = SmallCNN(4, 1)
    network.features[4].weight = network.features[1].weight
    assert weights_hash(load(save(network, tmp_path / "n.safetensors"))) == weights_hash(network)


def test_weights_hash_depends_on_weights_and_not_on_order():
    torch.manual_seed(0)
    first = nn.Sequential()
    first.add_module("a", nn.Linear(2, 3))
    first.add_module("b", nn.Linear(3, 2))
    second = nn.Sequential()
    second.add_module("b", first.b)
    second.add_module("a", first.a)
    assert weights_hash(first) == weights_hash(second)
    with torch.no_grad():
        first.a.bias[0] += 1e-6
    assert weights_hash(first) != (before := weights_hash(nn.Sequential()))
    assert len(before) == 64


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Refusals -----------------------------------------------------------------------------------------------------------


def described(tmp_path, description, state=None):
    path = tmp_path / "f.safetensors"
    save_file(state or {"x": torch.zeros(1)}, path, metadata={"robust_diffusion": json.dumps(description)})
    return path


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_denoiser(tmp_path / "d.safetensors")


def test_truncated_file(denoiser, tmp_path):
    path = save(denoiser, tmp_path / "d.safetensors")
    content = path.read_bytes()
    for length in (0, 5, 500, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a complete one"):
            load_denoiser(path)


def test_foreign_files(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "f.pt")
    with pytest.raises(ValueError, match="name that format"):
        load(tmp_path / "f.pt")
    save_file({"x": torch.zeros(1)}, tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match="another program wrote it"):
        load(tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "torch.nn.Linear",
        "common.checkpoints.save",
        "common.checkpoints.Linear",
        "common.checkpoints.description.re",
        "common.noise.Noise",
        "common..x",
        "common",
        "commonplace.Thing",
    ],
)
def test_a_file_may_name_exported_modules_only(name, tmp_path):
    path = described(tmp_path, {"format": 1, "class": name, "config": {}})
    refusals = "a checkpoint may name exported modules of|must start with a package of|has no common|that the room"
    with pytest.raises(ValueError, match=refusals):
        load(path)


def test_a_file_cannot_make_timm_download(tmp_path):
    path = described(tmp_path, {"format": 1, "class": "timm", "config": {"model_name": "hf_hub:some/model"}})
    with pytest.raises(ValueError, match="timm has no model"):
        load(path)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"format": 2, "class": "common.networks.SmallCNN", "config": {}}, "version 2"),
        ({"format": 1, "class": "common.networks.Nothing", "config": {}}, "has no common"),
        ({"format": 1, "class": "common.networks.SmallCNN", "config": {"depth": 3}}, "does not take"),
        ({"format": 1, "config": {}}, "damaged"),
        ([1], "must be in version 1 of our format; it is in version None"),
        (
            {"format": 1, "class": "common.networks.SmallCNN", "config": {"num_classes": 2}},
            r"missing.*left over: x",
        ),
    ],
)
def test_descriptions_that_do_not_fit(description, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(described(tmp_path, description))


def test_a_description_that_is_no_json(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "f.safetensors", metadata={"robust_diffusion": "{half"})
    with pytest.raises(ValueError, match="its description is no JSON"):
        load(tmp_path / "f.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value, tmp_path):
    """One number among thousands; integers are left alone."""
    network = SmallCNN(4, 1)
    with torch.no_grad():
        network.head[2].weight[3, 5] = value
    with pytest.raises(ValueError, match=r"must be finite numbers; NaN or infinity came in head.2.weight\."):
        load(save(network, tmp_path / "n.safetensors"))


def test_a_web_page_and_a_folder(tmp_path):
    (tmp_path / "d.safetensors").write_text("\n <!DOCTYPE html><html>Too many users</html>")
    with pytest.raises(ValueError, match="is a web page"):
        load_denoiser(tmp_path / "d.safetensors")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load_denoiser(tmp_path)


def test_tensors_of_another_shape(tmp_path):
    network = SmallCNN(4, 1)
    state = network.state_dict() | {"head.2.weight": torch.zeros(5, 64)}
    description = {"format": 1, "class": "common.networks.SmallCNN", "config": network.config}
    with pytest.raises(ValueError, match=r"of another shape: head.2.weight \(5, 64\) instead of \(4, 64\)"):
        load(described(tmp_path, description, state))


def test_the_wrong_kind_of_file(denoiser, tmp_path):
    path = save(denoiser, tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="must hold a Classifier; it holds a module of class EDMDenoiser"):
        load_classifier(path)
    with pytest.raises(ValueError, match="carry their config"):
        load_denoiser(path, config={"sigma_data": 1.0})
    with pytest.raises(ValueError, match="format must be one of"):
        load_denoiser(path, format="other")


def test_only_what_can_be_built_again_is_saved(denoiser, tmp_path):
    with pytest.raises(ValueError, match=r"got torch.nn.Linear"):
        save(nn.Linear(2, 2), tmp_path / "n.safetensors")
    with pytest.raises(ValueError, match=r"Use d\.safetensors"):
        save(denoiser, tmp_path / "d.pt")
    changed = SmallCNN(4, 1)
    changed.head = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="exactly those of the network it describes"):
        save(changed, tmp_path / "n.safetensors")
    assert os.listdir(tmp_path) == []


def test_layers_that_the_description_does_not_build_are_refused(tmp_path):
    """Activations have no tensors, so that names and shapes agree where the network is another."""
    import timm

    raw = timm.create_model("test_resnet", num_classes=4, act_layer=nn.SiLU)
    for module in (NetworkClassifier(raw), AdaptedNetwork(raw)):
        with pytest.raises(ValueError, match=r"SiLU.* where they have .*ReLU.*TimmNetwork\(name, options=\.\.\.\)"):
            save(module, tmp_path / "n.safetensors")
    small = SmallCNN(4, 1)
    small.features[2] = nn.Tanh()
    with pytest.raises(ValueError, match=r"it has .*Tanh"):
        save(small, tmp_path / "n.safetensors")
    assert os.listdir(tmp_path) == []
    wrapped, image = TimmNetwork("test_resnet", 4, options={"act_layer": "silu"}).eval(), torch.rand(2, 3, 32, 32)
    again = load_network(save(wrapped, tmp_path / "n.safetensors"))
    assert torch.equal(again(image), wrapped(image))


def test_a_timm_model_without_a_name_is_refused(tmp_path):
    import timm

    raw = timm.create_model("test_resnet", num_classes=4)
    raw.pretrained_cfg = {}
    with pytest.raises(ValueError, match="timm has no model None"):
        save(raw, tmp_path / "n.safetensors")


def test_describing_draws_no_random_numbers():
    """``fit`` describes what it will export: training must not depend on whether it exports."""
    modules = NetworkClassifier(SmallCNN(4, 1)), AdaptedNetwork(TimmNetwork("test_resnet", 4), True), GuidanceNetwork()
    before = torch.get_rng_state()
    for module in modules:
        description_of(module)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_eps_denoiser_keeps_its_schedule(tmp_path):
    body = SmallCNN(4, 1)
    again = load_denoiser(save(EpsDenoiser(body, rounding="continuous"), tmp_path / "e.safetensors"))
    assert type(again.schedule).__name__ == "VP"
    assert again.rounding == "continuous"
