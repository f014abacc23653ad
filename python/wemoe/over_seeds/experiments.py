"""Which experiments off the distribution a suite allows, beside its comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wemoe.comparison.choosing import CompareSettings
from wemoe.off_distribution import corruptions, unseen
from wemoe.off_distribution.robustness import check_corruptions
from wemoe.suites import Suite

Experiment = Callable[..., dict[str, Any]]  # experiment(suite, settings, output, watch=, origin=, resume=)
EXPERIMENTS: Mapping[str, Experiment] = {"unseen": unseen, "corruptions": corruptions}


def chosen_experiments(
    suite: Suite, settings: CompareSettings, names: Sequence[str] | None, tell: Callable[[str], object]
) -> dict[str, Experiment]:
    """Return the experiments that are named, or else those that the suite allows.

    Args:
        suite: models and tasks.
        settings: of the comparison.
        names: of the experiments; None for all that can be run.
        tell: what to do with a line that tells what is left out, and why.

    Raises:
        ImportError: one that is named needs a package that is not installed.
        ValueError: one that is named is unknown, or the suite or its rows do not allow it.
    """
    chosen = {}
    for name in check_experiments(EXPERIMENTS if names is None else names):
        try:
            _CHECKS[name](suite, settings)
        except (ValueError, ImportError) as error:
            if names is not None:
                raise
            tell(f"without {name}: {error}")
        else:
            chosen[name] = EXPERIMENTS[name]
    return chosen


def check_experiments(names: Sequence[str] | Mapping[str, Experiment]) -> list[str]:
    """Return the names of experiments in their order, each once.

    Raises:
        ValueError: one is unknown.
    """
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(f"experiments must be among {list(EXPERIMENTS)}; found {unknown}")
    return [name for name in EXPERIMENTS if name in names]


def _check_unseen(suite: Suite, settings: CompareSettings) -> None:
    if len(suite.tasks) < 4:
        raise ValueError(f"unseen tasks are two, and two more must be left to merge; found {list(suite.tasks)}")


_CHECKS = {"unseen": _check_unseen, "corruptions": check_corruptions}
