"""Pictures as files."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from benchmarks.pictures import read_picture, write_picture


@given(hnp.arrays(np.uint8, (4, 4, 3)))
def test_bytes_survive_the_way_through_pictures(tmp_path_factory, pixels):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(pixels).save(path)
    picture = read_picture(path, 4)
    assert picture.dtype == np.float32
    write_picture(path, picture)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)


@given(st.floats(-2, 2, width=32))
def test_a_level_is_the_nearest_of_256(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    write_picture(path, np.full((3, 2, 2), value, dtype=np.float32))
    level = 127.5 * (min(max(value, -1), 1) + 1)
    assert np.abs(np.asarray(Image.open(path)) - level).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (8, 8)])
def test_a_picture_of_another_size_is_refused(tmp_path, shape):
    height, width = shape
    write_picture(tmp_path / "a.png", np.zeros((3, *shape), dtype=np.float32))
    message = f"{tmp_path / 'a.png'}: expected a picture of 4 x 4 pixels, got {width} x {height}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_picture(tmp_path / "a.png", 4)


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def encoded(image: Image.Image, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, **{"format": "PNG"} | options)
    return content.getvalue()


def read(folder: Path, content: bytes, name: str = "0000.png") -> np.ndarray:
    """What is read, as levels [8, 8, 3] in [0, 255]."""
    (folder / name).write_bytes(content)
    return (read_picture(folder / name, 8).transpose(1, 2, 0) + 1) * 127.5


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_pictures_of_eight_bits_are_read_as_they_are(tmp_path, mode):
    image = IMAGE.convert(mode)
    np.testing.assert_allclose(read(tmp_path, encoded(image)), np.asarray(image.convert("RGB")), atol=1e-4)


def test_sixteen_bits_of_grey_are_scaled(tmp_path):
    grey = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    levels = read(tmp_path, encoded(Image.fromarray(grey)))
    np.testing.assert_allclose(levels, np.repeat(grey[:, :, None] / 257, 3, axis=2), atol=1e-4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_it_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {2: (0,), 3: (3,), 4: (1,), 5: (5,), 6: (4,), 7: (6,), 8: (2,)}.get(orientation, ())
    expected = IMAGE.transpose(Image.Transpose(turn[0])) if turn else IMAGE
    levels = read(tmp_path, encoded(IMAGE, exif=exif))
    np.testing.assert_allclose(levels, np.asarray(expected), atol=1e-4)


def test_what_shines_through_is_refused_and_what_does_not_is_read(tmp_path):
    for mode in ("RGBA", "LA"):
        image = (IMAGE if mode == "RGBA" else IMAGE.convert("L")).convert(mode)
        np.testing.assert_allclose(read(tmp_path, encoded(image)), np.asarray(image.convert("RGB")), atol=1e-4)
        image.putpixel((0, 0), (*image.getpixel((0, 0))[:-1], 254))
        with pytest.raises(ValueError, match=r"0000.png: expected an opaque picture"):
            read(tmp_path, encoded(image))
    for image in (IMAGE.convert("P"), IMAGE, IMAGE.convert("L")):
        with pytest.raises(ValueError, match=r"0000.png: expected an opaque picture"):
            read(tmp_path, encoded(image, transparency=image.getpixel((0, 0))))


PNG = encoded(IMAGE)
DATA = PNG.index(b"IDAT") + 4


@pytest.mark.parametrize("place", [0, 20, DATA, DATA + 40, len(PNG) - 13, len(PNG) // 2])
def test_a_flipped_bit_is_noticed(tmp_path, place):
    content = bytearray(PNG)
    for bit in range(8):
        content[place] ^= 1 << bit
        with pytest.raises(ValueError, match=r"0000.png: "):
            read(tmp_path, bytes(content))
        content[place] ^= 1 << bit


@pytest.mark.parametrize("length", [0, 1, 8, 30, DATA, DATA + 20, len(PNG) - 14, len(PNG) - 12])
def test_a_truncated_picture_is_named(tmp_path, length):
    with pytest.raises(ValueError, match=r"0000.png: "):
        read(tmp_path, PNG[:length])


def test_truncated_pictures_of_other_formats_are_named(tmp_path):
    for format in ("JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        content = encoded(IMAGE, format=format)
        name = f"a.{format.lower()}"
        assert read(tmp_path, content, name).shape == (8, 8, 3)
        with pytest.raises(ValueError, match=re.escape(name)):
            read(tmp_path, content[: len(content) // 2], name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(IMAGE, save_all=True, append_images=[IMAGE.rotate(90)]), "expected one picture, got 2 frames"),
        (encoded(IMAGE, format="JPEG"), "expected PNG, as the name says, got JPEG"),
        (encoded(IMAGE, format="WEBP"), "expected PNG, as the name says, got WEBP"),
        (
            b"text",
            r"expected a picture \(BMP, GIF, JPEG, PNG, TIFF, WEBP\), got 4 bytes that are damaged or something else",
        ),
        (encoded(IMAGE, format="PPM"), "expected a picture"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"0000.png: {message}"):
        read(tmp_path, content)


def test_other_content_is_refused_under_other_names(tmp_path):
    moving = encoded(IMAGE, format="GIF", save_all=True, append_images=[IMAGE.rotate(90)])
    with pytest.raises(ValueError, match=r"a.gif: expected one picture, got 2 frames"):
        read(tmp_path, moving, "a.gif")
    printed = encoded(IMAGE.convert("CMYK"), format="JPEG")
    with pytest.raises(ValueError, match=r"a.jpg: expected grey or RGB of 8 bits or grey of 16, got mode CMYK"):
        read(tmp_path, printed, "a.jpg")
    with pytest.raises(ValueError, match=r"a.tif: expected grey or RGB .*, got mode F"):
        read(tmp_path, encoded(IMAGE.convert("F"), format="TIFF"), "a.tif")


@pytest.mark.parametrize(("size", "message"), [(20_000, "huge"), (12_000, "got 12000 x 12000")])
def test_a_huge_picture_is_told_by_its_size_and_never_unpacked(tmp_path, size, message):
    small = encoded(Image.new("1", (8, 8)))
    header = b"IHDR" + struct.pack(">II", size, size) + small[24:29]
    content = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=f"0000.png: expected a picture of 8 x 8 pixels, .*{message}"):
            read(tmp_path, content)


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("folder.png", "pipe.png"):
        with pytest.raises(ValueError, match=f"{name}: expected a file"):
            read_picture(tmp_path / name, 8)
    for name in ("loop.png", "none.png"):
        with pytest.raises(OSError, match=name):
            read_picture(tmp_path / name, 8)
    with pytest.raises(ValueError, match="null character"):
        read_picture(tmp_path / "a\0.png", 8)
