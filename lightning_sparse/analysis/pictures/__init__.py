"""Pictures of a training run, drawn by matplotlib.

Each function takes plain data, draws into the axes passed as `ax` or new ones, and returns the figure, which
`figure.savefig` saves.
"""

from lightning_sparse.validation.errors import MissingPackageError

try:
    from lightning_sparse.analysis.pictures.plot_gradients import plot_gradient_flow, plot_layer_gradient_flow
    from lightning_sparse.analysis.pictures.plot_masks import plot_empty_channels, plot_input_connectivity, plot_mask
    from lightning_sparse.analysis.pictures.plot_results import (
        Point,
        plot_accuracy,
        plot_beside_published,
        plot_over_density,
    )
    from lightning_sparse.analysis.pictures.plot_specialization import plot_specialization
    from lightning_sparse.analysis.pictures.plot_topology import plot_layer_densities, plot_redistribution
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise MissingPackageError(
        expected="the package matplotlib, which draws the pictures",
        got="none",
        cure="pip install matplotlib",
        name="matplotlib",
    ) from error

__all__ = [
    "Point",
    "plot_accuracy",
    "plot_beside_published",
    "plot_empty_channels",
    "plot_gradient_flow",
    "plot_input_connectivity",
    "plot_layer_densities",
    "plot_layer_gradient_flow",
    "plot_mask",
    "plot_over_density",
    "plot_redistribution",
    "plot_specialization",
]
