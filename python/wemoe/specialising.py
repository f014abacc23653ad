"""Subclasses that are generated once for each class that they extend.

A routed model is an instance of its base's class, so that whatever accepts the base (generation, trainers, pipelines)
accepts it. The generated classes carry the name of the class they extend, which other libraries look up.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Specialised:
    """A generated subclass: copied and pickled by the class it extends, since its own cannot be imported."""

    base_class: ClassVar[type]
    mixin: ClassVar[type[Specialised]]

    @classmethod
    def class_attributes(cls, base_class: type) -> dict[str, Any]:
        """Attributes that the subclass of `base_class` has of its own."""
        return {}

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Rebuild from the extended class and the mixin."""
        return _allocate, (self.base_class, self.mixin), self.__dict__.copy()


_generated: dict[tuple[type, type[Specialised]], type[Specialised]] = {}


def specialise(base_class: type, mixin: type[Specialised]) -> type[Specialised]:
    """Return the subclass of `base_class` that is also a `mixin`; the same one for the same arguments."""
    key = (base_class, mixin)
    if key not in _generated:
        body = {
            "__module__": base_class.__module__,
            "__qualname__": base_class.__qualname__,
            "__doc__": base_class.__doc__,
            "base_class": base_class,
            "mixin": mixin,
            **mixin.class_attributes(base_class),
        }
        _generated[key] = type(base_class.__name__, (mixin, base_class), body)
    return _generated[key]


def _allocate(base_class: type, mixin: type[Specialised]) -> Specialised:
    generated = specialise(base_class, mixin)
    return generated.__new__(generated)
