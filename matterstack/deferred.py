"""`dataclass`, whose methods are compiled when the first instance is made instead of when the class is.

Compiling the methods of a frozen dataclass takes the standard library about 1 ms, and a command that has little to do
would spend a fifth of its time on classes of which it makes no instance. `changed` and `filled` make instances of them
without their `__init__`, where a step makes thousands.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

T = TypeVar("T")


def changed(item: T, **values: Any) -> T:
    """Return a copy of a frozen dataclass with other values, as `dataclasses.replace` does in four times the time.

    The class must have no slots and no `__post_init__`; a step may change ten thousand rows.
    """
    copy: T = object.__new__(type(item))
    copy.__dict__.update(item.__dict__, **values)
    return copy


def filled(kind: Callable[..., T], values: Sequence[Any]) -> T:
    """Return an instance of a frozen dataclass with all of its fields, as its `__init__` does in three times the time."""
    names = _names.get(kind)
    if names is None:
        names = _names[kind] = tuple(item.name for item in dataclasses.fields(cast("Any", kind)))
    made: T = object.__new__(cast("type[T]", kind))
    made.__dict__.update(zip(names, values, strict=True))
    return made


_names: dict[Any, tuple[str, ...]] = {}

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # what a type checker sees
else:
    _compiling = threading.RLock()

    class _Placeholder:
        """An attribute that the standard decorator sets; whoever asks for it has the class compiled first."""

        def __init__(self, name, complete):
            self.name, self.complete = name, complete

        def __get__(self, instance, owner):
            self.complete()
            return getattr(owner, self.name)

    def dataclass(**options):
        """Return what `dataclasses.dataclass` returns, as soon as it matters."""

        def decorate(cls):
            placeholders = {}

            def complete():
                with _compiling:
                    if cls.__dict__.get("__init__") is not placeholders["__init__"]:
                        return  # by another thread
                    for name in placeholders:
                        delattr(cls, name)
                    dataclasses.dataclass(**options)(cls)

            def first(self, *args, **kwargs):
                complete()
                type(self).__init__(self, *args, **kwargs)

            placeholders["__init__"] = first
            for name in ("__dataclass_fields__", "__dataclass_params__"):
                placeholders[name] = _Placeholder(name, complete)
            for name, value in placeholders.items():
                setattr(cls, name, value)
            return cls

        return decorate
