"""Published formats: written as their publishers write them, loaded, and compared with the publishers' output."""

import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from common.checkpoints.formats import legacy_torch
from common.checkpoints.formats.bodies import build_body
from common.checkpoints.formats.options import flatten
from common.checkpoints.loading import load_classifier, load_denoiser, load_network
from common.commands.conversion import convert
from common.diffusion.schedules import DDPM

NAMES = {
    "score_sde": "score_sde_small",
    "guided_diffusion": "guided_diffusion_small",
    "edm": "edm_ddpmpp_cond_small",
    "sdedit_ddpm": "sdedit_ddpm_small",
    "robustbench_wrn": "robustbench_wrn_small",
}
BOTH_EDM = ["edm_ddpmpp_cond_small", "edm_adm_cond_small"]


def score_sde_file(reference, path, drop=()):
    """``{optimizer, model, ema, step}``, with wrong numbers everywhere except in the average."""
    names = list(reference.spec["tensors"])
    wrong = {f"module.{name}": torch.full_like(value, 9.0) for name, value in reference.state.items()}
    average = [reference.state[name] for name in names]
    moments = {
        i: {"step": 7, "exp_avg": torch.ones_like(v), "exp_avg_sq": torch.ones_like(v)} for i, v in enumerate(average)
    }
    content = {
        "optimizer": {"state": moments, "param_groups": [{"lr": 2e-4, "params": list(range(len(average)))}]},
        "model": wrong,
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": average},
        "step": 7,
    }
    torch.save({key: value for key, value in content.items() if key not in drop}, path)
    return path


@pytest.fixture
def file_of(published, tmp_path):
    """``file_of(format)`` -> (path of a file in the publishers' layout, config, reference)."""

    def write(format, name=None):
        reference = published(name or NAMES[format])
        path = tmp_path / f"{format}.pt"
        if format == "score_sde":
            score_sde_file(reference, path)
        elif format == "robustbench_wrn":
            torch.save({"state_dict": {f"module.{key}": value for key, value in reference.state.items()}}, path)
        else:
            torch.save(reference.state, path)
        return path, reference.config, reference

    return write


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


KEYWORDS = {
    "score_sde": {"x": "x", "time_cond": "t"},
    "guided_diffusion": {"x": "x", "timesteps": "t"},
    "edm": {"x": "x", "sigma": "sigma", "class_labels": "class_labels"},
    "sdedit_ddpm": {"x": "x", "t": "t"},
    "robustbench_wrn": {"image": "x"},
}


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


# Options --------------------------------------------------------------------------------------------------------------


def test_sections_and_manifests_are_flattened():
    assert flatten({"a": 1}) == {"a": 1}
    assert flatten({"data": {"image_size": 8}, "model": {"nf": 4}, "training": {"lr": 1}}) == {"image_size": 8, "nf": 4}
    training = {"sde": "vesde", "continuous": True}
    assert flatten({"model": {"nf": 4}, "training": {"lr": 1, **training}, "optim": {}}) == {"nf": 4, **training}
    assert flatten({"nf": 4, "training": {"lr": 1, **training}}) == {"nf": 4, **training}
    assert flatten({"format": "x", "config": {"nf": 4}, "training": training}) == {"nf": 4, **training}
    assert flatten({"image_size": 8, "sde": "vesde", "model": {"nf": 4}}) == {"image_size": 8, "sde": "vesde", "nf": 4}
    assert flatten({"format": "x", "config": {"nf": 4}, "image_size": 8, "tensors": {}}) == {"nf": 4, "image_size": 8}
    assert flatten(None) == {}
    with pytest.raises(ValueError, match=r"config must be the publishers' options, by name; got a str: 'cifar10\.yml'"):
        flatten("cifar10.yml")


def test_guided_diffusions_command_line_options():
    """The options of the published ImageNet-256 network, as in DiffPure's configuration of it."""
    script = {
        "attention_resolutions": "32,16,8",
        "class_cond": False,
        "diffusion_steps": 1000,
        "rescale_timesteps": True,
        "timestep_respacing": "1000",
        "image_size": 256,
        "learn_sigma": True,
        "noise_schedule": "linear",
        "num_channels": 256,
        "num_head_channels": 64,
        "num_res_blocks": 2,
        "resblock_updown": True,
        "use_fp16": True,
        "use_scale_shift_norm": True,
    }
    network = build_body("guided_diffusion", script)
    assert sum(p.numel() for p in network.parameters()) == 552_814_086
    assert network.config["attention_resolutions"] == [8, 16, 32]
    small = build_body("guided_diffusion", script | {"image_size": 64, "channel_mult": "1,2", "class_cond": True})
    assert small.config["channel_mult"] == [1, 2]
    assert small.config["num_classes"] == 1000
    with pytest.raises(ValueError, match="channel_mult has a default for image sizes 32, 64"):
        build_body("guided_diffusion", script | {"image_size": 48})


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("score_sde", {"num_blocks": 3}, r"format score_sde has no option 'num_blocks'. Did you mean .*num_res_blocks"),
        ("score_sde", {"zzz": 3}, r"format score_sde has no option 'zzz'. It has .*num_res_blocks"),
        ("score_sde", {"ch_mult": "1,2"}, "option ch_mult must be a list of numbers; got '1,2'"),
        ("score_sde", {"ch_mult": ["1"]}, "option ch_mult must be a list of numbers"),
        ("score_sde", {"nf": "8"}, "option nf must be an integer; got '8'"),
        ("score_sde", {"progressive": 1}, "option progressive must be a name; got 1"),
        ("score_sde", {"fir": "no"}, "option fir must be true or false"),
        ("score_sde", {"nf": -8}, "the config must describe a network; its sizes do not"),
        ("score_sde", {"name": "ddpm"}, "of option name only 'ncsnpp' is implemented; got 'ddpm'"),
        ("score_sde", {"normalization": "BatchNorm"}, "only 'GroupNorm'"),
        ("sdedit_ddpm", {"type": "bayesian"}, "only 'simple'"),
        ("sdedit_ddpm", {}, "for format sdedit_ddpm must have image_size; it has no option at all"),
        ("guided_diffusion", {"num_channels": 32}, "must have image_size; it has 'num_channels'"),
        ("edm", {"label_dim": 3}, "for format edm must have img_resolution; it has 'label_dim'"),
        ("edm", {"model_type": "DiT"}, "model_type must be one of SongUNet, DhariwalUNet"),
        ("guided_diffusion", {"image_size": 32, "dims": 3}, "only 2"),
    ],
)
def test_invalid_options_are_refused(format, options, message):
    with pytest.raises(ValueError, match=message):
        build_body(format, options)


def test_files_of_another_kind(file_of):
    path, config, _ = file_of("guided_diffusion")
    with pytest.raises(ValueError, match="use load_denoiser"):
        load_classifier(path, "guided_diffusion", config)
    path, config, _ = file_of("robustbench_wrn")
    with pytest.raises(ValueError, match="use load_classifier"):
        load_denoiser(path, "robustbench_wrn", config)


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["guided_diffusion", "edm", "sdedit_ddpm", "robustbench_wrn"])
def test_wrong_keys_are_listed(format, file_of):
    path, config, reference = file_of(format)
    state = dict(reference.state)
    lost, bent, *_ = [name for name in state if state[name].ndim == 4 and "resample" not in name]
    state[lost + "_extra"] = state.pop(lost)
    state[bent] = state[bent].flatten()
    torch.save(state, path)
    bare = re.escape(lost.removeprefix("model."))
    with pytest.raises(ValueError, match=rf"missing: {bare}; left over: {bare}_extra; of another shape: \S+ \(\d+,\)"):
        load_network(path, format, config)


def test_wrong_averages_are_named(file_of, published):
    path, config, reference = file_of("score_sde")
    content = torch.load(path, weights_only=True)
    average = content["ema"]["shadow_params"]

    def refused(shadow, message):
        torch.save({**content, "ema": {"shadow_params": shadow}}, path)
        with pytest.raises(ValueError, match=message):
            load_network(path, "score_sde", config)

    refused(average[:-1], rf"{len(average)} averaged weights .* it holds {len(average) - 1}")
    refused([*average[:4], average[5], average[4], *average[6:]], r"averaged weight 4 must be all_modules.2.weight")
    refused({"a": 1}, "list under ema.shadow_params")
    refused(
        [value * float("nan") if i == 3 else value for i, value in enumerate(average)], "finite.*all_modules.1.bias"
    )
    without = {name: value for name, value in config.items() if name != "image_size"}
    torch.save({**content, "ema": {"shadow_params": average[:-1]}}, path)
    with pytest.raises(ValueError, match=r"The config gives no image_size: this is for 32\."):
        load_network(path, "score_sde", without)
    score_sde_file(reference, path, drop=("ema",))
    with pytest.raises(
        ValueError, match=r"must hold averaged weights under ema, or tensors .*it holds optimizer, model"
    ):
        load_network(path, "score_sde", config)


def test_a_filter_that_contradicts_the_config(file_of):
    path, config, reference = file_of("edm")
    state = {k: v * 0 + 0.5 if k.endswith("resample_filter") else v for k, v in reference.state.items()}
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"resample_filter\. Correct the config"):
        load_network(path, "edm", config)


def checked_message(error):
    """The message of an error, checked: one line, without the advice of libraries to execute the file."""
    text = str(error.value)
    assert "\n" not in text and len(text) < 360 + len(os.getcwd()), text
    assert "weights_only" not in text and "trust" not in text and "()" not in text, text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("format", NAMES)
def test_damaged_files(format, zipped, file_of):
    path, config, _ = file_of(format)
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    pieces = [content[:length] for length in (0, 1, 20, 40, 100, len(content) // 2, len(content) - 1)]
    for damaged in (*pieces, b"PK\x03\x04nonsense", b"\x80\x04x", bytes(range(256))):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"cannot be read as an? .*damaged, cut short or of another format"
        ) as error:
            load_network(path, format, config)
        assert re.search(r"\([^()]{8,}", checked_message(error)), "a reason"
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"truncated|central directory|EOF"):
        load_network(path, format, config)
    path.write_text("<!DOCTYPE html><html>Too many users have viewed or downloaded this file")
    with pytest.raises(ValueError, match="is a web page") as error:
        load_network(path, format, config)
    checked_message(error)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_network(path.with_name("nowhere.pt"), format, config)


@pytest.mark.parametrize("content", [[1, 2], {"net": {"a": torch.zeros(2)}, "epoch": 3}, torch.zeros(3), {}])
@pytest.mark.parametrize("format", NAMES)
def test_foreign_files(format, content, file_of):
    path, config, _ = file_of(format)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"it holds|missing") as error:
        load_network(path, format, config)
    checked_message(error)


class Run:
    """A pickle that executes a command when it is read."""

    def __reduce__(self):
        return (os.system, ("touch RAN",))


@pytest.mark.parametrize("layout", ["zip", "old torch", "pickle"])
@pytest.mark.parametrize("format", NAMES)
def test_malicious_files_execute_nothing(format, layout, file_of, tmp_path, monkeypatch):
    path, config, reference = file_of(format)
    monkeypatch.chdir(tmp_path)
    content = {"ema": {"shadow_params": [], "x": Run()}, "state_dict": reference.state, "x": Run()}
    if layout == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(ValueError, match=r"Nothing in it was executed|must hold") as error:
        load_network(path, format, config)
    if layout != "pickle" or format == "edm":
        assert f"it names {os.system.__module__}.system, which is code" in checked_message(error)
    assert not (tmp_path / "RAN").exists()


# Our own format from theirs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", NAMES)
def test_converted_files_need_only_their_path(format, file_of, tmp_path):
    path, config, reference = file_of(format)
    target = convert(path, tmp_path / "ours.safetensors", format, config)
    image = torch.rand(2, 3, *reference.arrays["x"].shape[2:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if format == "robustbench_wrn":
            torch.testing.assert_close(load_classifier(target)(image), load_classifier(path, format, config)(image))
            return
        sigma = torch.tensor([0.1, 2.0])
        expected = load_denoiser(path, format, config)(image, sigma)
        torch.testing.assert_close(load_denoiser(target)(image, sigma), expected)


@pytest.mark.parametrize("kind", [None, "network"])
@pytest.mark.parametrize("format", NAMES)
def test_the_network_of_a_converted_file_is_the_published_one(format, kind, file_of, tmp_path):
    """Denoiser, classifier or network in the file: the same calls give the same bits."""
    path, config, reference = file_of(format)
    target = convert(path, tmp_path / "ours.safetensors", format, config, kind)
    theirs, ours = load_network(path, format, config), load_network(target)
    assert not any(module.training for module in ours.modules())
    assert type(ours) is type(theirs) and ours.state_dict().keys() == theirs.state_dict().keys()
    arguments = {keyword: reference.arrays[name] for keyword, name in KEYWORDS[format].items()}
    with torch.no_grad():
        assert torch.equal(ours(**arguments), theirs(**arguments))
        assert torch.equal(ours(*arguments.values()), theirs(**arguments))


def test_edms_network_loads_as_a_denoiser(file_of, tmp_path):
    path, config, reference = file_of("edm")
    target = convert(path, tmp_path / "ours.safetensors", "edm", config, "network")
    x, sigma, label = reference.arrays["x"], reference.arrays["sigma"], reference.arrays["class_labels"].argmax(1)
    with torch.no_grad():
        assert torch.equal(load_denoiser(target)(x, sigma, label), load_denoiser(path, "edm", config)(x, sigma, label))


# Memory ---------------------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys, json, torch
from common.checkpoints.loading import load_network
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
network = load_network(sys.argv[1], "score_sde", json.loads(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("zipped", [True, False])
def test_of_a_score_sde_file_only_the_average_is_read(zipped, tmp_path):
    """Optimiser state and raw weights are not read: memory holds at most two copies of the average, a quarter each."""
    config = {"image_size": 32, "nf": 96, "ch_mult": [1, 2], "num_res_blocks": 2, "attn_resolutions": [16]}
    network = build_body("score_sde", config)
    average = [torch.zeros(p.shape) for p in network.parameters()]
    moments = {i: {"exp_avg": torch.ones_like(v), "exp_avg_sq": torch.ones_like(v)} for i, v in enumerate(average)}
    model = {f"module.{name}": torch.ones(p.shape) for name, p in network.named_parameters()}
    path = tmp_path / "checkpoint_8.pth"
    content = {"optimizer": {"state": moments}, "model": model, "ema": {"shadow_params": average}, "step": 1}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    command = [sys.executable, "-c", MEASURE, str(path), json.dumps(config)]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=os.getcwd()).stdout)
    print(f"file {path.stat().st_size / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB")
    assert path.stat().st_size > 80e6
    assert peak < 0.75 * path.stat().st_size
