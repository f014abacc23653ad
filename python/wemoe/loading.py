"""Loading a routed model from its folder alone: neither the base nor the experts are needed.

The model is made without memory for its weights; then every tensor is read, converted and put in its place, one at a
time, and a routed layer is packed as soon as it is whole. So a model that is loaded is never there twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import cast

import torch
import transformers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from wemoe.checkpoints import Checkpoint, read_checkpoint
from wemoe.config import check_dtype
from wemoe.device_maps import Device, DeviceMap, device_of, dispatch, resolve
from wemoe.footprint import measure, readable
from wemoe.packed_layers import PackedLinear
from wemoe.preference_layers import TaskVectors
from wemoe.preference_routers import Preference
from wemoe.repositories import GENERATION_FILE, locate
from wemoe.routed_classes import RoutedModel, RoutedModule
from wemoe.safe_tensors import StoredTensors
from wemoe.saving import WEIGHTS_GLOB
from wemoe.skeletons import skeleton_of, without_weights
from wemoe.sparse_layers import SparseRoutedLinear
from wemoe.task_vectors import check_range
from wemoe.tensor_slots import Slot, find_slots, share
from wemoe.upcycling import prepare_for_loading


def from_pretrained(
    name: str | os.PathLike[str],
    *,
    device_map: DeviceMap | None = None,
    dtype: torch.dtype | None = None,
    task_vector_dtype: torch.dtype | None = None,
    base_model: nn.Module | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    local_files_only: bool = False,
    progress: bool = True,
) -> RoutedModule:
    """Load a routed model that `save_pretrained` wrote; strict, and in evaluation mode.

    Args:
        name: the checkpoint folder, or the name of a repository on the Hugging Face Hub.
        device_map: where to load to: a device (`"cuda"`, `torch.device("cuda:1")`, an index), or, with accelerate,
            a mapping from a part's path to its device, or `"auto"`, `"balanced"`, `"balanced_low_0"`,
            `"sequential"` to spread the blocks over the devices that are there. The CPU by default.
        dtype: of all frozen weights; as they were saved by default. Routers stay as they were saved, in fp32.
        task_vector_dtype: of the task vectors; `dtype` by default, and as they were saved without one.
        base_model: for a base of a class that is not in transformers: an instance of it, made like the base. Its
            weights are not used, and it stays untouched.
        revision: branch, tag or commit of the repository.
        token: of the Hub, or True for the one that is logged in.
        local_files_only: whether to use what the Hub's cache holds, and ask no server.
        progress: whether to show a progress bar, with what the model takes in memory.

    Returns:
        The model, of its base's own class; without `dtype` and `task_vector_dtype` with the dtypes that were saved
        and bit-equal outputs.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks its configuration or weights.
        ImportError: a model is to be spread over devices, and accelerate is not installed.
        OSError: there is no such repository, or it cannot be reached.
        TypeError: `device_map` is no map, or `base_model` no module.
        ValueError: the folder is no routed model, is of another format version, a file is damaged, a tensor is
            missing, unexpected or of another shape, or another argument is out of its range.
    """
    check_dtype("dtype", dtype)
    check_dtype("task_vector_dtype", task_vector_dtype)
    files = ["config.json", GENERATION_FILE, WEIGHTS_GLOB]
    folder = locate(name, files, revision=revision, token=token, local_files_only=local_files_only)
    checkpoint = read_checkpoint(folder)
    model = routed_skeleton(checkpoint, base_model)
    with StoredTensors(checkpoint.weight_files()) as stored:
        slots = stored_slots(model, stored.contents, checkpoint)
        set_dtypes(slots, stored.contents, dtype, task_vector_dtype)
        places = resolve(model, device_map)
        _fill(slots, stored, places, f"load ({readable(measure(model).total)})" if progress else None)
    _move_buffers(model, places)
    if isinstance(model, RoutedModel):
        if dtype is not None:
            model.config.dtype = dtype
        if (folder / GENERATION_FILE).is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    model.eval()
    dispatch(model, places)
    return model


def routed_skeleton(checkpoint: Checkpoint, base_model: nn.Module | None = None) -> RoutedModule:
    """Make the routed model of a checkpoint, without memory for its weights."""
    config = checkpoint.config
    with without_weights():
        plain = _base_model(checkpoint) if base_model is None else _skeleton_of_given(checkpoint, base_model)
        for child in config.absent:
            setattr(plain, child, None)
        model = prepare_for_loading(plain, config)
    if isinstance(model, RoutedModel):
        model.tie_weights()
    try:
        share(model, checkpoint.shared)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{str(checkpoint.folder)!r} must share what the model has; found: {error}") from error
    return model


def stored_slots(model: nn.Module, contents: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, Slot]:
    """Match a model's tensors with stored ones, by stored name; nothing may be missing, unexpected or misshapen.

    One name is enough for a tensor that has several. Only a buffer that state dicts leave out need not be stored: it
    keeps the value that it was made with.
    """
    slots = find_slots(model)
    by_name = {name: slot for slot in slots for name in slot.names}
    missing = [slot.names[0] for slot in slots if slot.persistent and not contents.keys() & set(slot.names)]
    unexpected = contents.keys() - by_name.keys()
    misshapen = [name for name in contents.keys() & by_name.keys() if not _fits(by_name[name], contents[name])]
    for fault, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)):
        if names:
            raise ValueError(
                f"{str(checkpoint.folder)!r} must hold exactly the model's tensors; {fault}: {sorted(names)[:5]}"
            )
    found = ((next((name for name in slot.names if name in contents), None), slot) for slot in slots)
    return {name: slot for name, slot in found if name is not None}


def set_dtypes(
    slots: Mapping[str, Slot],
    contents: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    task_vector_dtype: torch.dtype | None,
) -> None:
    """Give the tensors of a skeleton the dtypes that they are to be loaded in."""
    for name, slot in slots.items():
        chosen = None
        is_kept = slot.tensor.requires_grad or isinstance(slot.owners[0][0], Preference)
        if contents[name].is_floating_point() and slot.persistent and not is_kept:
            chosen = task_vector_dtype or dtype if _is_task_vector(slot) else dtype
        slot.fill(contents[name].to(chosen or contents[name].dtype))


def _base_model(checkpoint: Checkpoint) -> PreTrainedModel:
    base_class = getattr(transformers, checkpoint.config.base_class, None)
    is_known = isinstance(base_class, type) and issubclass(base_class, PreTrainedModel)
    if base_class is None or not is_known or checkpoint.base_config is None:
        raise ValueError(
            f"{str(checkpoint.folder)!r} must name a model class of transformers; found base_class "
            f"{checkpoint.config.base_class!r}. A base of another class is loaded with base_model=, an instance of it"
        )
    config_class = cast("type[PreTrainedConfig]", base_class.config_class)
    return cast("PreTrainedModel", base_class(config_class.from_dict(checkpoint.base_config)))


def _skeleton_of_given(checkpoint: Checkpoint, base_model: nn.Module) -> nn.Module:
    if not isinstance(base_model, nn.Module) or isinstance(base_model, RoutedModule):
        raise TypeError(f"base_model must be a plain torch.nn.Module; found {type(base_model).__name__}")
    if type(base_model).__name__ != checkpoint.config.base_class:
        raise ValueError(
            f"base_model must be of the class {checkpoint.config.base_class}; found {type(base_model).__name__}"
        )
    return skeleton_of(base_model)


def _fits(slot: Slot, stored: Tensor) -> bool:
    """Whether a tensor has the shape of its place.

    How many values sparse task vectors keep, only their masks tell, and how many rows a preference has, only the file.
    """
    owner, attribute = slot.owners[0]
    if isinstance(owner, Preference):
        return owner.fits(stored)
    if isinstance(owner, SparseRoutedLinear) and attribute == "values":
        return stored.dim() == 1
    return stored.shape == slot.tensor.shape


def _is_task_vector(slot: Slot) -> bool:
    owner, _ = slot.owners[0]
    if isinstance(owner, TaskVectors):
        return True
    return isinstance(owner, PackedLinear) and any(slot.tensor is tensor for tensor in owner.task_parameters())


def _fill(slots: Mapping[str, Slot], stored: StoredTensors, places: Mapping[str, Device], title: str | None) -> None:
    """Read every tensor into its place, and pack each routed layer as soon as it is whole."""
    total = sum(slot.tensor.nbytes for slot in slots.values())
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=title is None) as bar:
        for name, slot in slots.items():
            tensor = stored.read(name, slot.tensor.dtype, device_of(slot.names[0], places))
            if stored.contents[name].dtype != tensor.dtype:
                check_range(f"{name!r}", tensor)
            slot.fill(tensor)
            for layer, _ in slot.owners:
                if isinstance(layer, PackedLinear) and not any(p.is_meta for p in layer.parameters()):
                    _pack(layer, name)
            bar.update(tensor.nbytes)


def _pack(layer: PackedLinear, name: str) -> None:
    try:
        layer.pack()
    except ValueError as error:
        raise ValueError(f"the layer of {name!r} must be stored whole: {error}") from error


def _move_buffers(model: nn.Module, places: Mapping[str, Device]) -> None:
    """Move the buffers that were not stored to the devices of the parts that they belong to."""
    for slot in find_slots(model):
        if not isinstance(slot.tensor, nn.Parameter):
            slot.fill(slot.tensor.to(device_of(slot.names[0], places)))
