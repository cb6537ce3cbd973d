"""What a pickle holds, without running anything that it names.

A pickle is a program: it may name any function and have it called. Here each name becomes an `Inert`, which
only notes what it was called with; nothing is imported. Arrays are then rebuilt from those notes.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt


class Inert:
    """A call that was not made: the name, what it was called with, and what it was told afterwards."""

    module = name = ""

    def __new__(cls, *arguments: Any, **_: Any) -> Inert:
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = None
        made.items = {}
        return made

    arguments: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        self.items[len(self.items)] = value


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return type("Inert", (Inert,), {"module": module, "name": name})

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"refers to {pid!r}, outside the file")


def load_inert(data: bytes) -> Any:
    """The plain values (dicts, lists, numbers, text, bytes) of a pickle, with `Inert` for all else.

    Raises:
        ValueError: no pickle, or a broken one.
    """
    try:
        return _Reader(io.BytesIO(data), encoding="latin1").load()
    except (
        *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError),
        *(TypeError, ValueError, MemoryError, OverflowError),
    ) as error:
        raise ValueError(f"is no readable pickle ({error})") from error


def as_array(value: Any) -> npt.NDArray[Any]:
    """An array of numbers from what `load_inert` gave for it: numpy's two ways of pickling, or lists.

    Raises:
        ValueError: it is something else, an array of objects or a tensor.
    """
    if isinstance(value, list | tuple):
        return np.asarray([as_array(v) if isinstance(v, Inert) else v for v in value], np.float64)
    if not isinstance(value, Inert):
        raise ValueError(f"a {type(value).__name__} where an array should be")
    if value.name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, fortran, content = value.state
        order: Any = "F" if fortran else "C"
    elif value.name == "_frombuffer" and len(value.arguments) == 4:
        content, kind, shape, order = value.arguments
    elif value.name == "scalar" and len(value.arguments) == 2:
        (kind, content), shape, order = value.arguments, (), "C"
    else:
        raise ValueError(f"a {value.module}.{value.name} where an array should be")
    dtype = _dtype(kind)
    flat = np.frombuffer(_as_bytes(content), dtype)
    return flat.reshape(tuple(int(n) for n in shape), order=order)


def plain(value: Any) -> Any:
    """A number or text, also where it was pickled as numpy's or as an enumeration's."""
    if not isinstance(value, Inert):
        return value
    if value.name == "scalar":
        return as_array(value).item()
    if len(value.arguments) == 1 and not isinstance(value.arguments[0], Inert):
        return value.arguments[0]
    raise ValueError(f"a {value.module}.{value.name} where a number or a name should be")


def _dtype(kind: Any) -> np.dtype[Any]:
    name = kind.arguments[0] if isinstance(kind, Inert) and kind.arguments else None
    order = kind.state[1] if isinstance(kind, Inert) and isinstance(kind.state, tuple) else "|"
    if not isinstance(name, str) or name[:1] not in "fiub" or order not in ("<", ">", "|", "="):
        raise ValueError("an array of something else than numbers")
    return np.dtype(order + name)


def _as_bytes(content: Any) -> bytes:
    """Bytes, also as pickle's protocols below 3 write them: text, to be encoded as Latin-1."""
    if isinstance(content, Inert) and content.name == "encode":
        content = content.arguments[0]
    elif isinstance(content, Inert) and content.name == "bytes" and not content.arguments:
        return b""
    if isinstance(content, str):
        return content.encode("latin1")
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    raise ValueError("an array without its bytes")
