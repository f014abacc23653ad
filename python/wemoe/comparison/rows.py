"""The rows of a comparison: every way to serve all tasks, what it needs, and its settings.

A setting that is a list is searched: every value is merged and scored on validation data, and the best one is taken.
Learning rates are those of as few steps as the default's; `docs/compare.md` tells what was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from wemoe import merging
from wemoe.comparison import making
from wemoe.comparison.making import Made

Options = Mapping[str, Any]
OBJECTIVES = ("match", "entropy", "infomax")


@dataclass(frozen=True)
class Row:
    """One way to serve all tasks.

    Attributes:
        label: the method's name in tables and plots; rows of one method and several objectives share it.
        kind: `reference` (no merge), `static`, or `learned` on unlabeled inputs.
        make: `make(shop, **options)` gives what the row has made.
        options: keyword arguments of `make`; a list of numbers is searched on validation data.
        reads_inputs: whether it needs the unlabeled part.
    """

    label: str
    kind: Literal["reference", "static", "learned"]
    make: Callable[..., Made]
    options: Options
    reads_inputs: bool = False

    @property
    def objective(self) -> str | None:
        """The objective that its adaptation minimises."""
        objective: str | None = self.options.get("objective")
        return objective

    @property
    def grid(self) -> dict[str, list[float]]:
        """The options that are searched."""
        return {name: value for name, value in self.options.items() if isinstance(value, list)}

    @property
    def fixed(self) -> dict[str, Any]:
        """The options that are not."""
        return {name: value for name, value in self.options.items() if name not in self.grid}

    def with_options(self, options: Options) -> Row:
        """The row with some options replaced."""
        return replace(self, options={**self.options, **options})


def _static(label: str, method: Callable[..., Any], /, **options: Any) -> Row:
    return Row(label, "static", partial(making.merged, method), options)


def _on_inputs(label: str, method: Callable[..., Any], /, **options: Any) -> Row:
    return Row(label, "static", partial(making.merged_on_inputs, method), options, reads_inputs=True)


def _learned(
    name: str, label: str, make: Callable[..., Made], /, learning_rates: Mapping[str, float], **options: Any
) -> dict[str, Row]:
    """One row for each objective that has a learning rate."""
    shared = {"init_lambda": 0.3, **options, "batch_size": 8, "schedule": "cosine"}
    only = {"match": {"class_shares": None, "anchor": None}}
    return {
        f"{name}_{objective}": Row(
            label,
            "learned",
            make,
            {**shared, "objective": objective, "learning_rate": rate, **only.get(objective, {})},
            reads_inputs=True,
        )
        for objective, rate in learning_rates.items()
    }


def _rates(match: float, entropy: float, infomax: float) -> dict[str, float]:
    return dict(zip(OBJECTIVES, (match, entropy, infomax), strict=True))


ROWS: Mapping[str, Row] = {
    "pretrained": Row("pre-trained", "reference", making.pretrained, {}),
    "individual": Row("individual experts", "reference", making.individual, {}),
    "average": _static("simple average", merging.average),
    "fisher": _on_inputs("Fisher", merging.fisher, examples=128, max_outcomes=4, batch_size=8),
    "regmean": _on_inputs("RegMean", merging.regmean, alpha=[0.5, 0.9, 1.0], examples=256, batch_size=8),
    "task_arithmetic": _static("task arithmetic", merging.task_arithmetic, scaling=[0.1, 0.15, 0.2, 0.25, 0.3, 0.4]),
    "ties": _static("TIES", merging.ties, density=0.2, merge_func="mean", scaling=[0.4, 0.7, 1.0, 1.3, 1.6]),
    "ties_sum": _static("TIES, sum", merging.ties, density=0.2, merge_func="sum", scaling=[0.2, 0.3, 0.4, 0.6, 0.8]),
    "dare_linear": _static("DARE, linear", merging.dare_linear, density=0.5, scaling=[0.1, 0.15, 0.2, 0.25, 0.3]),
    "dare_ties": _static(
        "DARE, TIES", merging.dare_ties, density=0.5, merge_func="mean", scaling=[0.25, 0.5, 0.75, 1.0, 1.3]
    ),
    **_learned("adamerging_task", "AdaMerging, task-wise", making.adamerged, _rates(3e-2, 1e-3, 1e-3), per="task"),
    **_learned("adamerging", "AdaMerging, layer-wise", making.adamerged, _rates(3e-2, 1e-3, 1e-3), per="layer"),
    **_learned(
        "adamerging_pp",
        "AdaMerging++, layer-wise",
        making.adamerged,
        _rates(3e-2, 1e-3, 1e-3),
        per="layer",
        density=0.2,
    ),
    **_learned("wemoe_depth0", "WEMoE, depth 0", making.routed, _rates(3e-2, 1e-3, 1e-3), router_hidden_layers=0),
    **_learned("wemoe_depth1", "WEMoE, depth 1", making.routed, {"match": 5e-3}, router_hidden_layers=1),
    **_learned("wemoe", "WEMoE", making.routed, _rates(5e-3, 1e-4, 1e-4), router_hidden_layers=2),
    **_learned(
        "e_wemoe",
        "E-WEMoE",
        partial(making.routed, method="e_wemoe"),
        _rates(5e-3, 1e-4, 1e-4),
        router_hidden_layers=2,
        prune_ratio=0.9,
    ),
}
