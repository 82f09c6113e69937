"""What a training step used of its machine, beside what that machine reaches when it copies or multiplies only.

The peaks are measured once, at a stage's start, in a fraction of a second and without a random number. Work is counted,
not measured: the weights and cached keys and values that decoding has to read, the products with the weights (see
`plan.operations`). What is neither, the machine was idle, or did what training does not need.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

COPIED = {"cpu": 2**26, "cuda": 2**30}  # bytes: more than a cache holds
SIDE = {"cpu": 512, "cuda": 8192}  # of square matrices
REPEATS = 2


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes read and written a second, and operations a second."""

    bandwidth: float
    arithmetic: float


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """What a large copy and a product of large matrices in `dtype` reach on the device."""
    side, source = SIDE[device.type], torch.ones(COPIED[device.type], dtype=torch.uint8, device=device)
    target, matrix = torch.empty_like(source), torch.ones(side, side, dtype=dtype, device=device)
    copying = fastest(lambda: target.copy_(source), device)
    return Peaks(2 * len(source) / copying, 2 * side**3 / fastest(lambda: matrix @ matrix, device))


def fastest(work: Callable[[], object], device: torch.device) -> float:
    """The fewest seconds of a few runs after a first one."""
    seconds = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def shares(
    peaks: Peaks, read: float, sampling: float, updating: float, seconds_rollout: float, seconds_update: float
) -> dict[str, float]:
    """A step's shares of the peaks: of sampling, which had to read so many bytes and took so many operations, and of
    the update; and the share of its seconds that a machine at its peaks would not have needed."""
    reading = read / peaks.bandwidth
    multiplying, training = sampling / peaks.arithmetic, updating / peaks.arithmetic
    return {
        "rollout_bandwidth": reading / seconds_rollout,
        "rollout_arithmetic": multiplying / seconds_rollout,
        "update_arithmetic": training / seconds_update,
        "idle": 1 - (max(reading, multiplying) + training) / (seconds_rollout + seconds_update),
    }
