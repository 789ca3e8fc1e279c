"""Shipped checkpoints share files by name, and are what they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.models import tiny
from unigrpo import checkpoints
from unigrpo.checkpoints import (
    AUTOENCODER,
    CONFIG,
    SHARED,
    SHIPPED,
    TOKENIZER,
    digest,
    digest_of,
    digest_of_files,
    file_of,
    folder_of,
    settings_of,
)
from unigrpo.errors import ConfigError
from unigrpo.models.mot import checkpoint


def test_a_checkpoint_reads_what_another_one_has(tmp_path):
    copy = shutil.copytree(SHIPPED / "tiny-interleaved", tmp_path / "copy")
    assert not (copy / AUTOENCODER).exists()
    assert file_of(copy, AUTOENCODER) == SHIPPED / "tiny-shapes" / AUTOENCODER
    mine, theirs = (checkpoint.load(name).autoencoder.state_dict() for name in (str(copy), "tiny-shapes"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_the_digest_is_of_the_weights_wherever_they_lie(tmp_path):
    copy = shutil.copytree(SHIPPED / "tiny-interleaved", tmp_path / "copy")
    shutil.copy(SHIPPED / "tiny-shapes" / AUTOENCODER, copy)
    (copy / SHARED).unlink()
    assert digest(copy) == digest_of("tiny-interleaved")


def test_an_own_file_comes_first(tmp_path):
    copy = shutil.copytree(SHIPPED / "tiny-tokens", tmp_path / "copy")
    shutil.copy(SHIPPED / "tiny-shapes" / TOKENIZER, copy)
    assert file_of(copy, TOKENIZER) == copy / TOKENIZER


def test_what_is_saved_is_complete(tmp_path):
    (tmp_path / SHARED).write_text(json.dumps({AUTOENCODER: "tiny-shapes"}))
    checkpoint.save(tmp_path, tiny.model())
    assert not (tmp_path / SHARED).exists()
    assert file_of(tmp_path, AUTOENCODER) == tmp_path / AUTOENCODER


def test_a_path_is_a_path_from_here_or_from_home(tmp_path, monkeypatch):
    shutil.copytree(SHIPPED / "tiny-shapes", tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/mine", "mine", "./mine", "mine/../mine", str(tmp_path / "mine")):
        assert folder_of(path).samefile(tmp_path / "mine")
        assert digest_of(path) == digest_of("tiny-shapes")
    # Neither the present folder nor what lies beside the package's own is meant by such names.
    shutil.copy(tmp_path / "mine" / CONFIG, tmp_path)
    for nothing in ("../checkpoints/tiny-shapes", "tiny-shapes/"):
        with pytest.raises(ConfigError, match="no such shipped checkpoint or folder"):
            folder_of(nothing)


@pytest.mark.parametrize("settings", ["{", "[1]", b"\xff"])
def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path, settings):
    (tmp_path / CONFIG).write_bytes(settings if isinstance(settings, bytes) else settings.encode())
    with pytest.raises(ConfigError, match=CONFIG):
        settings_of(str(tmp_path))
    with pytest.raises(ConfigError, match="the weights cannot be read"):
        digest_of(str(tmp_path))


def test_a_file_that_nobody_has_is_missing_where_it_is_looked_for(tmp_path):
    assert file_of(tmp_path, AUTOENCODER) == tmp_path / AUTOENCODER
    (tmp_path / SHARED).write_text(json.dumps({AUTOENCODER: "tiny-shape"}))
    assert file_of(tmp_path, TOKENIZER) == tmp_path / TOKENIZER
    with pytest.raises(ConfigError, match="did you mean 'tiny-shapes'"):
        file_of(tmp_path, AUTOENCODER)


class TestDigestOfFiles:
    def test_it_is_read_again_only_when_the_file_is_another(self, tmp_path, monkeypatch):
        file = tmp_path / "weights"
        file.write_bytes(b"one")
        first = digest_of_files([file])
        monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it has been read already"))
        assert digest_of_files([file]) == first
        monkeypatch.undo()
        file.write_bytes(b"two2")
        assert digest_of_files([file]) != first

    def test_of_large_files_a_part_is_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoints, "_WHOLE", 100)
        monkeypatch.setattr(checkpoints, "_PIECES", 3)
        monkeypatch.setattr(checkpoints, "_PIECE", 4)
        found = set()
        for name, at in (("a", None), ("b", 0), ("c", 99), ("d", 199)):
            content = bytearray(200)
            if at is not None:
                content[at] = 1
            (tmp_path / name).write_bytes(content)
            found.add(digest_of_files([tmp_path / name]))
        (tmp_path / "longer").write_bytes(bytes(201))
        found.add(digest_of_files([tmp_path / "longer"]))
        assert len(found) == 5, "first, middle and last piece, and the size"
        monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("the whole file is read"))
        (tmp_path / "e").write_bytes(bytes(300))
        digest_of_files([tmp_path / "e"])
