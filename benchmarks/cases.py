"""What is compared with what, and what is asked of it: the bounds of layer and models are here and nowhere else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest
from work import Work


@dataclass(frozen=True)
class Case:
    """Methods that compute the same thing, one of which is judged.

    Attributes:
        name: what the table and the committed baseline call it.
        work: what every method has to do, those of `other_work` excepted.
        other_work: by method, work of another amount.
        ours: the method that is judged,
        over: and the one that it is judged by.
        judged: "ratio", ours' time as a multiple of the other's, or "extra_megabytes", ours' peak memory beyond the
            other's.
        at_most: what the judged number must not exceed.
        aim: what it should become.
        binding: whether `at_most` holds on this machine; elsewhere the number is told for information.
        in_baseline: whether the number is compared with the committed baseline too.
    """

    name: str
    work: Work
    other_work: Mapping[str, Work] = field(default_factory=dict)
    ours: str = "layer"
    over: str = "plain"
    judged: str = "ratio"
    at_most: float | None = None
    aim: float | None = None
    binding: bool = True
    in_baseline: bool = True

    def work_of(self, method: str) -> Work:
        return self.other_work.get(method, self.work)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Bounds:
    """A line of the layer's table: fp32, one thread, T = 8, D = 768, F = 3072."""

    what: str
    B: int
    N: int
    at_most: float
    aim: float

    def __str__(self) -> str:
        return f"{self.what}, B={self.B} N={self.N}"


FORWARD = "forward"
BACKWARD = "forward + backward"
BATCH_AVERAGED = "batch-averaged forward"
BFLOAT16 = "bf16 forward over our own fp32"
SPARSE = "forward of 90 % pruned task vectors over dense"
MEMORY = "extra MB of forward + backward"

LAYER_BOUNDS = (
    Bounds(FORWARD, B=16, N=50, at_most=1.65, aim=1.4),
    Bounds(FORWARD, B=4, N=197, at_most=1.4, aim=1.25),
    Bounds(FORWARD, B=1, N=50, at_most=3, aim=2),
    Bounds(BACKWARD, B=16, N=50, at_most=2.6, aim=2.1),
    Bounds(BATCH_AVERAGED, B=16, N=50, at_most=1.4, aim=1.25),
    Bounds(BFLOAT16, B=16, N=50, at_most=1 / 2.5, aim=1 / 5),
    Bounds(SPARSE, B=16, N=50, at_most=1, aim=0.9),
    Bounds(MEMORY, B=64, N=50, at_most=80, aim=32),
)

# Inference of whole models, fp32, one thread, T = 8: the most that it may take as a multiple of the plain model.
INFERENCE_BOUNDS = {"CLIP ViT-B/32": 1.6}

# A training step of PWEMoE, six tasks, fp32, one thread: the most that it may take as a multiple of the same forward
# and backward passes through one statically merged model.
PARETO_STEP_BOUND = 1.7


def bounds_of(what: str) -> pytest.MarkDecorator:
    """Runs a test with each line of the layer's table of that name; all of them guard against regressions."""
    return guarded([bounds for bounds in LAYER_BOUNDS if bounds.what == what], "bounds")


def guarded(values: Iterable[object], name: str) -> pytest.MarkDecorator:
    """Parametrises a test with what `make bench-check` runs."""
    parameters = [pytest.param(value, id=str(value), marks=pytest.mark.guard) for value in values]
    return pytest.mark.parametrize(name, parameters)
