"""Log-probabilities from hidden states: in chunks that are recomputed (policy.py) against all logits at once.

    OMP_NUM_THREADS=1 python -m bench.logprobs [--tokens 2048] [--vocabulary 151936] [--hidden 896] [--rounds 3]

One thread. Each round runs both sides, forward and backward, one after the other; the time is the processor's, the
minimum over the rounds; the peak is the process's resident memory above what inputs and parameters take.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from policy import token_logprobs


def full_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same with all logits (N, V) and their log-softmax alive."""
    return F.linear(hidden, weight).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


def memory(field: str) -> int:
    """A field of this process's memory status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(logprobs: Callable[[], Tensor], parameters: list[Tensor]) -> tuple[float, float]:
    """Seconds and peak bytes of one forward and backward pass. The gradients count; their buffers are fresh."""
    for parameter in parameters:
        parameter.grad = None
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    began = time.process_time()
    logprobs().sum().backward()
    return time.process_time() - began, memory("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=896, help="896: Qwen2.5-0.5B")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    hidden = torch.randn(args.tokens, args.hidden, requires_grad=True)
    weight = (torch.randn(args.vocabulary, args.hidden) * 0.05).requires_grad_()
    targets = torch.randint(0, args.vocabulary, (args.tokens,))
    sides = {
        "chunks": lambda: token_logprobs(hidden, weight, targets)[0],
        "full logits": lambda: full_logprobs(hidden, weight, targets),
    }
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            results[name].append(measure(side, [hidden, weight]))
    seconds, peak = ({name: min(row[i] for row in rows) for name, rows in results.items()} for i in (0, 1))
    print(f"{args.tokens} tokens, V = {args.vocabulary:,}, D = {args.hidden}, one thread, {args.rounds} rounds")
    for name in sides:
        print(f"  {name:12} {seconds[name]:7.2f} s  {peak[name] / 1e9:6.2f} GB")
    print(
        f"  chunks: {peak['full logits'] / peak['chunks']:.1f} times less memory, "
        f"{seconds['chunks'] / seconds['full logits']:.2f} times the time"
    )


if __name__ == "__main__":
    main()
