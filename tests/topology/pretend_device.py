"""An accelerator made of CPU memory, which counts how often a real one would keep the host waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

# Any type but "cpu" makes code take its device path. This one every machine has, and it initializes nothing.
DEVICE = torch.device("meta")
# On CUDA either the result of these or its size is copied to the host.
WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave"})


class DeviceTensor(Tensor):
    """A tensor that says it is on `DEVICE`. Its numbers lie in `held`, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        outer: DeviceTensor = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=DEVICE
        )
        outer.held = held
        return outer

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"Expected an active PretendDevice to run {operator}; got none.")


class PretendDevice(TorchDispatchMode):
    """While active, runs on the CPU what is asked of `DEVICE`.

    Attributes:
        waits: How often the host would have waited, by operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        name = operator.overloadpacket.__name__
        tensors = [each for each in _flatten([*args, *options.values()]) if isinstance(each, Tensor)]
        source = any(isinstance(each, DeviceTensor) for each in tensors)
        target = options["device"] == DEVICE if options.get("device") is not None else source
        if not source and not target:
            if any(each.device == DEVICE for each in tensors):
                raise RuntimeError(
                    f"Expected no torch.tensor(..., device=...), which waits for a copy; got {operator}."
                )
            return operator(*args, **options)
        self.waits.update(_reasons_to_wait(name, args, options, tensors, source, target))
        if options.get("device") is not None:
            options["device"] = torch.device("cpu")
        result = operator(*_on_cpu(args), **_on_cpu(options))
        if not target:
            return result.clone()
        if source and operator._schema.is_mutable:
            return args[0]
        return tree_map_only(Tensor, DeviceTensor, result)


def _reasons_to_wait(
    name: str, args: Sequence[Any], options: Mapping[str, Any], tensors: Sequence[Tensor], source: bool, target: bool
) -> list[str]:
    strangers = [each for each in tensors if not isinstance(each, DeviceTensor) and each.dim()]
    if source and strangers and name != "copy_":
        raise RuntimeError(f"Expected all tensors of {name} on one device; got some on {DEVICE} and some on the CPU.")
    if source and (name in WAITS or not target or _picks_by_mask(name, args)):
        return [name]
    uploads = strangers if source else tensors
    return ["upload"] if uploads and not options.get("non_blocking") else []


def _flatten(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flatten(value)
        else:
            yield value


def _on_cpu(tree: Any) -> Any:
    return tree_map_only(DeviceTensor, lambda each: each.held, tree)


def _picks_by_mask(name: str, args: Sequence[Any]) -> bool:
    masks = (each for each in _flatten(args[1:]) if isinstance(each, Tensor))
    return name.startswith("index") and any(each.dtype in (torch.bool, torch.uint8) for each in masks)
