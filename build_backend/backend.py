"""Setuptools' build backend, taught to build against the torch of the environment that the wheel is for.

A compiled extension works with the minor version of torch that it was built with. Under build isolation pip
would fetch the newest torch to build against, and leave the environment's older one in place to run with. So
where the environment has a torch that our dependencies accept, the build uses that one; elsewhere it requires
torch as our dependencies do.
"""

import site
import sys
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - every other hook is setuptools' own

ROOT = Path(__file__).resolve().parents[1]


def torch_requirement() -> str:
    """Our dependency on torch, as pyproject.toml states it."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(dependency for dependency in dependencies if dependency.startswith("torch"))


def find_torch() -> str | None:
    """The site-packages folder of this interpreter that holds an acceptable torch.

    pip's isolation takes these folders off `sys.path`, yet the interpreter is still the environment's own.
    """
    from packaging.requirements import Requirement

    accepted = Requirement(torch_requirement()).specifier
    folders = site.getsitepackages()
    if sys.prefix == sys.base_prefix:
        folders.append(site.getusersitepackages())
    for folder in folders:
        for torch in Distribution.discover(name="torch", path=[folder]):
            if accepted.contains(torch.version, prereleases=True):
                return folder
    return None


def expose_torch() -> None:
    """Makes the environment's torch importable, behind everything that the build brought along."""
    folder = find_torch()
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """Torch, where the environment has none."""
    return [torch_requirement()] if find_torch() is None else []


def build_wheel(
    wheel_directory: str, config_settings: dict | None = None, metadata_directory: str | None = None
) -> str:
    """Builds the wheel against the torch found."""
    expose_torch()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: dict | None = None, metadata_directory: str | None = None
) -> str:
    """Builds in place against the torch found."""
    expose_torch()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


get_requires_for_build_editable = get_requires_for_build_wheel
