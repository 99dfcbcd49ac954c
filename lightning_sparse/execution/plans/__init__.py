"""Where kernels find what they multiply: made once for a mask, and for the size of its inputs."""

from lightning_sparse.execution.plans.convolution import ConvolutionPlan, Geometry
from lightning_sparse.execution.plans.rows import Rows, rows_of, transposed

__all__ = ["ConvolutionPlan", "Geometry", "Rows", "rows_of", "transposed"]
