"""Adaptation from a configuration to a folder: a routed model, new or saved before, whose routers learn."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from wemoe.checkpoints import read_checkpoint
from wemoe.config import RoutingConfig
from wemoe.configured_merge import Config, Merged, merge, score_on_test_data, settings_of
from wemoe.configured_models import adapt_model
from wemoe.device_maps import check_device
from wemoe.files import check_writable
from wemoe.loading import from_pretrained
from wemoe.merge_config import MergeConfig
from wemoe.merged_folders import CARRIED
from wemoe.method_parameters import Routed
from wemoe.repositories import locate
from wemoe.suites import load_suite
from wemoe.whole_models import write_routed


def adapt(
    config: Config,
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Merged:
    """Train routers on the unlabeled data of a configuration, and write the routed model to a folder.

    Args:
        config: a YAML file, what such a file holds, or a configuration that was read; its method is `wemoe` or
            `e_wemoe`.
        output: folder of the result.
        model: a routed model to go on with, whose tasks are those of the configuration; by default a new one is made.
        device: where to compute; by default the CPU.
        progress: whether to show progress bars.
        tell: as in `wemoe.merge`.

    Returns:
        Where the result is, and its accuracy on test data where there are some.

    Raises:
        OSError, ImportError, ValueError: as in `wemoe.merge`, or the configuration's method has no routers, or `model`
            has other tasks.
    """
    settings = settings_of(config)
    if not isinstance(settings.parameters, Routed):
        raise ValueError(
            "merge_method: must be wemoe or e_wemoe, whose routers learn on unlabeled data; "
            f"found {settings.merge_method!r}"
        )
    if model is None:
        return merge(settings, output, device=device, progress=progress, tell=tell)
    place = check_device(device)
    check_writable(Path(output).absolute().parent)
    folder = locate(model, ["config.json", *CARRIED], revision=None, token=None, local_files_only=False)
    _check_tasks(settings, read_checkpoint(folder).config)
    routed = from_pretrained(model, progress=progress, device_map=place)
    suite = load_suite(settings, device=place)
    adapt_model(settings, suite, routed, progress)
    accuracy = score_on_test_data(suite, routed)
    write_routed(output, routed, suite.heads, folder, recipe=settings.recipe(), metrics={"test accuracy": accuracy})
    return Merged(Path(output), accuracy=accuracy)


def _check_tasks(config: MergeConfig, routing: RoutingConfig) -> None:
    tasks, found = list(routing.tasks), list(config.experts)
    if config.suite is None and set(found) != set(tasks):
        raise ValueError(f"models: must have the tasks of the routed model, {tasks}; found {found}")
