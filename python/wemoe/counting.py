"""How many parameters a routed model has, from shapes alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod

from wemoe.architectures import ARCHITECTURES, Architecture, Part, Shapes
from wemoe.routed_methods import Modules, RoutedMethod, choose, kept_entries

# Kinds of parts by what is chosen to be routed.
_KINDS: Mapping[Modules, tuple[str, ...]] = {
    "mlp": ("mlp",),
    "mlp+attention": ("mlp", "attention"),
    "all": ("mlp", "attention", "norm", "patches"),
}


@dataclass(frozen=True)
class Counts:
    """The parameters of one base model upcycled with ``tasks`` fine-tuned models.

    Attributes:
        tasks: number of fine-tuned models, T.
        routed_modules: how many modules are routed.
        static: parameters outside them, merged once by task arithmetic.
        routed_base: the pre-trained parameters of the routed modules; merged ones are assembled from them and never
            stored.
        task_vectors: what each fine-tuned model adds to every routed module.
        kept: what pruning leaves of the task vectors; all of them where nothing is pruned.
        routers: one router per routed module, or one that all share: the only parameters that are trained.
    """

    tasks: int
    routed_modules: int
    static: int
    routed_base: int
    task_vectors: int
    kept: int
    routers: int

    @property
    def trainable(self) -> int:
        """Parameters that are trained: by test-time adaptation, or along the front of a preference."""
        return self.routers

    @property
    def total(self) -> int:
        """Parameters of the routed model, what is pruned included, as published code stores and counts it."""
        return self.static + self.routed_base + self.task_vectors + self.routers

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
        return self.tasks * (self.static + self.routed_base)

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
    modules: Modules = "mlp",
    published: bool = False,
) -> Counts:
    """Counts the parameters of a WEMoE (arXiv 2402.00433), E-WEMoE (2410.21804) or PWEMoE (2406.09770) of a model.

    Args:
        architecture: a name among ``wemoe.architectures.ARCHITECTURES``.
        tasks: number of fine-tuned models, at least 1.
        router_layers: depth of the routers: 0 (a constant per MLP; not for a preference), 1 or 2.
        method: ``wemoe``, ``e_wemoe`` or ``pwemoe``, what they mean for the arguments that are None.
        share_router: whether all MLPs have one router.
        prune_ratio: share of the entries of each tensor of each task vector that is removed.
        position_encoding: whether a shared router reads which block is asking.
        modules: what is routed by a preference: ``mlp``, ``mlp+attention``, or ``all``, which adds norms and the
            convolution that makes patches.
        published: whether ``all`` counts, as published code does, modules too that the output does not depend on.
            Only OpenCLIP's image encoders have any: identities, and what is left of the text encoder.

    Raises:
        ValueError: an unknown architecture or method, fewer than one task, a router depth other than 0, 1 and 2, or
            choices that do not go together.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}; found {architecture!r}")
    if tasks < 1:
        raise ValueError(f"tasks must be at least 1; found {tasks}")
    chosen = choose(method, share_router, prune_ratio, position_encoding, modules)
    chosen.check(router_layers)
    model = ARCHITECTURES[architecture]
    parts = _routed(model, chosen.modules, published)
    base = sum(_size(part.shapes) for part in parts)
    kept = sum(kept_entries(prod(shape), chosen.prune_ratio) for part in parts for shape in part.shapes.values())
    router = _size(_router(chosen, model.width, tasks, router_layers))
    return Counts(
        tasks=tasks,
        routed_modules=len(parts),
        static=_size(model.shapes()) - base,
        routed_base=base,
        task_vectors=tasks * base,
        kept=tasks * kept,
        routers=router if chosen.share_router else len(parts) * router,
    )


def _routed(model: Architecture, modules: Modules, published: bool) -> list[Part]:
    kinds = _KINDS[modules]
    if published and modules == "all":
        kinds = (*kinds, "unread")
    return [part for part in model.parts() if part.kind in kinds]


def _router(chosen: RoutedMethod, D: int, T: int, layers: int) -> Shapes:
    """The parameters of one router: of hidden states as wide inside as outside, or of a preference, [T], twice so."""
    inputs = T if chosen.reads == "preference" else D + chosen.position_width
    hidden = 2 * T if chosen.reads == "preference" else inputs
    match layers:
        case 0:
            return {"bias": (T,)}
        case 1:
            return {"weight": (T, inputs), "bias": (T,)}
        case 2:
            return {"0.weight": (hidden, inputs), "0.bias": (hidden,), "2.weight": (T, hidden), "2.bias": (T,)}
        case _:
            raise ValueError(f"router_layers must be 0, 1 or 2; found {layers}")


def _size(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes.values())
