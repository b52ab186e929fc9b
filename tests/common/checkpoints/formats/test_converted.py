"""Files of our own format, converted from the publishers'."""

import pytest
import torch

from common.checkpoints.loading import load_classifier, load_denoiser, load_network
from common.commands.conversion import convert
from tests.common.checkpoints.formats.files import KEYWORDS, NAMES

pytestmark = pytest.mark.filterwarnings("ignore:.*holds averaged weights")  # beside raw ones, as it is published

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
