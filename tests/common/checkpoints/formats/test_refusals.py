"""Refused options and files: wrong, foreign, damaged and malicious."""

import os
import pickle
import re

import pytest
import torch

from common.checkpoints.formats.bodies import build_body
from common.checkpoints.formats.options import flatten
from common.checkpoints.loading import load_classifier, load_denoiser, load_network
from tests.common.checkpoints.formats.files import NAMES, score_sde_file

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
        ("score_sde", {"nf": -8}, "nf must be an integer >= 1; got -8"),
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


@pytest.mark.filterwarnings("ignore:.*holds averaged weights")  # beside raw ones, as it is published
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
