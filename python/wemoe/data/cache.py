"""Files that take time to make are kept in a folder of the user's, whole or not at all, and checked when read.

The folder is `$WEMOE_CACHE`, else `$XDG_CACHE_HOME/wemoe`, else `~/.cache/wemoe`. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wemoe.files import replacing_files


def cache_folder() -> Path:
    """Return the cache folder, which need not exist."""
    if "WEMOE_CACHE" in os.environ:
        return Path(os.environ["WEMOE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wemoe"


def sha256_of_file(path: Path) -> str:
    """Hash a file without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors with their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, with their digest in the metadata; the file appears whole."""
    with replacing_files(path.parent, stale=(path.name,)) as staging:
        save_file(dict(tensors), staging / path.name, metadata={"sha256": sha256_of_tensors(tensors)})


def load_tensors(path: Path) -> dict[str, Tensor] | None:
    """Read what `save_tensors` wrote; None, with a warning if the file is there but damaged, if it can't be had."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        warnings.warn(f"the cached file {str(path)!r} is damaged and is made again: {error}", stacklevel=2)
        return None
    if sha256_of_tensors(tensors) != expected:
        warnings.warn(f"the cached file {str(path)!r} is damaged and is made again: wrong sha256", stacklevel=2)
        return None
    return tensors
