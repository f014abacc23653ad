"""What type checkers are to find: `make lint` checks this file, and nothing runs it."""

from pathlib import Path
from typing import assert_type

from torch import Tensor, nn

import wemoe
from wemoe.pareto import EPO, Training, train
from wemoe.routed_classes import RoutedModule


class Encoder(nn.Module):
    """A class of a user's own."""


Batches = dict[str, list[Tensor]]


def read(model: nn.Module, batch: Tensor, task: str) -> Tensor:
    """Read a model, as methods that read data take it."""
    raise NotImplementedError


def a_module_gives_one_of_its_class(base: Encoder, experts: dict[str, Encoder], batches: Batches) -> None:
    """Experts may be of any kind."""
    assert_type(wemoe.average(base, experts), Encoder)
    assert_type(wemoe.task_arithmetic(base, [base, "expert"], 0.3), Encoder)
    assert_type(wemoe.ties(base_model=base, expert_models=experts, density=0.2), Encoder)
    assert_type(wemoe.dare_linear(base, [Path("expert")], seed=1), Encoder)
    assert_type(wemoe.dare_ties(base, experts, 0.5), Encoder)
    assert_type(wemoe.fisher(base, experts, batches, read), Encoder)
    assert_type(wemoe.regmean(base, ["expert"], batches, read), Encoder)
    assert_type(wemoe.adamerging(base, experts, batches, read), Encoder)
    assert_type(wemoe.upcycle(base, experts), RoutedModule)


def files_and_state_dicts_give_a_state_dict(state: dict[str, Tensor]) -> None:
    """Whatever the experts are."""
    assert_type(wemoe.average("base", ["expert"]), dict[str, Tensor])
    assert_type(wemoe.task_arithmetic(Path("base"), {"x": state}), dict[str, Tensor])
    assert_type(wemoe.ties(state, [state]), dict[str, Tensor])


def files_give_a_model_where_it_is_run(batches: Batches) -> None:
    """Nothing has to be annotated."""
    merged = wemoe.fisher("base", ["expert"], batches, read)
    merged.save_pretrained("merged")
    wemoe.upcycle("base", ["expert"]).save_pretrained("routed")


def losses_are_one_function_or_one_by_task(model: RoutedModule, loaders: Batches) -> None:
    """Of whatever a batch is."""
    assert_type(train(model, loaders, read, scalarization="epo"), Training)
    assert_type(train(model, loaders, {"x": lambda model, batch: model(batch)}, scalarization=EPO()), Training)
    train(model, loaders, {"x": read})  # type: ignore[dict-item]
    train(model, loaders, read, scalarization="hope")  # type: ignore[arg-type]


def other_arguments_are_checked(base: Encoder) -> None:
    """An error that is expected and not found is an error."""
    wemoe.average(3, [base])  # type: ignore[call-overload]
    wemoe.ties(base, [base], per="layer")  # type: ignore[call-overload]
    wemoe.dare_linear(base, [base], sead=1)  # type: ignore[call-overload]
