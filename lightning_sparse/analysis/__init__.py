"""What happened: measurements and pictures."""

from lightning_sparse.analysis.gradient_flow import effective_gradient_flow, gradient_norm

__all__ = ["effective_gradient_flow", "gradient_norm"]
