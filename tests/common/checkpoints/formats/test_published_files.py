"""Published formats: written as their publishers write them, loaded, and compared with the publishers' output."""

import pickle

import numpy as np
import pytest
import torch

from common.checkpoints.formats import legacy_torch
from common.checkpoints.formats.bodies import build_body
from common.checkpoints.loading import load_classifier, load_denoiser, load_network
from common.diffusion.schedules import DDPM
from tests.common.checkpoints.formats.files import KEYWORDS, NAMES

pytestmark = pytest.mark.filterwarnings("ignore:.*holds averaged weights")  # beside raw ones, as it is published

BOTH_EDM = ["edm_ddpmpp_cond_small", "edm_adm_cond_small"]


# Parity through the loaders -------------------------------------------------------------------------------------------


def test_score_sde(file_of, relative_error):
    path, config, reference = file_of("score_sde")
    x, t = reference.arrays["x"], reference.arrays["t"]
    with torch.no_grad():
        assert relative_error(load_network(path, "score_sde", config)(x, 999 * t), reference.arrays["eps"]) < 1e-5
        denoiser = load_denoiser(path, "score_sde", config)
        sigma = denoiser.schedule.sigma(t.double()).float()
        clean = denoiser(x * (1 + sigma**2).sqrt()[:, None, None, None], sigma)
    expected = x * (1 + sigma**2).sqrt()[:, None, None, None] - sigma[:, None, None, None] * reference.arrays["eps"]
    assert relative_error(clean, expected) < 1e-5


@pytest.mark.parametrize(("format", "output"), [("guided_diffusion", "out"), ("sdedit_ddpm", "eps")])
def test_networks_with_an_index(format, output, file_of, relative_error):
    path, config, reference = file_of(format)
    x, i = reference.arrays["x"], reference.arrays["t"]
    with torch.no_grad():
        assert relative_error(load_network(path, format, config)(x, i), reference.arrays[output]) < 1e-5
        denoiser = load_denoiser(path, format, config)
        sigma = DDPM().sigmas[i].float()
        scale = (1 + sigma**2).sqrt()[:, None, None, None]
        clean = denoiser(x * scale, sigma)
    expected = x * scale - sigma[:, None, None, None] * reference.arrays[output][:, :3]
    assert relative_error(clean, expected) < 1e-5


@pytest.mark.parametrize("name", BOTH_EDM)
def test_edm(name, file_of, relative_error):
    path, config, reference = file_of("edm", name)
    x, sigma, one_hot = (reference.arrays[key] for key in ("x", "sigma", "class_labels"))
    with torch.no_grad():
        network = load_network(path, "edm", config)
        assert relative_error(network(x, sigma, one_hot), reference.arrays["denoised"]) < 1e-5
        assert relative_error(network(x, sigma[:, None, None, None], one_hot), reference.arrays["denoised"]) < 1e-5
        denoiser = load_denoiser(path, "edm", config)
        assert relative_error(denoiser(x, sigma, one_hot.argmax(1)), reference.arrays["denoised"]) < 1e-5
        torch.testing.assert_close(network(x, sigma, torch.zeros_like(one_hot)), denoiser(x, sigma))
        torch.testing.assert_close(network(x, sigma), denoiser(x, sigma))
    assert denoiser.num_classes == 10


def test_robustbench(file_of, relative_error):
    path, config, reference = file_of("robustbench_wrn")
    image, logits = reference.arrays["x"], reference.arrays["logits"]
    with torch.no_grad():
        assert relative_error(load_network(path, "robustbench_wrn", config)(image), logits) < 1e-5
        assert relative_error(load_classifier(path, "robustbench_wrn", config)(image), logits) < 1e-5
        statistics = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
        normalised = load_classifier(path, "robustbench_wrn", config | statistics)
        mean, std = (torch.tensor(value)[:, None, None] for value in statistics.values())
        assert relative_error(normalised(image * std + mean), logits) < 1e-4


@pytest.mark.parametrize("format", NAMES)
def test_networks_take_the_publishers_keywords(format, file_of):
    path, config, reference = file_of(format)
    network = load_network(path, format, config)
    arguments = {keyword: reference.arrays[name] for keyword, name in KEYWORDS[format].items()}
    with torch.no_grad():
        assert torch.equal(network(**arguments), network(*arguments.values()))


@pytest.mark.parametrize("format", NAMES)
def test_loaded_networks_are_ready(format, file_of):
    path, config, _ = file_of(format)
    network = load_network(path, format, config)
    assert not any(module.training for module in network.modules())
    assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


def test_class_conditional_guided_diffusion(file_of, tmp_path):
    """A label reaches the network of the denoiser; learned variances do not leave it."""
    path, config, reference = file_of("guided_diffusion")
    torch.manual_seed(0)
    torch.save({**reference.state, "label_emb.weight": torch.randn(5, 128)}, path)
    denoiser = load_denoiser(path, "guided_diffusion", config | {"num_classes": 5})
    network = load_network(path, "guided_diffusion", config | {"num_classes": 5})
    with torch.no_grad():
        arguments = {"x": torch.randn(2, 3, 32, 32), "timesteps": torch.tensor([1, 2]), "y": torch.tensor([4, 1])}
        assert torch.equal(network(**arguments), network(*arguments.values()))
    assert denoiser.num_classes == 5
    x, sigma, label = torch.randn(2, 3, 32, 32), DDPM().sigmas[[10, 500]].float(), torch.tensor([4, 1])
    with torch.no_grad():
        out = denoiser(x, sigma, label)
        eps = denoiser.network(x / (1 + sigma**2).sqrt()[:, None, None, None], torch.tensor([10, 500]), label)[:, :3]
    torch.testing.assert_close(out, x - sigma[:, None, None, None] * eps, rtol=1e-4, atol=1e-4)


def test_score_sde_with_fourier_features(tmp_path):
    """The frequencies are not trained, hence not averaged: they come from ``model``."""
    config = {"image_size": 16, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8]}
    config |= {"embedding_type": "fourier", "progressive_input": "residual", "fir": True, "scale_by_sigma": True}
    network = build_body("score_sde", config)
    torch.manual_seed(0)
    trained = [torch.randn(p.shape) for p in network.parameters() if p.requires_grad]
    frequencies = torch.randn(8)
    content = {"ema": {"shadow_params": trained}, "model": {"module.all_modules.0.W": frequencies}}
    torch.save(content, tmp_path / "ve.pth")
    loaded = load_network(tmp_path / "ve.pth", "score_sde", config)
    torch.testing.assert_close(loaded.all_modules[0].W, frequencies, rtol=0, atol=0)
    assert not loaded.all_modules[0].W.requires_grad
    torch.testing.assert_close(loaded.sigmas[[0, -1]], torch.tensor([50.0, 0.01]))
    torch.save({"ema": {"shadow_params": trained}, "model": {}}, tmp_path / "ve.pth")
    with pytest.raises(ValueError, match=r"must hold all_modules.0.W, .* under model; it does not"):
        load_network(tmp_path / "ve.pth", "score_sde", config)


# Variants of published files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", NAMES)
def test_plain_and_wrapped_state_dicts(format, file_of, relative_error):
    path, config, reference = file_of(format)
    expected = load_network(path, format, config).state_dict()
    for state in (reference.state, {f"module.{name}": value for name, value in reference.state.items()}):
        torch.save(state, path)
        for name, value in load_network(path, format, config).state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8)


def assert_same_state(network, expected):
    """Every entry of ``network``'s state equals the one of ``expected``, batch counters aside."""
    state = network.state_dict()
    assert state.keys() == expected.keys()
    for name in state:
        assert name.endswith("num_batches_tracked") or torch.equal(state[name], expected[name]), name


@pytest.mark.parametrize("format", NAMES)
def test_files_of_old_torch(format, file_of):
    path, config, _ = file_of(format)
    expected = load_network(path, format, config).state_dict()
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert_same_state(load_network(path, format, config), expected)


def test_tensors_of_old_torch_are_mapped_exactly(tmp_path):
    """Views, shared and empty storages, every type; and a copy outlives the file."""
    base = torch.arange(12.0)
    content = {"whole": base, "view": base[3:9].reshape(2, 3).t(), "empty": torch.empty(0), "number": 3, "list": [base]}
    content |= {str(dtype): torch.arange(5).to(dtype) for dtype in legacy_torch.STORAGES.values()}
    content["parameter"] = torch.nn.Parameter(torch.ones(2))
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    read = legacy_torch.read_mapped(tmp_path / "old.pt")
    assert read.keys() == content.keys() and read["number"] == 3
    assert read["whole"].data_ptr() == read["list"][0].data_ptr()
    copies = {name: value.clone() for name, value in read.items() if isinstance(value, torch.Tensor)}
    (tmp_path / "old.pt").write_bytes(bytes((tmp_path / "old.pt").stat().st_size))
    for name, value in copies.items():
        assert value.dtype == content[name].dtype
        torch.testing.assert_close(value, content[name].detach(), rtol=0, atol=0)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("averaged", [True, False])
def test_networks_outlive_their_mapped_files(averaged, zipped, file_of):
    path, config, reference = file_of("score_sde")
    content = torch.load(path, weights_only=True) if averaged else reference.state
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    network = load_network(path, "score_sde", config)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    for name, value in network.named_parameters():
        torch.testing.assert_close(value.detach(), reference.state[name], rtol=0, atol=0)
        assert value.data_ptr() % 4 == 0


def test_files_of_old_torch_without_batch_counters(file_of):
    path, config, reference = file_of("robustbench_wrn")
    expected = load_classifier(path, "robustbench_wrn", config).state_dict()
    torch.save({k: v for k, v in reference.state.items() if not k.endswith("num_batches_tracked")}, path)
    assert_same_state(load_classifier(path, "robustbench_wrn", config), expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_beside_the_weights_are_ignored(zipped, file_of):
    path, config, reference = file_of("robustbench_wrn")
    expected = load_classifier(path, "robustbench_wrn", config).state_dict()
    content = {"state_dict": reference.state, "best": np.float64(94.78), "epoch": np.int64(200), "lr": 0.1}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_same_state(load_classifier(path, "robustbench_wrn", config), expected)


def test_half_precision_files_become_float32(file_of):
    path, config, reference = file_of("guided_diffusion")
    torch.save({name: value.half() for name, value in reference.state.items()}, path)
    assert next(load_network(path, "guided_diffusion", config).parameters()).dtype == torch.float32


@pytest.mark.parametrize("format", ["score_sde", "sdedit_ddpm"])
def test_a_missing_image_size_is_deduced_from_the_names(format, file_of):
    path, config, _ = file_of(format)
    size = config.pop("image_size")
    assert load_network(path, format, config).config["attn_resolutions"] == config["attn_resolutions"]
    loaded = load_network(path, format, config | {"image_size": size})
    assert load_network(path, format, config).state_dict().keys() == loaded.state_dict().keys()


def test_an_edm_pickle_is_read_and_not_executed(file_of, tmp_path, persistent, relative_error):
    """``{"ema": object, ...}`` where each module of the object carries the source code of its class."""
    config, reference = file_of("edm")[1:]

    def module(state):
        made = persistent()
        for name in dict.fromkeys(key.split(".")[0] for key in state if "." in key):
            inner = {key.partition(".")[2]: value for key, value in state.items() if key.split(".")[0] == name}
            made.add_module(name, module(inner))
        for name in [key for key in state if key == "resample_filter"]:
            made.register_buffer(name, state[name])
        for name in [key for key in state if "." not in key and key != "resample_filter"]:
            made.register_parameter(name, torch.nn.Parameter(state[name]))
        return made

    path = tmp_path / "edm.pkl"
    path.write_bytes(pickle.dumps({"ema": module(reference.state), "dataset_kwargs": {"resolution": 16}}))
    x, sigma, one_hot = (reference.arrays[key] for key in ("x", "sigma", "class_labels"))
    with torch.no_grad():
        out = load_network(path, "edm", config)(x, sigma, one_hot)
    assert relative_error(out, reference.arrays["denoised"]) < 1e-5
