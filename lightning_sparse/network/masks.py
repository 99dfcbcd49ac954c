"""The masks of some weights, kept where the weights are, their application, and whether it is needed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter, methodcaller
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_sparse.network.dtensor import full_tensor, is_dtensor, local_part, shard_of, to_local
from lightning_sparse.topology.digest import fingerprint
from lightning_sparse.topology.layer import LayerView
from lightning_sparse.topology.packing import pack_mask, unpack_mask
from lightning_sparse.topology.select import top_k_mask
from lightning_sparse.validation.errors import InvalidValueError

# What is read of every weight several times in a step, without a frame of Python each time.
_VERSION, _POINTER = attrgetter("_version"), methodcaller("data_ptr")


class _Group(NamedTuple):
    """Some of the weights, as they were written to last."""

    parameters: list[Tensor]
    # Their local parts, without gradients: so writing needs no `torch.no_grad()`, which costs as much as small layers.
    parts: list[Tensor]
    masks: list[Tensor]
    # Where they are; None where parameters don't say, and are asked every time: of a DTensor, the local part.
    pointers: list[int] | None
    # Their places among all weights; None if they are all of them, in order.
    places: list[int] | None
    # Whether one call for all of them pays: not for a few on the CPU.
    are_many: bool


class Masks:
    """Masks by parameter name, all inactive at first.

    They have the dtype and device of their weight, since multiplying by them is then the fastest way to apply them,
    and follow it when it moves. Of a sharded parameter, a process holds the local part of the mask. An optimizer step
    comes here, so nothing is looked up or made that was already there in the step before.

    Args:
        parameters: The weights by name.

    Attributes:
        names: Names of the weights, in the order given.
        repairs: Number of times that all weights were masked after some had changed.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.names = tuple(parameters)
        self._parameters = dict(parameters)
        self._masks = {name: torch.zeros_like(to_local(weight)) for name, weight in parameters.items()}
        self._groups: dict[tuple[str, ...], _Group] = {}
        self._all = [*parameters.values()]
        # PyTorch's counts of the changes of each weight in place, when it was masked last; -1 before that.
        self._versions = [-1] * len(self._all)
        self.repairs = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: its weights are elsewhere, and were never masked yet."""
        return {**self.__dict__, "_groups": {}, "_versions": [-1] * len(self._all)}

    def __getitem__(self, name: str) -> Tensor:
        """Return the mask of a weight: bool, shape and device of its local part."""
        return self.stored(name).bool()

    def __setitem__(self, name: str, mask: Tensor) -> None:
        """Replace the values of a mask, in place; shape of the local part."""
        self._masks[name].copy_(mask)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that the masks belong to, by name."""
        return dict(self._parameters)

    def dense_view(self, name: str, generator: torch.Generator) -> LayerView:
        """Return the evidence about a weight before it has a mask: all of it is active."""
        weight = to_local(self._parameters[name]).detach()
        everything = torch.ones_like(weight, dtype=torch.bool)
        return LayerView(name, weight, everything, generator, shard=shard_of(self._parameters[name]))

    def set_whole(self, name: str, whole: Tensor) -> None:
        """Replace a mask by the local part of one for the whole weight."""
        self[name] = local_part(whole, self._parameters[name])

    def set_all(self, masks: Mapping[str, Tensor]) -> None:
        """Replace masks by the local parts of those given, each of a whole weight."""
        for name, mask in masks.items():
            self.set_whole(name, mask)

    def draw_random(self, counts: Mapping[str, int], generator: torch.Generator) -> None:
        """Replace masks by random ones with the given numbers of active weights."""
        for name, active in counts.items():
            noise = torch.rand(self._parameters[name].shape, generator=generator, dtype=torch.float32, device="cpu")
            self.set_whole(name, top_k_mask(noise, active))

    def stored(self, name: str) -> Tensor:
        """Return the mask of a weight as it is stored: 0 or 1, dtype, device and shape of its local part; no copy."""
        weight, mask = to_local(self._parameters[name]), self._masks[name]
        if mask.device != weight.device or mask.dtype != weight.dtype:
            mask = self._masks[name] = mask.to(weight.device, weight.dtype)
            self._groups.clear()  # which have the mask that this one replaces
        return mask

    def apply(self, names: Iterable[str] | None = None) -> None:
        """Set the inactive weights to zero, of all masked weights or of those named."""
        chosen = self.names if names is None else tuple(names)
        if not chosen:
            return
        if names is None:
            self.repairs += self.have_changed()
        group = self._groups.get(chosen)
        if group is None or [*map(_POINTER, group.parameters)] != group.pointers:
            group = self._look_up(chosen)  # their place or dtype may be another than in the step before
        if group.are_many:
            torch._foreach_mul_(group.parts, group.masks)
        else:
            for part, mask in zip(group.parts, group.masks, strict=True):
                part.mul_(mask)
        try:  # as `_versions` does, without a call
            versions = [*map(_VERSION, group.parameters)]
        except RuntimeError:
            versions = _versions(group.parameters)
        if group.places is None:
            self._versions = versions
        else:
            for place, version in zip(group.places, versions, strict=True):
                self._versions[place] = version

    def are_applied(self, names: Sequence[str]) -> None:
        """Take note that the weights named are zero where they are inactive: changes are counted from here on."""
        parameters = [self._parameters[name] for name in names]
        try:  # as `_versions` does, without a call
            versions = [*map(_VERSION, parameters)]
        except RuntimeError:
            versions = _versions(parameters)
        latest = dict(zip(self.names, self._versions, strict=True)) | dict(zip(names, versions, strict=True))
        self._versions = [*latest.values()]

    def _look_up(self, names: tuple[str, ...]) -> _Group:
        """Find out where some weights are now."""
        parameters = [self._parameters[name] for name in names]
        with torch.inference_mode(False):  # what is made in an evaluation must serve in training too
            parts = [to_local(parameter).detach() for parameter in parameters]
            masks = [*map(self.stored, names)]
        asks = any(is_dtensor(parameter) or parameter.device.type == "meta" for parameter in parameters)
        pointers = None if asks else [*map(_POINTER, parameters)]
        places = None if names == self.names else [self.names.index(name) for name in names]
        are_many = len(parts) > 8 or any(part.device.type != "cpu" for part in parts)
        group = self._groups[names] = _Group(parameters, parts, masks, pointers, places, are_many)
        return group

    def have_changed(self) -> bool:
        """Tell whether a weight was written to since it was masked last, as far as PyTorch counts: not by `.data`."""
        try:  # as `_versions` does, without a call, since this comes three times in a step
            return [*map(_VERSION, self._all)] != self._versions
        except RuntimeError:
            return _versions(self._all) != self._versions

    def release(self) -> None:
        """Let go of the memory where the weights were last, which they may have left."""
        self._groups.clear()

    @torch.no_grad()
    def apply_to_gradients(self, names: Iterable[str]) -> None:
        """Set the gradients of inactive weights to zero."""
        for name in names:
            gradient = self._parameters[name].grad
            if gradient is not None:
                to_local(gradient).mul_(self.stored(name))

    @torch.no_grad()
    def apply_to(self, copies: Mapping[str, Tensor]) -> None:
        """Set the same positions to zero in copies of the weights, wherever these are.

        Raises:
            ValueError: If a weight is missing among the copies or has another shape.
        """
        for name in self.names:
            expected, copy = self._parameters[name], copies.get(name)
            if copy is None or copy.shape != expected.shape:
                raise InvalidValueError(
                    expected=f"a copy of {name!r}, shape {tuple(expected.shape)}",
                    got=f"{'none' if copy is None else tuple(copy.shape)}",
                    cure="pass a copy of the masked model",
                )
        for name in self.names:
            part = to_local(copies[name])
            part.mul_(self._masks[name].to(part.device, part.dtype))

    def whole(self, name: str) -> Tensor:
        """Return the mask of a whole weight, bool; of a sharded one, every process must ask for it."""
        # Collectives know bytes everywhere, truth values not.
        return full_tensor(self[name].to(torch.uint8), self._parameters[name]).bool()

    def packed(self) -> dict[str, Tensor]:
        """Return the masks of the whole weights at one bit per weight, on the CPU."""
        return {name: pack_mask(self.whole(name)).cpu() for name in self.names}

    def load(self, packed: Mapping[str, Tensor]) -> None:
        """Take over packed masks of the whole weights."""
        for name, mask in packed.items():
            self.set_whole(name, unpack_mask(mask, self._parameters[name].shape))

    def fingerprint(self) -> Tensor:
        """Return two integers, int64, shape `(2,)`, which are the same on every process unless something went wrong.

        They depend on the masks and on the weights' values; of a sharded weight, on the number of its active weights,
        counted over all processes.
        """
        total = torch.zeros(2, dtype=torch.int64)
        for name in self.names:
            mask, shard = self[name], shard_of(self._parameters[name])
            if shard is None:
                found = fingerprint(mask, self._parameters[name])
            else:
                found = shard.all_reduce(torch.count_nonzero(mask)).expand(2)
            total = total.to(found.device) * 31 + found
        return total


def _versions(parameters: list[Tensor]) -> list[int]:
    try:
        return [*map(_VERSION, parameters)]
    except RuntimeError:  # weights that were made in inference mode have no counts
        return [-2] * len(parameters)
