"""Weights to write to in every step, and whether someone else has written to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_sparse.network.dtensor import is_dtensor, to_local


class _Group(NamedTuple):
    """Some of the weights, as they were written to last."""

    parameters: list[Tensor]
    # Their local parts, without gradients: so writing needs no `torch.no_grad()`, which costs as much as small layers.
    parts: list[Tensor]
    # Where they are; None where parameters don't say, and are asked every time: of a DTensor, the local part.
    pointers: list[int] | None
    # Their places among all weights.
    places: list[int]
    # Whether one call for all of them pays: not for a few on the CPU.
    are_many: bool


class WatchedWeights:
    """Weights by name.

    An optimizer step comes here, so nothing is looked up or made that was already there in the step before.

    Args:
        parameters: The weights by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.names = tuple(parameters)
        self._parameters = dict(parameters)
        self._groups: dict[tuple[str, ...], _Group] = {}
        self._all = [*parameters.values()]
        # PyTorch's counts of the changes of each weight in place, when it was written to last; -1 before that.
        self._versions = [-1] * len(self._all)

    def _group(self, names: tuple[str, ...]) -> tuple[_Group, bool]:
        """Return some weights, and whether their place or type may have changed since they were asked for last."""
        group = self._groups.get(names)
        if group is not None and [parameter.data_ptr() for parameter in group.parameters] == group.pointers:
            return group, False
        parameters = [self._parameters[name] for name in names]
        with torch.inference_mode(False):  # what is made in an evaluation must serve in training too
            parts = [to_local(parameter).detach() for parameter in parameters]
        asks = any(is_dtensor(parameter) or parameter.device.type == "meta" for parameter in parameters)
        pointers = None if asks else [parameter.data_ptr() for parameter in parameters]
        places = [self.names.index(name) for name in names]
        are_many = len(parts) > 8 or any(part.device.type != "cpu" for part in parts)
        group = self._groups[names] = _Group(parameters, parts, pointers, places, are_many)
        return group, True

    def _note_versions(self, group: _Group) -> None:
        versions = _versions(group.parameters)
        if len(versions) == len(self._all):
            self._versions = [versions[place] for place in group.places]
        else:
            for place, version in zip(group.places, versions, strict=True):
                self._versions[place] = version

    def have_changed(self) -> bool:
        """Tell whether a weight was written to since it was masked last, as far as PyTorch counts: not by `.data`."""
        return _versions(self._all) != self._versions

    def release(self) -> None:
        """Let go of the memory where the weights were last, which they may have left."""
        self._groups.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: its weights are elsewhere, and were never written to yet."""
        return {**self.__dict__, "_groups": {}, "_versions": [-1] * len(self._all)}


def _versions(parameters: list[Tensor]) -> list[int]:
    try:
        return [parameter._version for parameter in parameters]
    except RuntimeError:  # weights that were made in inference mode have no counts
        return [-2] * len(parameters)
