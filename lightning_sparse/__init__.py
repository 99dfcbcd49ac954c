"""Train sparse neural networks from scratch in any PyTorch Lightning project."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_sparse._version import __version__

if TYPE_CHECKING:
    from lightning_sparse import analysis, callbacks, data, models, network, topology  # noqa: F401  # as below
    from lightning_sparse.analysis import ClassSpecialization, effective_gradient_flow
    from lightning_sparse.callbacks import (
        ClassSpecializationCallback,
        GradientFlowCallback,
        SparseMomentumCallback,
        SparseTrainingCallback,
        SparsityPictures,
    )
    from lightning_sparse.network import SparseNetwork
else:  # type checkers would take any name for one that is there
    # Looked up when asked for: PyTorch and Lightning take seconds to import, which the parts of the command line that
    # don't need them needn't wait for.
    _LATER = {
        "ClassSpecialization": "analysis",
        "ClassSpecializationCallback": "callbacks",
        "GradientFlowCallback": "callbacks",
        "SparseMomentumCallback": "callbacks",
        "SparseNetwork": "network",
        "SparseTrainingCallback": "callbacks",
        "SparsityPictures": "callbacks",
        "effective_gradient_flow": "analysis",
    }
    _PARTS = {"analysis", "callbacks", "data", "models", "network", "topology"}

    def __getattr__(name: str) -> Any:
        if name in _PARTS:
            return import_module(f"{__name__}.{name}")
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_PARTS})


__all__ = [
    "ClassSpecialization",
    "ClassSpecializationCallback",
    "GradientFlowCallback",
    "SparseMomentumCallback",
    "SparseNetwork",
    "SparseTrainingCallback",
    "SparsityPictures",
    "__version__",
    "effective_gradient_flow",
]
