"""Pictures as files."""

from __future__ import annotations

import re

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


def grid() -> np.ndarray:
    return np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5


def test_modes_of_one_meaning_are_read(tmp_path):
    image = Image.fromarray(grid())
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        given = image.convert(mode)
        given.save(tmp_path / "a.png")
        pixels = (read_picture(tmp_path / "a.png", 4).transpose(1, 2, 0) + 1) * 127.5
        np.testing.assert_allclose(pixels, np.asarray(given.convert("RGB")), atol=1e-4)


def test_a_picture_is_turned_as_its_data_say(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grid()).save(tmp_path / "a.png", exif=exif)
    pixels = (read_picture(tmp_path / "a.png", 4).transpose(1, 2, 0) + 1) * 127.5
    np.testing.assert_allclose(pixels, np.rot90(grid(), k=-1), atol=1e-4)


def _odd_pictures(folder):
    """Files that are no picture of one meaning, and what is said of each."""
    image, path = Image.fromarray(grid()), folder / "a.png"
    image.save(path)
    good = path.read_bytes()
    at = good.index(b"IDAT")
    flipped = bytearray(good)
    flipped[at + 8] ^= 1
    checksum = bytearray(good)
    checksum[good.index(b"IEND") - 5] ^= 1
    yield "flipped", flipped, "expected a whole picture, got a damaged one"
    yield "checksum", checksum, "damaged"
    yield "truncated", good[: at + 12], "damaged"
    yield "headless", good[:40], "expected a picture, got 40 bytes"
    yield "empty", b"", "expected a picture, got 0 bytes"
    yield "text", b"hello", "expected a picture, got 5 bytes"
    for name, odd, more, message in (
        ("jpeg", image, {"format": "JPEG"}, "in the format of its name, PNG, got JPEG"),
        ("deep", Image.fromarray(grid()[..., 0].astype(np.uint16) * 257), {}, "8 bits per channel"),
        ("clear", image.convert("RGBA"), {}, "expected an opaque picture, got one with alpha down to 0"),
        ("key", image, {"transparency": (0, 5, 10)}, "expected an opaque picture"),
        ("moving", image, {"save_all": True, "append_images": [Image.new("RGB", (4, 4))]}, "expected one frame, got 2"),
        ("bomb", Image.new("1", (20000, 20000)), {}, "damaged|20000 x 20000"),
    ):
        if name == "clear":
            odd.putpixel((0, 0), (1, 2, 3, 0))
        odd.save(path, **({"format": "PNG"} | more))
        yield name, path.read_bytes(), message
    image.convert("CMYK").save(folder / "a.jpg")
    yield "inks.jpg", (folder / "a.jpg").read_bytes(), "8 bits per channel of grey, palette or RGB, got mode CMYK"


def test_pictures_of_no_one_meaning_are_refused_by_name(tmp_path):
    for name, content, message in list(_odd_pictures(tmp_path)):
        path = tmp_path / (name if "." in name else f"{name}.png")
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            read_picture(path, 4)
        assert str(caught.value).startswith(f"{path}: "), name


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ValueError, match=r"a\.png: expected a picture, got what is no file"):
        read_picture(tmp_path / "a.png", 4)
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    with pytest.raises(OSError, match=r"b\.png"):
        read_picture(tmp_path / "b.png", 4)
