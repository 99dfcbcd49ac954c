"""Train sparse neural networks from scratch in any PyTorch Lightning project."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_sparse._version import __version__
from lightning_sparse.validation.lazy_imports import lazy_imports

if TYPE_CHECKING:  # for type checkers and editors; tests/test_lazy_imports.py compares it with the names below
    from lightning_sparse import analysis as analysis
    from lightning_sparse import callbacks as callbacks
    from lightning_sparse import comparison as comparison
    from lightning_sparse import data as data
    from lightning_sparse import methods as methods
    from lightning_sparse import models as models
    from lightning_sparse import network as network
    from lightning_sparse import rounds as rounds
    from lightning_sparse import topology as topology
    from lightning_sparse.analysis import ClassSpecialization as ClassSpecialization
    from lightning_sparse.analysis import effective_gradient_flow as effective_gradient_flow
    from lightning_sparse.callbacks import ClassSpecializationCallback as ClassSpecializationCallback
    from lightning_sparse.callbacks import GradientFlowCallback as GradientFlowCallback
    from lightning_sparse.callbacks import SparseMomentumCallback as SparseMomentumCallback
    from lightning_sparse.callbacks import SparseTrainingCallback as SparseTrainingCallback
    from lightning_sparse.callbacks import SparsityPictures as SparsityPictures
    from lightning_sparse.methods import DensitySchedule as DensitySchedule
    from lightning_sparse.network import SparseNetwork as SparseNetwork
else:
    # PyTorch and Lightning take seconds to import, which commands that don't need them needn't wait for.
    _PARTS = ("analysis", "callbacks", "comparison", "data", "methods", "models", "network", "rounds", "topology")
    _NAMES, _imported = lazy_imports(
        globals(),
        __name__,
        {
            "analysis": ["ClassSpecialization", "effective_gradient_flow"],
            "callbacks": [
                "ClassSpecializationCallback",
                "GradientFlowCallback",
                "SparseMomentumCallback",
                "SparseTrainingCallback",
                "SparsityPictures",
            ],
            "methods": ["DensitySchedule"],
            "network": ["SparseNetwork"],
        },
    )
    __all__ = ["__version__", *_NAMES]

    def __getattr__(name: str) -> Any:
        return import_module(f"{__name__}.{name}") if name in _PARTS else _imported(name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_PARTS})
