"""Every kind of picture file becomes the pixels a person sees, and resizing is what timm does."""

import pickle
import struct
import zlib

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from common.data.image_files import Crop, UnreadableError, decode, list_pictures, measure

RED, WHITE = (255, 0, 0), (255, 255, 255)


def pixels(path, channels=3):
    return np.asarray(decode(path, channels))


@pytest.fixture
def colours():
    """5 x 4 pixels (width x height), all different."""
    return np.random.RandomState(0).randint(0, 256, (4, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm"])
def test_lossless_formats_give_back_what_was_stored(tmp_path, colours, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(colours).save(tmp_path / f"a.{suffix}", **options)
    assert np.array_equal(pixels(tmp_path / f"a.{suffix}"), colours)
    assert measure(tmp_path / f"a.{suffix}") == (4, 5)


def test_jpeg_is_close(tmp_path):
    smooth = np.broadcast_to(np.linspace(40, 200, 16).round().astype(np.uint8)[None, :, None], (16, 16, 3))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - smooth).max() <= 4


def test_transparent_parts_are_white(tmp_path, colours):
    alpha = np.zeros((4, 5, 1), dtype=np.uint8)
    alpha[1], alpha[2] = 255, 51  # opaque; one fifth
    Image.fromarray(np.concatenate([colours, alpha], 2)).save(tmp_path / "a.png")
    found = pixels(tmp_path / "a.png")
    assert (found[0] == 255).all() and np.array_equal(found[1], colours[1])
    assert np.abs(found[2] - (0.2 * colours[2] + 0.8 * 255)).max() <= 1


def test_a_transparent_palette_and_a_transparent_grey_are_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=1)
    assert pixels(tmp_path / "p.png").tolist() == [[list(RED), list(WHITE)]]
    palette.save(tmp_path / "opaque.gif")
    assert pixels(tmp_path / "opaque.gif").tolist() == [[list(RED), [0, 0, 255]]]
    grey = Image.new("LA", (2, 1), (0, 0))
    grey.putpixel((1, 0), (100, 255))
    grey.save(tmp_path / "la.png")
    assert pixels(tmp_path / "la.png", channels=1).tolist() == [[255, 100]]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    grey = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(grey).save(tmp_path / name)
        assert pixels(tmp_path / name, channels=1).tolist() == [[0, 1, 100, 255]]
        assert pixels(tmp_path / name)[0, 2].tolist() == [100, 100, 100]
    rows = struct.pack(">B6H", 0, 65535, 0, 257, 25700, 0, 65535)  # PNG of 2 x 1 pixels, 16-bit colour
    (tmp_path / "rgb.png").write_bytes(png(2, 1, depth=16, colour=2, data=rows))
    assert np.abs(pixels(tmp_path / "rgb.png").astype(int) - [[[255, 0, 1], [100, 0, 255]]]).max() <= 1


def png(width, height, depth, colour, data):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_other_colour_modes(tmp_path, colours):
    Image.new("1", (2, 1), 1).save(tmp_path / "bit.png")
    assert pixels(tmp_path / "bit.png").min() == 255
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "cmyk.jpg")[4, 4].astype(int) - RED).max() <= 4
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    luma = colours @ [0.299, 0.587, 0.114]
    assert np.abs(pixels(tmp_path / "rgb.png", channels=1) - luma).max() <= 1
    with pytest.raises(ValueError, match="3 channels or 1"):
        decode(tmp_path / "rgb.png", channels=4)


def test_a_turned_photograph_stands_upright(tmp_path):
    photograph = Image.new("RGB", (16, 8), "black")
    photograph.paste("white", (0, 0, 8, 8))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the top of the scene is at the right
    photograph.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert measure(tmp_path / "a.jpg") == (16, 8)
    found = pixels(tmp_path / "a.jpg")
    assert found.shape == (16, 8, 3) and found[:6].min() > 200 and found[10:].max() < 55


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "float", "bomb"])
def test_what_cannot_be_read_says_why(tmp_path, damage, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 40), dtype=np.uint8)).save(path)
    if damage == "text":
        path.write_text("not a picture")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:600])
    elif damage == "float":
        path = tmp_path / "a.tiff"
        Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(path)
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableError) as raised:
        decode(path)
    assert len(str(raised.value)) > 5


def test_linked_folders_are_read_once(tmp_path):
    for name in ("b/1.png", "b/.hidden/1.png", "b/.2.png", "elsewhere/3.JPG", "elsewhere/deep/4.jfif", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b" / "again").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere")
    assert list_pictures(tmp_path / "b") == ["1.png", "gone.png", "link/3.JPG", "link/deep/4.jfif"]


@pytest.mark.parametrize(("size", "crop_pct", "filter_"), [(24, 0.875, "BICUBIC"), (32, 1.0, "BILINEAR")])
@pytest.mark.parametrize("shape", [(40, 60), (61, 33), (24, 24)])
def test_the_shorter_side_is_resized_and_the_centre_kept(size, crop_pct, filter_, shape):
    picture = Image.fromarray(np.random.RandomState(1).randint(0, 256, (*shape, 3), dtype=np.uint8))
    found = Crop(size, crop_pct, filter_.lower())(picture)
    side = int(size / crop_pct)
    width, height = (side * max(1, picture.width / picture.height), side * max(1, picture.height / picture.width))
    resized = picture.resize((int(width), int(height)), Image.Resampling[filter_])
    top, left = (round((length - size) / 2) for length in (resized.height, resized.width))
    expected = np.asarray(resized)[top : top + size, left : left + size]
    assert found.dtype == torch.float32 and Crop(size, crop_pct).sides == found.shape[1:]
    assert torch.equal(found, torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)


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
    picture = Image.fromarray(np.random.RandomState(1).randint(0, 256, (180, 260, 3), dtype=np.uint8))
    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    reference = timm.data.create_transform(**config, is_training=False)
    crop = Crop(timm_model=name)
    found = pickle.loads(pickle.dumps(crop))(picture)  # as a worker process has it
    assert crop.sides == found.shape[1:] == config["input_size"][1:] and 0 <= found.min() < found.max() <= 1
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    assert torch.equal((found - mean) / std, reference(picture))


def test_without_a_size_nothing_is_resized():
    picture = Image.fromarray(np.arange(0, 240, 4, dtype=np.uint8).reshape(4, 5, 3))
    assert torch.equal(Crop()(picture), torch.arange(0, 240, 4).reshape(4, 5, 3).permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    "options",
    [{"size": 0}, {"crop_pct": 0.0}, {"crop_pct": 1.1}, {"interpolation": "cubic"}, {"timm_model": "resnet51"}],
)
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Crop(**options)
