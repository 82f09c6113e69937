"""Top-p sampling without sorting, against sorting.

    python -m bench.top_p       the torch path, on one CPU thread; the kernel: bench/gpu.py

Sides are interleaved and each reports the minimum of several runs. The peer on the CPU is bare `torch.sort`: a sampler
that sorts cannot be faster. On a GPU it is the whole of it: sort, softmax, cut, multinomial.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cuda.top_p import sample_top_p

TOP_P = 0.95
MEASURED = "Measured on "  # what every table begins with
HEADER = "| what | seconds | against | seconds | times | at least | stretch |\n|---|---|---|---|---|---|---|"


def fastest(sides: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """The minimum seconds of each side over `rounds`, in which the sides take turns; the first round only warms up.

    On the CPU it is the process's time, which does not count what other processes take.
    """
    best = dict.fromkeys(sides, float("inf"))
    for number in range(rounds + 1):
        for name, side in sides.items():
            if device == "cuda":
                torch.cuda.synchronize()
            clock = time.perf_counter if device == "cuda" else time.process_time
            began = clock()
            side()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                best[name] = min(best[name], clock() - began)
    return best


def table_row(what: str, ours: float, against: str, theirs: float, least: str, stretch: str) -> str:
    return f"| {what} | {ours:.3g} | {against} | {theirs:.3g} | {theirs / ours:.1f}x | {least} | {stretch} |"


def machine(device: str) -> str:
    """What the numbers were measured on."""
    if device == "cuda":
        return f"{MEASURED}{torch.cuda.get_device_name()}, torch {torch.__version__}"
    with open("/proc/cpuinfo") as lines:
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{MEASURED}{name}, one thread, torch {torch.__version__}"


def sort_and_multinomial(logits: Tensor) -> Tensor:
    """Top-p as most codebases have it: sort, cut where the mass above reaches p, draw among the rest."""
    values, indices = logits.float().sort(descending=True)
    probabilities = values.softmax(-1)
    probabilities[probabilities.cumsum(-1) - probabilities >= TOP_P] = 0
    return indices.gather(1, torch.multinomial(probabilities, 1))


def cpu_rows() -> list[str]:
    rows = []
    for number, vocabulary in ((64, 4096), (64, 151_936)):
        logits = torch.randn(number, vocabulary, generator=torch.Generator().manual_seed(0)) * 2
        seeds, steps = torch.arange(number), torch.zeros(number, dtype=torch.int64)
        sides = {
            "ours": lambda logits=logits, seeds=seeds, steps=steps: sample_top_p(logits, seeds, steps, 1.0, TOP_P),
            "sort": lambda logits=logits: logits.sort(descending=True),
        }
        best = fastest(sides, 10, "cpu")
        what = f"torch path, {number} x {vocabulary:,}, float32"
        rows.append(table_row(what, best["ours"], "torch sort", best["sort"], "8x", "15x"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    print(machine("cpu"), HEADER, *cpu_rows(), sep="\n")


if __name__ == "__main__":
    main()
