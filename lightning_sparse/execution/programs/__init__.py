"""From a module's forward pass to the chains that run parts of it: traced, and checked to be still what was traced."""

from lightning_sparse.execution.programs.tracing import Traced, UntraceableError, trace

__all__ = ["Traced", "UntraceableError", "trace"]
