"""The old place of `send_figure`, for one more version."""

import warnings
from typing import Any

from lightning_sparse.callbacks.probing import figure_logging


def __getattr__(name: str) -> Any:
    if name != "send_figure":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "lightning_sparse.callbacks.figures will go: import send_figure from lightning_sparse.callbacks.",
        DeprecationWarning,
        stacklevel=2,
    )
    return figure_logging.send_figure
