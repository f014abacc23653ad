"""Device maps: which tensor of a model belongs on which device, one or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wemoe.packed_layers import PackedLinear
from wemoe.preference_layers import PreferenceLayer
from wemoe.preference_routers import Preference
from wemoe.routed_classes import RoutedBlock
from wemoe.routers import Router

Device = str | int | torch.device
DeviceMap = Device | Mapping[str, Device]

AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")


def resolve(model: nn.Module, device_map: DeviceMap | None) -> dict[str, Device]:
    """Return the device of each part of a model, by the part's path; "" is the whole.

    Args:
        model: a routed model; it may be on the meta device, in the dtypes that it will have.
        device_map: a device for all; a mapping from a part's path to its device; one of `AUTOMATIC`, by which
            accelerate spreads the blocks, none of them split, over the devices that are there; None is the CPU.

    Raises:
        ImportError: several devices were asked for, and accelerate is not installed.
        TypeError: `device_map` is none of these.
        ValueError: no such device, a part goes to the disk, or a tensor belongs to no part.
    """
    if device_map is None:
        return {"": "cpu"}
    if isinstance(device_map, str) and device_map in AUTOMATIC:
        return _checked(model, _spread(model, device_map))
    if isinstance(device_map, Mapping):
        _accelerate()
        return _checked(model, device_map)
    if isinstance(device_map, bool) or not isinstance(device_map, str | int | torch.device):
        raise TypeError(
            f"device_map must be a device, one of {list(AUTOMATIC)} or a mapping from a part's path to its device; "
            f"found {device_map!r}"
        )
    return _checked(model, {"": device_map})


def device_of(name: str, places: Mapping[str, Device]) -> torch.device:
    """Return the device of a tensor: that of the innermost part that it belongs to."""
    part = name
    while part not in places:
        part = part.rpartition(".")[0]
    return torch.device(places[part])


def dispatch(model: nn.Module, places: Mapping[str, Device]) -> None:
    """Let a model that lies on several devices move its activations from one to the next."""
    if len(set(places.values())) > 1:
        for module in model.modules():
            if isinstance(module, PackedLinear):
                module.unpack()  # accelerate moves weights itself, and knows one shape of each
        _accelerate().dispatch_model(model, dict(places), skip_keys=getattr(model, "_skip_keys_device_placement", None))
        for name, module in model.named_modules():
            if isinstance(module, Router | Preference):
                module.to(device_of(name, places))  # one that blocks share is where the last of them is, not its hooks


def _spread(model: nn.Module, how: str) -> dict[str, Device]:
    accelerate = _accelerate()
    blocks = _blocks(model)
    memory = None
    if how != "sequential":
        memory = accelerate.utils.get_balanced_memory(
            model, no_split_module_classes=blocks, low_zero=how == "balanced_low_0"
        )
    places: dict[str, Device] = accelerate.infer_auto_device_map(
        model, max_memory=memory, no_split_module_classes=blocks
    )
    return places


def _blocks(model: nn.Module) -> list[str]:
    """Class names of what stays on one device: routed blocks, and blocks with parts that a preference merges."""
    blocks: list[nn.Module] = [module for module in model.modules() if isinstance(module, RoutedBlock)]
    for layers in model.modules():
        if isinstance(layers, nn.ModuleList):
            blocks += [each for each in layers if any(isinstance(part, PreferenceLayer) for part in each.modules())]
    return sorted({type(block).__name__ for block in blocks})


def check_device(device: Device | None) -> torch.device:
    """Return a device that is there; the CPU for None.

    Raises:
        ValueError: there is no such device.
    """
    place = "cpu" if device is None else device
    try:
        return torch.empty(0, device=place).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device must be one that is there, cpu say; found {device!r}: {error}") from error


def _checked(model: nn.Module, places: Mapping[str, Device]) -> dict[str, Device]:
    for part, device in places.items():
        if device == "disk":
            raise ValueError(f"device_map must keep the model in memory; {part!r} goes to the disk")
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(
                f"device_map must name devices that are there; found {device!r} for {part!r}: {error}"
            ) from error
    homeless = [name for name in _names(model) if not _covers(places, name)]
    if homeless:
        raise ValueError(f"device_map must give every tensor a device; it gives none to {homeless[:5]}")
    return dict(places)


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]


def _covers(places: Mapping[str, Device], name: str) -> bool:
    return any(part == "" or name == part or name.startswith(f"{part}.") for part in places)


def _accelerate() -> Any:
    try:
        import accelerate
    except ImportError as error:
        raise ImportError(
            "device_map spreads a model over several devices with accelerate; install it: pip install wemoe[accelerate]"
        ) from error
    return accelerate
