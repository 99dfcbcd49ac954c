"""What of a result is the same whenever and wherever it is made."""

from __future__ import annotations

from typing import Any


def without_times(result: dict[str, Any] | None) -> dict[str, Any]:
    assert result is not None
    assert isinstance(result["seconds"], float)  # in tenths, which a few small epochs may not reach
    assert isinstance(result["cpu_seconds"], float)
    return {name: value for name, value in result.items() if name not in ("seconds", "cpu_seconds")}
