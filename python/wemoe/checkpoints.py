"""Checkpoint folders, and what their configuration says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from wemoe.config import FORMAT_VERSION, READABLE_VERSIONS, RoutingConfig
from wemoe.saving import MODEL_TYPE, WEIGHTS_GLOB

MISSING = "nothing"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder and its configuration.

    Attributes:
        folder: where it is.
        config: how the model was upcycled.
        base_config: the base's own configuration; None where it is no Hugging Face model.
        shared: what the model holds in several places: by path, the first path of the same module or parameter.
    """

    folder: Path
    config: RoutingConfig
    base_config: dict[str, Any] | None
    shared: dict[str, str]

    def weight_files(self) -> list[Path]:
        """Return the files of its weights.

        Raises:
            FileNotFoundError: there is none.
        """
        files = sorted(file for file in self.folder.glob(WEIGHTS_GLOB) if file.suffix == ".safetensors")
        if not files:
            raise FileNotFoundError(
                f"a routed model needs weights {WEIGHTS_GLOB!r}; found none in {str(self.folder)!r}"
            )
        return files


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the configuration of a checkpoint folder.

    Raises:
        FileNotFoundError: there is no configuration.
        ValueError: it is no configuration of a routed model, or of a version that cannot be read.
    """
    file = folder / "config.json"
    configuration = read_json(file)
    kind = configuration.get("model_type")
    if kind != MODEL_TYPE:
        raise ValueError(f"{str(file)!r} must say model_type {MODEL_TYPE!r}; found {kind!r}")
    for key, kinds, rule in (("wemoe", dict, "an object"), ("base_config", dict | None, "an object or null")):
        if not isinstance(configuration.get(key, MISSING), kinds):
            raise ValueError(f"{str(file)!r} must hold {rule} {key!r}; found {configuration.get(key, MISSING)!r}")
    shared = configuration.get("shared", {})
    if not isinstance(shared, dict) or not all(isinstance(path, str) for path in shared.values()):
        raise ValueError(f"{str(file)!r} must hold paths by paths under 'shared'; found {shared!r}")
    return Checkpoint(folder, routing_config(file, configuration["wemoe"]), configuration["base_config"], shared)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    if not file.is_file():
        raise FileNotFoundError(f"a routed model needs {str(file)!r}; found no such file")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(file)!r} must be JSON; found: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(file)!r} must be a JSON object; found {type(found).__name__}")
    return found


def routing_config(file: Path, found: Mapping[str, Any]) -> RoutingConfig:
    """Check a routing configuration; one of an earlier version comes out as one of today's."""
    found_version = found.get("format_version")
    if found_version not in READABLE_VERSIONS:
        raise ValueError(
            f"{str(file)!r} must be of format version {' or '.join(map(str, READABLE_VERSIONS))}; "
            f"found {found_version!r}. A newer version of wemoe may read it."
        )
    upgraded = {"wemoe_version": None, **found, "format_version": FORMAT_VERSION}
    try:
        return RoutingConfig.model_validate(upgraded)
    except pydantic.ValidationError as error:
        raise ValueError(f"{str(file)!r} holds no valid routing configuration: {error}") from error
