"""Merge fine-tuned transformers into one model that assembles each sample's own weights.

    theta(x) = theta_0 + sum_t lambda_t(x) * tau_t          tau_t = theta_t - theta_0

`upcycle` makes a routed model of a base and its experts, `adapt` trains its routers on unlabeled data,
`save_pretrained` and `from_pretrained` keep it. Names are imported when they are first used, so that the command
line's help does not wait for torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wemoe import pareto
    from wemoe.adaptation import CollapseWarning, adamerging, adapt
    from wemoe.configured_merge import merge
    from wemoe.drop_in import WeightEnsemblingMoE
    from wemoe.evaluation import evaluate
    from wemoe.geometry import task_vector_geometry
    from wemoe.geometry_plot import plot_geometry
    from wemoe.headed import with_head
    from wemoe.heads import TaskHead, frozen_head, load_heads
    from wemoe.inspection import RoutingSummary, record_routing, summarise_routing
    from wemoe.layers import RoutedLinear, RoutedMLP
    from wemoe.loading import from_pretrained
    from wemoe.memory import estimate_memory
    from wemoe.merged_folders import write_merged
    from wemoe.merging import average, dare_linear, dare_ties, fisher, regmean, task_arithmetic, ties
    from wemoe.merging.rules import open_sources
    from wemoe.mlps import MLPSlots
    from wemoe.models import Family
    from wemoe.preferences import get_preference, set_preference
    from wemoe.router_files import load_routers, save_routers
    from wemoe.routing_plots import plot_first_choices, plot_own_choices, plot_routing, plot_routing_bars
    from wemoe.sparse_layers import SparseRoutedLinear
    from wemoe.sweeping import Sweep, sweep
    from wemoe.text_towers import zero_shot_head
    from wemoe.trainer import RoutedTrainer
    from wemoe.unloading import merge_and_unload
    from wemoe.upcycling import upcycle
    from wemoe.zero_shot import ZeroShotHead

__version__ = version("wemoe")

_HOMES = {
    "CollapseWarning": "wemoe.adaptation",
    "Family": "wemoe.models",
    "MLPSlots": "wemoe.mlps",
    "RoutedLinear": "wemoe.layers",
    "RoutedMLP": "wemoe.layers",
    "RoutedTrainer": "wemoe.trainer",
    "RoutingSummary": "wemoe.inspection",
    "SparseRoutedLinear": "wemoe.sparse_layers",
    "Sweep": "wemoe.sweeping",
    "TaskHead": "wemoe.heads",
    "WeightEnsemblingMoE": "wemoe.drop_in",
    "ZeroShotHead": "wemoe.zero_shot",
    "adamerging": "wemoe.adaptation",
    "adapt": "wemoe.adaptation",
    "average": "wemoe.merging",
    "dare_linear": "wemoe.merging",
    "dare_ties": "wemoe.merging",
    "estimate_memory": "wemoe.memory",
    "evaluate": "wemoe.evaluation",
    "fisher": "wemoe.merging",
    "from_pretrained": "wemoe.loading",
    "frozen_head": "wemoe.heads",
    "get_preference": "wemoe.preferences",
    "load_heads": "wemoe.heads",
    "load_routers": "wemoe.router_files",
    "merge": "wemoe.configured_merge",
    "merge_and_unload": "wemoe.unloading",
    "open_sources": "wemoe.merging.rules",
    "plot_first_choices": "wemoe.routing_plots",
    "plot_geometry": "wemoe.geometry_plot",
    "plot_own_choices": "wemoe.routing_plots",
    "plot_routing": "wemoe.routing_plots",
    "plot_routing_bars": "wemoe.routing_plots",
    "record_routing": "wemoe.inspection",
    "regmean": "wemoe.merging",
    "save_routers": "wemoe.router_files",
    "set_preference": "wemoe.preferences",
    "summarise_routing": "wemoe.inspection",
    "sweep": "wemoe.sweeping",
    "task_arithmetic": "wemoe.merging",
    "task_vector_geometry": "wemoe.geometry",
    "ties": "wemoe.merging",
    "upcycle": "wemoe.upcycling",
    "with_head": "wemoe.headed",
    "write_merged": "wemoe.merged_folders",
    "zero_shot_head": "wemoe.text_towers",
}

__all__ = [
    "CollapseWarning",
    "Family",
    "MLPSlots",
    "RoutedLinear",
    "RoutedMLP",
    "RoutedTrainer",
    "RoutingSummary",
    "SparseRoutedLinear",
    "Sweep",
    "TaskHead",
    "WeightEnsemblingMoE",
    "ZeroShotHead",
    "__version__",
    "adamerging",
    "adapt",
    "average",
    "dare_linear",
    "dare_ties",
    "estimate_memory",
    "evaluate",
    "fisher",
    "from_pretrained",
    "frozen_head",
    "get_preference",
    "load_heads",
    "load_routers",
    "merge",
    "merge_and_unload",
    "open_sources",
    "pareto",
    "plot_first_choices",
    "plot_geometry",
    "plot_own_choices",
    "plot_routing",
    "plot_routing_bars",
    "record_routing",
    "regmean",
    "save_routers",
    "set_preference",
    "summarise_routing",
    "sweep",
    "task_arithmetic",
    "task_vector_geometry",
    "ties",
    "upcycle",
    "with_head",
    "write_merged",
    "zero_shot_head",
]


def __getattr__(name: str) -> Any:
    if name == "pareto":
        return importlib.import_module("wemoe.pareto")
    if name not in _HOMES:
        raise AttributeError(f"module 'wemoe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
