"""``convert``: converted files load by their path alone and compute the same."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open

import cli
from common.checkpoints.files import file_sha256
from common.checkpoints.loading import load_classifier, load_denoiser, load_network
from common.commands.conversion import read_options
from common.diffusion.networks import ADM
from common.hub.cards import CARDS
from common.networks import WideResNet

ADM_OPTIONS = {"image_size": 8, "model_channels": 32, "out_channels": 6, "num_res_blocks": 1, "channel_mult": [1, 1],
               "attention_resolutions": [2], "num_head_channels": 16, "use_scale_shift_norm": True}  # fmt: skip
WRN_OPTIONS = {"depth": 10, "widen_factor": 1, "num_classes": 7}


@pytest.fixture
def adm(tmp_path):
    """A file in the layout of guided diffusion, with random weights."""
    torch.manual_seed(0)
    network = ADM(**ADM_OPTIONS).eval()
    state = {name: 0.1 * torch.randn_like(value) for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "adm.pt")
    network.load_state_dict(state)
    (tmp_path / "adm.json").write_text(json.dumps(ADM_OPTIONS))
    return network


@pytest.fixture
def convert(tmp_path):
    """Run the command in-process on files in ``tmp_path``."""

    def run(source, target, *words):
        cli.main(["convert", str(tmp_path / source), str(tmp_path / target), *map(str, words)])
        return tmp_path / target

    return run


def test_a_converted_denoiser_computes_the_same(adm, convert, tmp_path, capsys):
    path = convert("adm.pt", "deep/ours.safetensors", "--format=guided_diffusion", f"--config={tmp_path / 'adm.json'}")
    assert "ours.safetensors" in capsys.readouterr().out
    ours = load_denoiser(path)
    published = load_denoiser(tmp_path / "adm.pt", "guided_diffusion", ADM_OPTIONS)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 2.0])
    with torch.no_grad():
        assert torch.equal(ours(x, sigma), published(x, sigma))
    with safe_open(path, framework="pt") as file:
        notes = json.loads(file.metadata()["robust_diffusion"])["notes"]
    assert notes["sha256"] == file_sha256(tmp_path / "adm.pt") and notes["converted_from"] == "guided_diffusion"
    assert notes["config"] == ADM_OPTIONS and notes["file"] == "adm.pt"


def test_a_network_is_called_as_its_publishers_call_it(adm, convert):
    text = json.dumps(ADM_OPTIONS)
    path = convert("adm.pt", "net.safetensors", "--format", "guided_diffusion", "--kind", "network", "--config", text)
    x, i = torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        assert torch.equal(load_network(path)(x, i), adm(x, i))


def test_a_classifier_is_known_by_its_format(convert, tmp_path):
    network = WideResNet(**WRN_OPTIONS).eval()
    torch.save(network.state_dict(), tmp_path / "wrn.pt")
    (tmp_path / "wrn.yaml").write_text("depth: 10\nwiden_factor: 1\nnum_classes: 7\n")
    path = convert("wrn.pt", "wrn.safetensors", "--format=robustbench_wrn", f"--config={tmp_path / 'wrn.yaml'}")
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_classifier(path)(image), network(image))


@pytest.mark.parametrize("raw", [False, True])
def test_raw_weights_are_written_only_on_request(convert, tmp_path, raw):
    """A file with averaged weights beside them."""
    networks = {}
    for seed, name in enumerate(("ema", "model")):
        torch.manual_seed(seed)
        networks[name] = WideResNet(**WRN_OPTIONS).eval()
    torch.save({name: network.state_dict() for name, network in networks.items()}, tmp_path / "both.pt")
    words = ["--format=robustbench_wrn", f"--config={json.dumps(WRN_OPTIONS)}", *(["--raw"] if raw else [])]
    with pytest.warns(UserWarning, match="(raw|averaged) weights are read"):
        path = convert("both.pt", "ours.safetensors", *words)
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_classifier(path)(image), networks["model" if raw else "ema"](image))


def test_an_existing_file_is_replaced_only_by_force(adm, convert, tmp_path):
    (tmp_path / "ours.safetensors").write_text("something of the user's")
    words = ["--format=guided_diffusion", f"--config={tmp_path / 'adm.json'}"]
    with pytest.raises(FileExistsError, match=r"exists already.*--force"):
        convert("adm.pt", "ours.safetensors", *words)
    assert (tmp_path / "ours.safetensors").read_text() == "something of the user's"
    with pytest.raises(ValueError, match=r"fits|must|config"):
        convert("adm.pt", "ours.safetensors", "--format=guided_diffusion", '--config={"image_size": 8}', "--force")
    assert (tmp_path / "ours.safetensors").read_text() == "something of the user's"
    load_denoiser(convert("adm.pt", "ours.safetensors", *words, "--force"))


@pytest.mark.parametrize(
    ("source", "target", "words", "message"),
    [
        ("nowhere.pt", "a.safetensors", ["--format=edm"], "nowhere.pt"),
        ("adm.pt", "a.safetensors", ["--format=torch"], "score_sde, guided_diffusion"),
        ("adm.pt", "a.safetensors", ["--format=safetensors"], "must be a published one"),
        ("adm.pt", "a.pt", ["--format=guided_diffusion"], "a.safetensors"),
        ("adm.pt", "a.safetensors", ["--format=guided_diffusion", "--kind=vae"], "denoiser, classifier, network"),
        ("adm.pt", "a.safetensors", ["--format=guided_diffusion", "--kind=classifier"], "use load_denoiser"),
        ("adm.pt", "a.safetensors", ["--format=guided_diffusion", "--config=none.json"], "no file none.json"),
        ("adm.pt", "a.safetensors", ["--format=guided_diffusion", "--config=no_card"], "no card is named 'no_card'"),
        ("adm.pt", "a.safetensors", ["--format=guided_diffusion", "--config={1"], "neither YAML nor JSON"),
        ("evil.pt", "a.safetensors", ["--format=guided_diffusion"], "Nothing in it was executed"),
    ],
)
def test_wrong_arguments_are_refused(adm, convert, tmp_path, source, target, words, message, monkeypatch):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "RAN"), "w")

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises((OSError, ValueError)) as raised:
        convert(source, target, *words)
    assert message in str(raised.value)
    assert not (tmp_path / target).exists() and not (tmp_path / "RAN").exists()


def test_options_come_from_files_cards_or_themselves(tmp_path):
    assert read_options(None) is None
    assert read_options('{"depth": 28}') == {"depth": 28}
    assert read_options("robustbench_cifar10_standard") == CARDS["robustbench_cifar10_standard"].config
    (tmp_path / "list.yml").write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match="is a list"):
        read_options(str(tmp_path / "list.yml"))
