"""Crop: timm's evaluation transform without the normalisation."""

import pickle

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from common.data.crop import Crop


@pytest.mark.parametrize(("size", "crop_pct", "filter_"), [(24, 0.875, "BICUBIC"), (32, 1.0, "BILINEAR")])
@pytest.mark.parametrize("shape", [(40, 60), (61, 33), (24, 24)])
def test_the_shorter_side_is_resized_and_the_centre_kept(size, crop_pct, filter_, shape):
    image = Image.fromarray(np.random.RandomState(1).randint(0, 256, (*shape, 3), dtype=np.uint8))
    cropped = Crop(size, crop_pct, filter_.lower())(image)
    side = int(size / crop_pct)
    width, height = (side * max(1, image.width / image.height), side * max(1, image.height / image.width))
    resized = image.resize((int(width), int(height)), Image.Resampling[filter_])
    top, left = (round((length - size) / 2) for length in (resized.height, resized.width))
    expected = np.asarray(resized)[top : top + size, left : left + size]
    assert cropped.dtype == torch.float32 and Crop(size, crop_pct).sides == cropped.shape[1:]
    assert torch.equal(cropped, torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)


# bilinear at 0.95; bicubic at 0.875; squashed; padded in a colour of its own; not a square; smaller than its crop
MODELS = [
    "test_resnet.r160_in1k",
    "wide_resnet50_2",
    "vit_base_patch16_siglip_224.webli",
    "deepseek_vit_412m.deepseek_v4_1_flash",
    "vit_base_patch16_sapiens2.fb",
    "volo_d4_448.sail_in1k",
]


@pytest.mark.parametrize("name", [name for name in MODELS if timm.is_model(name)])  # older versions know fewer
def test_a_timm_models_crop_is_timms_own_before_normalisation(name):
    image = Image.fromarray(np.random.RandomState(1).randint(0, 256, (180, 260, 3), dtype=np.uint8))
    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    reference = timm.data.create_transform(**config, is_training=False)
    crop = Crop(timm_model=name)
    cropped = pickle.loads(pickle.dumps(crop))(image)  # as in a worker process
    assert crop.sides == cropped.shape[1:] == config["input_size"][1:] and 0 <= cropped.min() < cropped.max() <= 1
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    assert torch.equal((cropped - mean) / std, reference(image))


def test_without_a_size_nothing_is_resized():
    image = Image.fromarray(np.arange(0, 240, 4, dtype=np.uint8).reshape(4, 5, 3))
    assert torch.equal(Crop()(image), torch.arange(0, 240, 4).reshape(4, 5, 3).permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    "options",
    [{"size": 0}, {"crop_pct": 0.0}, {"crop_pct": 1.1}, {"interpolation": "cubic"}, {"timm_model": "resnet51"}],
)
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Crop(**options)
