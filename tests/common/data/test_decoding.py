"""Decoding: every format, colour mode and orientation gives the pixels that a viewer shows."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common.data.decoding import UnreadableImageError, decode_image, image_size, list_image_files

RED, WHITE = (255, 0, 0), (255, 255, 255)


def pixels(path, channels=3):
    return np.asarray(decode_image(path, channels))


@pytest.fixture
def colours():
    """5 x 4 pixels (width x height), all different."""
    return np.random.RandomState(0).randint(0, 256, (4, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm"])
def test_lossless_formats_are_decoded_exactly(tmp_path, colours, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(colours).save(tmp_path / f"a.{suffix}", **options)
    assert np.array_equal(pixels(tmp_path / f"a.{suffix}"), colours)
    assert image_size(tmp_path / f"a.{suffix}") == (4, 5)


def test_jpeg_is_close(tmp_path):
    smooth = np.broadcast_to(np.linspace(40, 200, 16).round().astype(np.uint8)[None, :, None], (16, 16, 3))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - smooth).max() <= 4


def test_transparent_parts_are_white(tmp_path, colours):
    alpha = np.zeros((4, 5, 1), dtype=np.uint8)
    alpha[1], alpha[2] = 255, 51  # opaque; one fifth
    Image.fromarray(np.concatenate([colours, alpha], 2)).save(tmp_path / "a.png")
    decoded = pixels(tmp_path / "a.png")
    assert (decoded[0] == 255).all() and np.array_equal(decoded[1], colours[1])
    assert np.abs(decoded[2] - (0.2 * colours[2] + 0.8 * 255)).max() <= 1


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
        decode_image(tmp_path / "rgb.png", channels=4)


def test_the_orientation_tag_of_a_photograph_is_applied(tmp_path):
    photograph = Image.new("RGB", (16, 8), "black")
    photograph.paste("white", (0, 0, 8, 8))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the top of the scene is at the right
    photograph.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert image_size(tmp_path / "a.jpg") == (16, 8)
    decoded = pixels(tmp_path / "a.jpg")
    assert decoded.shape == (16, 8, 3) and decoded[:6].min() > 200 and decoded[10:].max() < 55


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "float", "bomb"])
def test_unreadable_files_raise_with_a_reason(tmp_path, damage, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 40), dtype=np.uint8)).save(path)
    if damage == "text":
        path.write_text("not an image")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:600])
    elif damage == "float":
        path = tmp_path / "a.tiff"
        Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(path)
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError) as raised:
        decode_image(path)
    assert len(str(raised.value)) > 5


def test_linked_folders_are_read_once(tmp_path):
    for name in ("b/1.png", "b/.hidden/1.png", "b/.2.png", "elsewhere/3.JPG", "elsewhere/deep/4.jfif", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b" / "again").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere")
    assert list_image_files(tmp_path / "b") == ["1.png", "gone.png", "link/3.JPG", "link/deep/4.jfif"]
