"""Something else that comes between any two instructions, as a signal does: its handler runs, or Ctrl-C is raised."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

# What changes masks, weights and the records of an update.
_CHANGING = ("network/rewirable_model.py", "network/masks.py", "sparse_training/counters.py")


class Between:
    """While active, calls an action before one of the instructions of a function, or of what that calls.

    Args:
        name: Name of the function; before it begins, and after it ends, nothing is counted.
        number: Number of the instruction, from 0 on.
        action: Called once, there.
        files: Names of the modules whose instructions count; others only compute.

    Attributes:
        passed: Number of instructions before the action, or all if there were fewer.
    """

    def __init__(
        self, name: str, number: int, action: Callable[[], object], files: tuple[str, ...] = _CHANGING
    ) -> None:
        self.passed = 0
        self._files = files
        self._name, self._number, self._action = name, number, action
        self._inside: FrameType | None = None
        self._is_done = False

    def __enter__(self) -> Between:
        self._before = sys.gettrace()
        sys.settrace(self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _begin(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self._is_done or not frame.f_code.co_filename.endswith(self._files):
            return None
        if self._inside is None and frame.f_code.co_name != self._name:
            return None
        self._inside = self._inside or frame
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._look

    def _look(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "return" and frame is self._inside:
            self._inside = None
        if event == "opcode" and not self._is_done:
            self._is_done = self.passed == self._number
            if self._is_done:
                sys.settrace(self._before)
                self._action()  # an error in it is raised where the instruction would have been
            else:
                self.passed += 1
        return self._look


def reached(interrupted: Callable[[int], bool]) -> int:
    """Call a function with 0, 1, 2 ... until it tells that there is no such instruction, and return the number."""
    number = 0
    while interrupted(number):
        number += 1
    return number
