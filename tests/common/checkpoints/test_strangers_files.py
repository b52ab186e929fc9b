"""Checkpoints of a stranger: sizes are bounded, nothing is opened or altered, and each answer is one line."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from common.checkpoints.formats import unpickler
from common.checkpoints.formats.reading import read_published, read_training_checkpoint
from common.checkpoints.formats.unpickler import InertObject, TensorUnpickler, read_tensors
from common.checkpoints.loading import load
from common.checks.bounds import OPTION, BoundError

NETWORKS = "common.networks"


def described(description: Any, path: Path) -> Path:
    text = description if isinstance(description, str) else json.dumps({"format": 1, **description})
    save_file({"a": torch.zeros(2)}, path / "a.safetensors", metadata={"robust_diffusion": text})
    return path / "a.safetensors"


def part(name: str, /, **config: Any) -> dict[str, Any]:
    return {"class": name, "config": config}


TOO_LARGE = {
    "depth": part(f"{NETWORKS}.WideResNet", depth=6 * 10**9 + 4),
    "layers": part(f"{NETWORKS}.WideResNet", depth=600_004),
    "width": part(f"{NETWORKS}.SmallCNN", num_classes=10, in_channels=3, width=500_000),
    "blocks": part(f"{NETWORKS}.CIFARResNet", blocks=[900_000, 1, 1, 1]),
    "classes": part(f"{NETWORKS}.TimmNetwork", name="resnet18", num_classes=10**6),
    "timm's options": part(f"{NETWORKS}.TimmNetwork", name="resnet18", options={"layers": [2, 2, 2, 10**7]}),
    "nesting": part(f"{NETWORKS}.WideResNet", depth=json.loads("[" * 60 + "]" * 60)),
    "text": part(f"{NETWORKS}.WideResNet", depth="9" * 1_000_001),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_description_cannot_ask_for_more_than_its_file_holds(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"cannot be built: .*asks for .* set {OPTION}=\w+=[\d.e+]+$") as refused:
        load(described(TOO_LARGE[name], tmp_path))
    assert "\n" not in str(refused.value)


REFUSED = {
    "a file for timm": part("timm", model_name="resnet18", num_classes=3, in_chans=3, checkpoint_path="FILE"),
    "a file in options": part(f"{NETWORKS}.TimmNetwork", name="resnet18", options={"checkpoint_path": "FILE"}),
    "weights of the web": part(f"{NETWORKS}.TimmNetwork", name="resnet18", options={"pretrained": True}),
    "an address": part(f"{NETWORKS}.TimmNetwork", name="resnet18", options={"pretrained_cfg": {"url": "file:FILE"}}),
    "a folder": part(f"{NETWORKS}.TimmNetwork", name="resnet18", options={"cache_dir": "."}),
    "a task": part("common.tasks.ClassifierTask", export="x"),
    "another package's weights": part("common.robustness.LPIPS", net="vgg"),
    "attribute": part(f"{NETWORKS}.TimmNetwork", name="resnet18", options={"block": 3}),
    "key": part(f"{NETWORKS}.TimmNetwork", name="resnet18", options={"norm_layer": "nowhere"}),
    "kind": part("common.robustness.NetworkClassifier", network=[1]),
    "depth of text": "[" * 100_000,
    "no mapping": "[]",
    "a schedule alone": part("common.diffusion.EDM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_description_is_one_error_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("secret")
    description = json.dumps(REFUSED[name]).replace("FILE", str(tmp_path / "file"))
    content = json.loads(description)
    with pytest.raises(ValueError, match=r"cannot be built|is damaged") as refused:
        load(described(content, tmp_path))
    assert type(refused.value) is ValueError and "\n" not in str(refused.value)


def deflated(path: Path, megabytes: int) -> Path:
    """A file of torch.save with zeros, compressed to a thousandth."""
    stored = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(megabytes << 18)}}, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return path


def test_a_compressed_file_cannot_unpack_to_a_multiple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = deflated(tmp_path / "a.pt", 70)
    for format in ("score_sde", "guided_diffusion", "edm", "torch"):
        with pytest.raises(BoundError, match=r"asks for 73,.* bytes of content; at most 67,"):
            read_published(path, format)
    with pytest.raises(BoundError, match="bytes of content"):
        read_training_checkpoint(path)
    nested = {"ema": Call(torch.storage._load_from_bytes, path.read_bytes())}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(nested))
    with pytest.raises(BoundError, match="bytes of content"):
        read_tensors(tmp_path / "a.pkl", "ema")
    monkeypatch.setenv(OPTION, "unpacked=2000")
    read_training_checkpoint(path)


class Call:
    """A pickle that calls ``function(*arguments)`` when it is read, and gives the result a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments, *([] if state is None else [state]))

    def __reduce__(self) -> Any:
        return self.call


def altering(name: str, state: bytes) -> bytes:
    """A pickle that sets the state of a name by BUILD."""
    return b"\x80\x02c" + name.encode() + b"\n" + state + b"b."


STATES = {"attributes": b"}X\x01\x00\x00\x00aK\x01s", "slots": b"N}X\x0c\x00\x00\x00__defaults__)s\x86"}


@pytest.mark.parametrize("name", ["torch._utils\n_rebuild_parameter", "_codecs\nencode", "copyreg\n_reconstructor"])
@pytest.mark.parametrize("state", STATES)
def test_what_reads_a_file_is_not_altered_by_it(name: str, state: str) -> None:
    function = unpickler.ALLOWED[tuple(name.split("\n"))]  # type: ignore[index]
    before = dict(vars(function)), function.__defaults__
    with pytest.raises(pickle.UnpicklingError, match="it alters a function"):
        TensorUnpickler(io.BytesIO(altering(name, STATES[state]))).load()
    for other in ("numpy\nndarray", "collections\nOrderedDict", "builtins\nset"):
        with pytest.raises(pickle.UnpicklingError, match="it alters a type"):
            TensorUnpickler(io.BytesIO(altering(other, STATES[state]))).load()
    assert (dict(vars(function)), function.__defaults__) == before


def test_a_module_inside_itself_and_a_table_of_any_size(tmp_path: Path) -> None:
    inner, path = InertObject(), tmp_path / "a.pkl"
    inner.state["_modules"] = {"a": inner}
    with pytest.raises(BoundError, match="levels of parts"):
        unpickler._named(inner, "a.pkl")
    leaf = InertObject()
    for _ in range(40):  # 2^40 modules by name
        above = InertObject()
        above.state["_modules"] = {"a": leaf, "b": leaf}
        leaf = above
    with pytest.raises(BoundError, match="tensors"):
        unpickler._named(leaf, "a.pkl")
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")  # the C unpickler takes 32 GB for this memo
    with pytest.raises(ValueError, match="a network under 'ema'"):
        read_tensors(path, "ema")


@pytest.mark.parametrize("content", ["code", "no state", "no dictionary", "no zip"])
def test_a_checkpoint_of_a_training_is_refused_in_one_line_without_advice_to_run_it(
    content: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    values = {"code": {"state_dict": {}, "x": Call(os.system, f"touch {tmp_path / 'ran'}")}, "no state": {"a": 1}}
    torch.save(values.get(content, [1]), path)
    if content == "no zip":
        path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(
        ValueError, match=r"cannot be read as a checkpoint of a training|must be a checkpoint"
    ) as refused:
        read_training_checkpoint(path)
    message = str(refused.value)
    assert "\n" not in message and "weights_only" not in message and not (tmp_path / "ran").exists()


def test_a_tensor_of_more_numbers_than_its_file_is_refused(tmp_path: Path) -> None:
    """An expanded one, with stride 0, and a sparse one take memory when they are copied."""
    one, path = torch.zeros(1), tmp_path / "a.ckpt"
    expanded = one.expand(1 << 40)
    sparse = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0), (1 << 40,))
    many = [torch.zeros(1).expand(1 << 20) for _ in range(99)]
    for value in (expanded, sparse, many):
        torch.save({"state_dict": {"a": value}}, path)
        with pytest.raises(BoundError, match="numbers in a network; at most 67,108,864"):
            read_training_checkpoint(path)
        with pytest.raises(BoundError, match="numbers in a network"):
            read_published(path, "torch")
    nested: dict[str, Any] = {"a": torch.zeros(4).expand(3, 4)}
    nested["itself"] = nested
    torch.save({"state_dict": nested}, path)
    assert read_training_checkpoint(path)["state_dict"]["a"].shape == (3, 4)
