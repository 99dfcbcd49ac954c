"""Tensors that share the memory of some weights, made anew only where weights have moved."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_sparse.network.dtensor import is_dtensor, to_local


def _versions(parameters: Collection[Tensor]) -> list[int]:
    try:
        return [parameter._version for parameter in parameters]
    except RuntimeError:  # weights that were made in inference mode have no counts
        return [-1] * len(parameters)


class _Group(NamedTuple):
    parameters: list[Tensor]
    # Without gradients, so that masking them needs no `torch.no_grad()`, which costs as much as masking small layers.
    aliases: list[Tensor]
    # Where they are. None where a parameter doesn't say: of a DTensor, the local part is asked for every time.
    pointers: list[int] | None


class WeightAliases:
    """Local parts of weights to write to, and whether someone else has written to them.

    An optimizer step comes here, so nothing is looked up or made that was already there in the step before.

    Args:
        parameters: The weights by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = dict(parameters)
        self._groups: dict[tuple[str, ...], _Group] = {}
        # PyTorch's counts of in-place changes; -1 before the first masking.
        self._versions = dict.fromkeys(parameters, -1)

    def of(self, names: tuple[str, ...]) -> tuple[list[Tensor], bool]:
        """Return the local parts of some weights, and whether they may be elsewhere, or of another type, than before."""
        group = self._groups.get(names)
        if (
            group is not None
            and group.pointers is not None
            and [parameter.data_ptr() for parameter in group.parameters] == group.pointers
        ):
            return group.aliases, False
        group = self._groups[names] = self._group(names)
        return group.aliases, True

    def _group(self, names: tuple[str, ...]) -> _Group:
        parameters = [self._parameters[name] for name in names]
        with torch.inference_mode(False):  # an alias that is made in an evaluation must serve in training too
            aliases = [to_local(parameter).detach() for parameter in parameters]
        asks = any(is_dtensor(parameter) or parameter.device.type == "meta" for parameter in parameters)
        return _Group(parameters, aliases, None if asks else [parameter.data_ptr() for parameter in parameters])

    def note_versions(self, names: tuple[str, ...]) -> None:
        """Remember these weights as they are now."""
        parameters = self._groups[names].parameters
        self._versions.update(zip(names, _versions(parameters), strict=True))

    def have_changed(self) -> bool:
        """Tell whether a weight was written to since it was noted."""
        known = [*self._versions.values()]
        return _versions(self._parameters.values()) != known or -1 in known

    def release(self) -> None:
        """Let go of the memory: of weights that have moved, it would stay allocated."""
        self._groups.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: its weights are elsewhere, and were never masked yet."""
        return {**self.__dict__, "_groups": {}, "_versions": dict.fromkeys(self._parameters, -1)}
