"""How many parameters a WEMoE or an E-WEMoE has, from shapes alone."""

from dataclasses import asdict, dataclass
from math import prod

from wemoe.architectures import ARCHITECTURES, Shapes
from wemoe.routed_methods import choose, kept_entries


@dataclass(frozen=True)
class Counts:
    """The parameters of one base model upcycled with the MLPs of ``tasks`` fine-tuned models.

    Attributes:
        tasks: number of fine-tuned models, T.
        static: parameters outside the MLPs, merged once by task arithmetic.
        base_mlps: the pre-trained MLPs; merged MLPs are assembled from them and never stored.
        task_vectors: what each fine-tuned model adds to every MLP.
        kept: what pruning leaves of the task vectors; all of them where nothing is pruned.
        routers: one router per MLP, or one that all share: the only parameters that are trained.
    """

    tasks: int
    static: int
    base_mlps: int
    task_vectors: int
    kept: int
    routers: int

    @property
    def trainable(self) -> int:
        """Parameters that test-time adaptation trains."""
        return self.routers

    @property
    def total(self) -> int:
        """Parameters of the routed model, what is pruned included, as published code stores and counts it."""
        return self.static + self.base_mlps + self.task_vectors + self.routers

    @property
    def kept_total(self) -> int:
        """Parameters of the routed model, without what is pruned."""
        return self.total - self.task_vectors + self.kept

    @property
    def percentage(self) -> float:
        """Trainable parameters in percent of the total."""
        return 100 * self.trainable / self.total

    @property
    def individual(self) -> int:
        """Parameters of the fine-tuned models kept side by side instead."""
        return self.tasks * (self.static + self.base_mlps)

    @property
    def saved(self) -> int:
        """Parameters saved against keeping the fine-tuned models; negative for very few tasks."""
        return self.individual - self.total

    def as_dict(self) -> dict[str, float]:
        """Every number by its name, the parts and what follows from them."""
        derived = ("trainable", "total", "kept_total", "percentage", "individual", "saved")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


def count(
    architecture: str,
    tasks: int,
    router_layers: int = 2,
    *,
    method: str = "wemoe",
    share_router: bool | None = None,
    prune_ratio: float | None = None,
    position_encoding: bool = False,
) -> Counts:
    """Counts the parameters of a WEMoE (arXiv 2402.00433) or E-WEMoE (arXiv 2410.21804) of every MLP of a model.

    Args:
        architecture: a name among ``wemoe.architectures.ARCHITECTURES``.
        tasks: number of fine-tuned models, at least 1.
        router_layers: depth of the routers: 0 (a constant per MLP), 1 or 2.
        method: ``wemoe`` or ``e_wemoe``, what the two mean for the arguments that are None.
        share_router: whether all MLPs have one router.
        prune_ratio: share of the entries of each tensor of each task vector that is removed.
        position_encoding: whether a shared router reads which block is asking.

    Raises:
        ValueError: an unknown architecture or method, fewer than one task, a router depth other than 0, 1 and 2, or
            choices that do not go together.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}; found {architecture!r}")
    if tasks < 1:
        raise ValueError(f"tasks must be at least 1; found {tasks}")
    chosen = choose(method, share_router, prune_ratio, position_encoding)
    chosen.check(router_layers)
    model = ARCHITECTURES[architecture]
    router = _size(_router(model.width + chosen.position_width, tasks, router_layers))
    mlps = model.depth * _size(model.mlp)
    return Counts(
        tasks=tasks,
        static=_size(model.shapes()) - mlps,
        base_mlps=mlps,
        task_vectors=tasks * mlps,
        kept=tasks * model.depth * sum(kept_entries(prod(shape), chosen.prune_ratio) for shape in model.mlp.values()),
        routers=router if chosen.share_router else model.depth * router,
    )


def _router(D: int, T: int, layers: int) -> Shapes:
    match layers:
        case 0:
            return {"bias": (T,)}
        case 1:
            return {"weight": (T, D), "bias": (T,)}
        case 2:
            return {"0.weight": (D, D), "0.bias": (D,), "2.weight": (T, D), "2.bias": (T,)}
        case _:
            raise ValueError(f"router_layers must be 0, 1 or 2; found {layers}")


def _size(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes.values())
