"""Bounds of what a file may ask for: refused before memory is allocated, raised by an option."""

import base64
import io
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.checks.bounds import BOUNDS, OPTION, BoundError, bound, check_bound
from common.checks.image_files import open_image
from common.data.decoding import UnreadableImageError, decode_image, image_size
from common.records.rows import parse, sealed
from common.report.figures.image_grids import _decoded


def test_the_message_names_the_option_that_lets_the_file_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, unit in (("pixels", 1e9, 1), ("unpacked", 5e9, 1e6), ("depth", 51, 1), ("tensors", 123_456, 1)):
        with pytest.raises(BoundError, match=f"set {OPTION}={name}=") as refused:
            check_bound(name, value, "a.pt", unit=unit)
        monkeypatch.setenv(OPTION, f"size=7, {str(refused.value).rpartition(f'{OPTION}=')[2]}")
        check_bound(name, value, "a.pt", unit=unit)
        assert bound("size") == 7
    for wrong in ("pixel=3", "pixels", "pixels=many", "pixels=-1", "pixels=nan"):
        monkeypatch.setenv(OPTION, wrong)
        with pytest.raises(ValueError, match="must list NAME=NUMBER of pixels, "):
            bound("pixels")


def png(width: int, height: int) -> bytes:
    """A PNG whose header names a size, without the values."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    checksum = zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + checksum + b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1), (9460, 9460)])
def test_an_image_of_too_many_pixels_is_not_decoded(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(*size))
    for read in (decode_image, image_size):
        with pytest.raises(UnreadableImageError, match="pixels; at most 89,478,485 are read"):
            read(path)
    with pytest.raises(ValueError, match="pixels; at most 89,478,485 are read"):
        _decoded(base64.b64encode(path.read_bytes()).decode())
    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv(OPTION, "pixels=1e10")
    with open_image(path) as file:
        assert file.size == size
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("content", [b"", b"GIF89a", base64.b64encode(b"<svg/>"), b"%PDF-1.4"])
def test_a_records_image_is_a_png_or_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="must be a PNG in base64"):
        _decoded(content.decode())
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "BMP")
    with pytest.raises(ValueError, match="must be a PNG in base64"):
        _decoded(base64.b64encode(file.getvalue()).decode())


def test_a_pipe_among_images_or_records_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "part-0.jsonl")
    with pytest.raises(UnreadableImageError, match="no regular file"):
        decode_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="must be a regular file"):
        parse(tmp_path / "part-0.jsonl")


@pytest.mark.parametrize(
    "field", ['"label": 1' + "0" * 30, '"predictions": [1' + "0" * 4400 + "]", '"label": ' + "[" * 9999]
)
def test_numbers_and_depths_of_a_record_are_bounded(field: str, tmp_path: Path) -> None:
    header = sealed('{"config": {}, "fingerprint": "0", "format": "robust-diffusion records 2"}')
    row = '{"kind": "clean", "evaluator": "a", "index": 0, "label": 0, "predictions": [0]}'.replace(
        f'"{field.split(chr(34))[1]}": ' + ("0" if "label" in field else "[0]"), field
    )
    (tmp_path / "part-0.jsonl").write_bytes(header + sealed(row))
    with pytest.raises(ValueError, match="line 2 is damaged"):
        parse(tmp_path / "part-0.jsonl")


def test_the_security_page_lists_the_bounds() -> None:
    page = (Path(__file__).parents[3] / ".github" / "SECURITY.md").read_text()
    for name, one in BOUNDS.items():
        assert f"| `{name}` | {one.largest:,.0f} |" in page


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(x) (w) file\n"


@pytest.mark.parametrize("content", [EPS, b"8BPS\0\1" + bytes(40), b"/* XPM */\nstatic char *x[] = {", b"\xac\xed\0\5"])
def test_formats_whose_decoders_start_programs_are_not_tried(tmp_path: Path, content: bytes, monkeypatch: Any) -> None:
    """Under any name: Pillow hands EPS to Ghostscript."""
    monkeypatch.setattr("subprocess.check_call", lambda *given, **more: pytest.fail("a program was started"))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="not an image"):
        decode_image(tmp_path / "a.png")
