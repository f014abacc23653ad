"""Writing files and folders so that they appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Make a folder and prove that files can be written into it, before any long work starts.

    Raises:
        NotADirectoryError: the path, or one of its parents, is a file.
        OSError: the folder cannot be made or written; the message names it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"output folder {str(path)!r} must be a folder; found a file there") from error
    except OSError as error:
        raise type(error)(
            error.errno, f"output folder {str(path)!r} must be writable; found: {error.strerror}"
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file that appears whole."""
    with replacing_file(path) as staging:
        staging.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write results as a JSON file that appears whole."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path whose file takes the place of `path` when the block ends without an error."""
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        staging = Path(folder) / target.name
        yield staging
        staging.replace(target)


@contextmanager
def replacing_files(folder: str | os.PathLike[str], stale: tuple[str, ...]) -> Iterator[Path]:
    """Yield a temporary folder whose files, at any depth, move into `folder` when the block ends without an error.

    Args:
        folder: where the files go; made if missing. A new folder appears whole.
        stale: glob patterns of files in `folder` (`*.bin`, `model/*.bin`) that the new ones replace, whatever their
            names.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield staging
        staging.chmod(0o755)
        if not target.exists():
            staging.rename(target)
            return
        files = [path.relative_to(staging) for path in staging.rglob("*") if path.is_file()]
        for file in files:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (staging / file).replace(target / file)
        for path in {path for pattern in stale for path in target.glob(pattern)}:
            if path.relative_to(target) not in files:
                path.unlink()
    finally:
        shutil.rmtree(staging, ignore_errors=True)
