"""A GPU that exists in name only: tests count with it how often the host waits for one.

    with pretended_gpu() as gpu:
        model, pixels = on_gpu(model), on_gpu(pixels)
        detect(model, [pixels])
    assert gpu.num_waits <= 12

A `NamedGpuTensor` says that it is on cuda:0 and computes on the CPU. So values, shapes and control flow are
real, and times and rounding are not those of a GPU. A *wait* is a call that needs something back from the
device before the host can go on: a copy that is not `non_blocking`, a number, a truth value, or a result
whose shape depends on values. A *mix* is an operation on tensors of both devices, which CUDA refuses.

Not seen: waits within a kernel, pinned memory, streams, and the allocator. The list of operations that wait
is that of torch 2.15. On a real GPU, `torch.cuda.set_sync_debug_mode` reports them (`benchmarks/device.py`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda:0")
CHECKOUT = str(Path(__file__).resolve().parents[1])
SHAPE_DEPENDS_ON_VALUES = {
    "aten::nonzero", "aten::masked_select", "aten::_unique", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::bincount", "aten::equal", "aten::_local_scalar_dense",
    "torchvision::nms",
}  # fmt: skip
INDEXING = {"aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_"}
INDEXING |= {"aten::_index_put_impl_"}


class Gpu:
    """What the host did with the pretended GPU."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        """ "what: file:line" of this checkout -> how often the host waited."""
        self.mixes: Counter[str] = Counter()

    @property
    def num_waits(self) -> int:
        return sum(self.waits.values())

    def clear(self) -> None:
        """Forget everything, for example after a first call that fills caches."""
        self.waits.clear()
        self.mixes.clear()

    def wait(self, what: str) -> None:
        self.waits[f"{what}: {_line()}"] += 1


def _line() -> str:
    """Name the innermost line of this checkout, outside of this file."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(CHECKOUT) and file != __file__ and "site-packages" not in file:
            return f"{file.removeprefix(CHECKOUT)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside"


class NamedGpuTensor(Tensor):
    """A tensor that says it is on cuda:0; `values` holds its numbers, on the CPU."""

    values: Tensor  # type: ignore[assignment]  # of a dense tensor, this method raises
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> NamedGpuTensor:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
        )
        made.values = values.detach()
        return made  # type: ignore[no-any-return]

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"{self.values!r} on a pretended GPU"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a pretended GPU: expected a call within `pretended_gpu`")


def on_gpu(thing: Any) -> Any:
    """Copy a tensor, or move a module's parameters and buffers in place. The host does not wait."""
    if isinstance(thing, Tensor):
        return NamedGpuTensor(thing.detach().clone())
    for module in thing.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved = on_gpu(parameter)
                module._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = on_gpu(buffer)
    return thing


@contextmanager
def pretended_gpu() -> Iterator[Gpu]:
    """Make a device "cuda" that counts waits and mixes."""
    gpu = Gpu()
    autocast, grouping = (
        torch.amp.autocast_mode.autocast,
        torch._C._group_tensors_by_device_and_dtype,
    )
    begin = autocast.__init__

    def begin_on_cpu(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        begin(self, device_type.replace("cuda", "cpu"), *args, **kwargs)

    def group(tensors: Any, *args: Any) -> Any:
        """Group as C++ does, which believes that all tensors are on the CPU."""
        return {
            (GPU if isinstance(one[0][0][0], NamedGpuTensor) else device, dtype): one
            for (device, dtype), one in grouping(tensors, *args).items()
        }

    replaced: Sequence[tuple[Any, str, Any]] = (
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
        # In inference mode, operations on wrappers arrive whole and not in the parts listed above.
        (torch._C, "_InferenceMode", lambda on: torch.no_grad() if on else nullcontext()),
        (torch._C, "_group_tensors_by_device_and_dtype", group),
        (autocast, "__init__", begin_on_cpu),
    )
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(_Operators(gpu))
        stack.enter_context(_Methods(gpu))
        yield gpu


class _Methods(TorchFunctionMode):
    """Calls that move tensors between the devices, as Python makes them."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        mine = bool(args) and isinstance(args[0], NamedGpuTensor)
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.to:
            return self._move(*args, **kwargs)
        if func in (Tensor.cuda, Tensor.cpu):
            device = GPU if func is Tensor.cuda else torch.device("cpu")
            return self._move(args[0], device, **kwargs)
        if func is Tensor.tolist and mine:
            self.gpu.wait("tolist")
            return args[0].values.tolist()
        if func in (torch.tensor, torch.as_tensor) and _names_gpu(kwargs.get("device")):
            self.gpu.wait("a tensor made of Python's numbers")
            return NamedGpuTensor(func(*args, **(kwargs | {"device": "cpu"})))
        if func is Tensor.new_tensor and mine and _names_gpu(kwargs.pop("device", GPU)):
            self.gpu.wait("a tensor made of Python's numbers")
            return NamedGpuTensor(torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)))
        return func(*args, **kwargs)

    def _move(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Do the work of `Tensor.to`, whose arguments may be a device, a dtype, or another tensor."""
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        for arg in args:
            if isinstance(arg, Tensor):
                device, dtype = arg.device, arg.dtype
            elif isinstance(arg, torch.dtype):
                dtype = arg
            elif isinstance(arg, str | torch.device):
                device = arg
        waits = not (kwargs.get("non_blocking") or any(arg is True for arg in args))
        here = isinstance(tensor, NamedGpuTensor)
        there = here if device is None else _names_gpu(device)
        if here == there:
            return Tensor.to(tensor, dtype=dtype or tensor.dtype)
        if waits:
            self.gpu.wait(f"a copy to the {'GPU' if there else 'CPU'}")
        values = tensor.values if isinstance(tensor, NamedGpuTensor) else tensor
        moved = values.detach().clone().to(dtype=dtype or tensor.dtype)
        return NamedGpuTensor(moved) if there else moved


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types
    """All operators, forward and backward."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        mine = [tensor for tensor in tensors if isinstance(tensor, NamedGpuTensor)]
        # Autograd makes new tensors on the device on which C++ believes it is.
        by_autograd = not tensors and torch._C._current_autograd_node() is not None  # type: ignore[attr-defined]
        on_the_gpu = bool(mine) or by_autograd or _names_gpu(kwargs.get("device"))
        if mine:
            self._note(func, args, kwargs, len(mine) < len(tensors))
        if on_the_gpu and kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        result = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        if not on_the_gpu:
            return result
        changed = {id(one.values): one for one in mine} if func._schema.is_mutable else {}

        def named(one: Any) -> Any:
            if not isinstance(one, Tensor):
                return one
            return changed[id(one)] if id(one) in changed else NamedGpuTensor(one)

        return tree_map(named, result)

    def _note(self, func: Any, args: Any, kwargs: Mapping[str, Any], mixed: bool) -> None:
        name = func.overloadpacket._qualified_op_name
        if name in SHAPE_DEPENDS_ON_VALUES:
            self.gpu.wait(name)
        elif name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
            self.gpu.wait(name)
        elif name == "aten::copy_" and mixed:
            if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
                self.gpu.wait("a copy into a tensor")
            return
        elif name in INDEXING and isinstance(args[0], NamedGpuTensor):
            self._note_indices(args)
            return
        others = [x for x in tree_flatten((args, kwargs))[0] if type(x) is Tensor and x.dim()]
        if others:
            self.gpu.mixes[f"{name}: {_line()}"] += 1

    def _note_indices(self, args: Any) -> None:
        one_value = len(args) > 2 and isinstance(args[2], Tensor) and args[2].numel() == 1
        for index in args[1]:
            if index is None:
                continue
            if not isinstance(index, NamedGpuTensor):
                # In the backward pass, CUDA still has the copy of the forward pass.
                if torch._C._current_autograd_node() is None:  # type: ignore[attr-defined]
                    self.gpu.wait("an index on the CPU")
            elif index.dtype in (torch.bool, torch.uint8) and not one_value:
                self.gpu.wait("a mask as index")
        if len(args) > 2 and type(args[2]) is Tensor and args[2].dim():
            self.gpu.mixes[f"index_put: {_line()}"] += 1


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, NamedGpuTensor) else leaf


def _names_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"
