"""Loads the compiled library, after a check that it fits the torch that runs."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import torch

RECORD = Path(__file__).with_name("_build.json")
REBUILD = "Build it in this environment: `pip install --no-build-isolation .` in wemoe's source tree (or `-e .`)."


def load() -> ModuleType:
    """Imports `wemoe_ext._C`, which registers the operators.

    Raises:
        ImportError: the library is missing, or was built for another minor version of torch or another major
            version of CUDA.
    """
    if not RECORD.exists():
        raise ImportError(f"wemoe_ext is not built: found no {RECORD.name} in {RECORD.parent}. {REBUILD}")
    record = json.loads(RECORD.read_text())
    check_version("torch", built=record["torch"], running=torch.__version__, parts=2)
    if record["cuda"] is not None:
        check_version("CUDA", built=record["cuda"], running=torch.version.cuda, parts=1)
    try:
        return importlib.import_module("wemoe_ext._C")
    except ImportError as error:
        raise ImportError(f"wemoe_ext._C cannot be loaded: {error}. {REBUILD}") from error


def check_version(name: str, built: str, running: str | None, parts: int) -> None:
    """Raises ImportError unless the first `parts` numbers of two versions are equal."""
    if running is None or built.split(".")[:parts] != running.split(".")[:parts]:
        wanted = ".".join(built.split(".")[:parts])
        found = "no CUDA at all" if running is None else f"{name} {running}"
        raise ImportError(f"wemoe_ext was built for {name} {wanted} and torch runs with {found}. {REBUILD}")
