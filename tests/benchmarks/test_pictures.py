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
