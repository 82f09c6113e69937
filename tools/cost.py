"""What a command takes: its parts `count` it while they work, `tools.cli.run_stage` tells the `bill` at its end."""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter

LONG = 60  # seconds: of what takes less nothing is told
PAID = "paid to the teacher at TEACHER_PRICE"
COUNTED: Counter[str] = Counter()  # by this process so far: what -> how much


def count(what: str, amount: float) -> None:
    """Add to what this command took, such as 1200 "tokens sampled". Several processes count what all of them took."""
    COUNTED[what] += amount


def bill(command: str, seconds: float) -> str | None:
    """One line about time, counts and memory. None of a short command that paid nothing, and None but for the first of
    several processes."""
    if (seconds < LONG and PAID not in COUNTED) or os.environ.get("RANK", "0") != "0":
        return None
    counts = [f"{amount:,.4f} {what}" if what == PAID else f"{amount:,.0f} {what}" for what, amount in COUNTED.items()]
    return ", ".join(
        [f"{command} took {duration(seconds)}", *counts, f"{peak_memory_gb():.1f} GB of memory at its peak"]
    )


def peak_memory_gb() -> float:
    """The most that this process has used so far: of its GPU if PyTorch uses one, else of the host's memory."""
    torch = sys.modules.get("torch")  # stages without it stay without it
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def duration(seconds: float) -> str:
    """A time in its two largest units.

    >>> duration(3725)
    '1 h 2 min'
    """
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (whole % 60, "s")]
    first = next((place for place, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number) or "0 s"
