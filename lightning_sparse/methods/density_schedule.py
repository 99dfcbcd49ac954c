"""Densities that change over a run: from that of a dense network, say, to the final one."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from numbers import Integral, Real

from lightning_sparse.methods.timetable import Cadence
from lightning_sparse.topology.registry import resolve
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import short_text

# Functions of progress in [0, 1], initial and final density that return a density.
Shape = Callable[[float, float, float], float]


def constant(progress: float, initial: float, final: float) -> float:
    """Return the final density."""
    return final


def linear(progress: float, initial: float, final: float) -> float:
    """Return a density that falls (or rises) by the same number in each part of the run."""
    return final + (initial - final) * (1 - progress)


def cubic(progress: float, initial: float, final: float) -> float:
    """Return a density that changes fast at first: `final + (initial - final) * (1 - progress)**3`.

    That is `s_f + (s_i - s_f) * (1 - progress)**3` of sparsities (Zhu & Gupta 2017, equation 1).

    >>> round(1 - cubic(0.5, initial=1.0, final=0.1), 6)
    0.7875
    """
    return float(final + (initial - final) * (1 - progress) ** 3)


def exponential(progress: float, initial: float, final: float) -> float:
    """Return `initial * (final / initial)**progress`, which changes by the same factor in each part of the run.

    So do repeated prunings of the same fraction, as iterative pruning makes them.
    """
    return float(initial * (final / initial) ** progress)


SHAPES: dict[str, Shape] = {"constant": constant, "linear": linear, "cubic": cubic, "exponential": exponential}


def _is_position(position: int | float) -> bool:
    return position >= 0 if isinstance(position, Integral) else 0 <= position <= 1


class DensitySchedule:
    """A density that changes over a run, at boundaries of a period of its own.

    The density is the initial one until `begin`, follows the shape at every boundary after that, and is exactly the
    final one from the last boundary up to `end` on.

    Args:
        final: Fraction in (0, 1] of the maskable weights that are active at the end.
        initial: The same at the start; 1 for a dense network.
        shape: "cubic" (Zhu & Gupta 2017), "linear", "exponential", "constant" (final from the first change on), the
            import path of a function, or a function of progress in [0, 1], the initial and the final density that
            returns a density.
        every_n_epochs: Period of changes in epochs; 1 if neither period is set.
        every_n_steps: Period of changes in optimizer steps, instead.
        begin: Start of the changes: a number of epochs (of steps, if the period is in steps) as an integer, or a
            fraction of the run as a float.
        end: End of the changes, given in the same way.

    Raises:
        ValueError: If a density or a position is out of range, or the shape unknown.

    >>> schedule = DensitySchedule(0.1)
    >>> [round(schedule.at(progress), 4) for progress in (0.0, 0.5, 1.0)]
    [1.0, 0.2125, 0.1]
    """

    def __init__(
        self,
        final: float,
        initial: float = 1.0,
        shape: str | Shape = "cubic",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        begin: int | float = 0,
        end: int | float = 1.0,
    ) -> None:
        for name, density in (("final", final), ("initial", initial)):
            if isinstance(density, bool) or not isinstance(density, Real) or not 0 < density <= 1:
                raise InvalidValueError(
                    expected=f"a {name} density in (0, 1], a fraction of the maskable weights",
                    got=repr(density),
                    cure="0.05, say",
                )
        for name, position in (("begin", begin), ("end", end)):
            if isinstance(position, bool) or not isinstance(position, Real) or not _is_position(position):
                raise InvalidValueError(
                    expected=f"{name} as a number of epochs or steps, an integer >= 0, or as a float in [0, 1]",
                    got=repr(position),
                    cure="0.75 means three quarters of the run",
                )
        self.final, self.initial = float(final), float(initial)
        self.cadence = Cadence.with_default(every_n_epochs, every_n_steps)
        self.begin, self.end = (int(each) if isinstance(each, Integral) else float(each) for each in (begin, end))
        self._shape: Shape = resolve("shape of a density schedule", shape, SHAPES, accepts=callable)
        self.at(0.5)  # a wrong function is wrong there, too, most likely

    def __repr__(self) -> str:
        return f"DensitySchedule({self.final}, {self.initial}, {short_text(self._shape)})"

    def at(self, progress: float) -> float:
        """Return the density, in (0, 1]: exactly the initial one before the first change, the final one at the end.

        Args:
            progress: Part of the changes that is done; 0 or less before the first, 1 or more after the last.

        Raises:
            ValueError: If the shape returns no density.
        """
        if not 0 < progress < 1:
            return self.final if progress >= 1 else self.initial
        returned = self._shape(progress, self.initial, self.final)
        try:
            density = float(returned)
        except (TypeError, ValueError):
            density = nan
        if not 0 < density <= 1:
            raise InvalidValueError(
                expected=f"a density in (0, 1] from the schedule at progress {progress:.3g}",
                got=repr(returned),
                cure="return a fraction of the maskable weights",
            )
        return density
