"""Reads pickles without running the functions that they name.

A pickle is a program: it may name any function and call it. Here each name becomes a `RecordedCall`, which
only records the arguments of the call; nothing is imported. Arrays are then rebuilt from these records.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    MemoryError,
    OverflowError,
)
"""What damaged data makes the unpickler raise."""


class RecordedCall:
    """A call that was recorded and not made: its name, its arguments, and the state set afterwards."""

    module = name = ""
    """The name of the function or class, e.g. `numpy` and `dtype`."""

    def __new__(cls, *arguments: Any, **_: Any) -> RecordedCall:
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
        return type("RecordedCall", (RecordedCall,), {"module": module, "name": name})

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it refers to {pid!r}, which is not in the file")


def load_inert(data: bytes) -> Any:
    """Read the plain values of a pickle: dicts, lists, numbers, text, bytes. All else is a `RecordedCall`.

    Raises:
        ValueError: the data is no pickle, or a damaged one.
    """
    try:
        return _Reader(io.BytesIO(data), encoding="latin1").load()
    except _UNREADABLE as error:
        raise ValueError(f"is not a readable pickle ({error})") from error


def as_array(value: Any) -> npt.NDArray[Any]:
    """Rebuild an array of numbers from a value of `load_inert`: numpy's two ways of pickling, or a list.

    Raises:
        ValueError: the value is something else, for example an array of objects or a tensor.
    """
    if isinstance(value, list | tuple):
        return np.asarray(
            [as_array(v) if isinstance(v, RecordedCall) else v for v in value], np.float64
        )
    if not isinstance(value, RecordedCall):
        raise ValueError(f"a {type(value).__name__}: expected an array")
    if value.name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, fortran, content = value.state
        order: Any = "F" if fortran else "C"
    elif value.name == "_frombuffer" and len(value.arguments) == 4:
        content, kind, shape, order = value.arguments
    elif value.name == "scalar" and len(value.arguments) == 2:
        (kind, content), shape, order = value.arguments, (), "C"
    else:
        raise ValueError(f"a {value.module}.{value.name}: expected an array of numpy")
    dtype = _dtype(kind)
    flat = np.frombuffer(_as_bytes(content), dtype)
    return flat.reshape(tuple(int(n) for n in shape), order=order)


def as_scalar(value: Any) -> Any:
    """Return a number or text, also if it was pickled as a numpy scalar or as a member of an enumeration."""
    if not isinstance(value, RecordedCall):
        return value
    if value.name == "scalar":
        return as_array(value).item()
    if len(value.arguments) == 1 and not isinstance(value.arguments[0], RecordedCall):
        return value.arguments[0]
    raise ValueError(f"a {value.module}.{value.name}: expected a number or a name")


def _dtype(kind: Any) -> np.dtype[Any]:
    name = kind.arguments[0] if isinstance(kind, RecordedCall) and kind.arguments else None
    order = (
        kind.state[1] if isinstance(kind, RecordedCall) and isinstance(kind.state, tuple) else "|"
    )
    if not isinstance(name, str) or name[:1] not in "fiub" or order not in ("<", ">", "|", "="):
        raise ValueError("an array that does not hold numbers: expected an array of numbers")
    return np.dtype(order + name)


def _as_bytes(content: Any) -> bytes:
    """Return bytes. Pickle protocols below 3 write them as text, which is encoded as Latin-1 here."""
    if isinstance(content, RecordedCall) and content.name == "encode":
        content = content.arguments[0]
    elif isinstance(content, RecordedCall) and content.name == "bytes" and not content.arguments:
        return b""
    if isinstance(content, str):
        return content.encode("latin1")
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    raise ValueError("an array without its bytes: the file may be damaged")
