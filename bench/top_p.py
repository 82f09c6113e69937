"""Top-p sampling without sorting, against sorting.

    python -m bench.top_p                    the torch path, on one CPU thread
    python -m bench.top_p --device cuda      the kernel
    python -m bench.sampler --device cuda    every GPU row: these and the sampler's

Sides are interleaved and each reports the minimum of several runs. The peer on the CPU is bare `torch.sort`: a sampler
that sorts cannot be faster. On a GPU it is the whole of it: sort, softmax, cut, multinomial.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cuda.top_p import sample_top_p

TOP_P = 0.95
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
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    with open("/proc/cpuinfo") as lines:
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{name}, one thread, torch {torch.__version__}"


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


def gpu_rows() -> Iterator[str]:
    """The kernel at 256 x 151,936 against sorting and against one pass over the logits, and at small batches."""
    for dtype in (torch.bfloat16, torch.float32):
        for number in (256, 8):
            logits = (torch.randn(number, 151_936, device="cuda") * 2).to(dtype)
            seeds, steps = torch.arange(number, device="cuda"), torch.zeros(number, dtype=torch.int64, device="cuda")
            sides = {
                "ours": recorded(
                    lambda logits=logits, seeds=seeds, steps=steps: sample_top_p(logits, seeds, steps, 1.0, TOP_P)
                ),
                "pass": recorded(lambda logits=logits: logits.sum(dtype=torch.float32)),
                "sort": lambda logits=logits: sort_and_multinomial(logits),
            }
            best = fastest(sides, 20, "cuda")
            ours, one_pass = best["ours"] / REPEATS, best["pass"] / REPEATS
            what = f"kernel, {number} x 151,936, {str(dtype).removeprefix('torch.')}"
            yield table_row(what, ours, "sort + multinomial", best["sort"], "15x", "30x")
            share = f"{one_pass / ours:.2f}x, a quarter is asked"
            yield f"| the same | {ours:.3g} | one pass (sum) | {one_pass:.3g} | {share} | 0.25x | 0.4x |"


REPEATS = 20  # in one recording, so that launching it and waiting for it does not count


def recorded(function: Callable[[], object]) -> Callable[[], None]:
    """`function`, REPEATS times, as one CUDA graph."""
    function()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            function()
    return graph.replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(args.device), HEADER, *(gpu_rows() if args.device == "cuda" else cpu_rows()), sep="\n")


if __name__ == "__main__":
    main()
