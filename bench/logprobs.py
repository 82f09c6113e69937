"""Log-probabilities from hidden states: in chunks that are recomputed (policy.py) against all logits at once.

    OMP_NUM_THREADS=1 python -m bench.logprobs                     the output layer of Qwen2.5-0.5B alone
    OMP_NUM_THREADS=1 python -m bench.logprobs --layers 24         behind the whole model, with random weights

One thread, float32. Each round runs both sides, forward and backward, one after the other; the time is the
processor's, the minimum over the rounds. The peak is the process's resident memory above what inputs, parameters and
their gradients take.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

from policy import Policy, token_logprobs

HIDDEN, VOCABULARY = 896, 151_936
LogProbs = Callable[..., tuple[Tensor, Tensor]]


def full_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The same, log-probabilities and entropies, from all logits (N, V) at once."""
    logs = (F.linear(hidden, weight).float() / temperature).log_softmax(-1)
    with torch.no_grad():
        entropies = -(logs.exp() * logs).sum(-1)
    return logs.gather(1, targets[:, None])[:, 0], entropies


def output_layer(tokens: int) -> tuple[Callable[[LogProbs], Tensor], list[Tensor]]:
    """A function that runs the output layer by one of the two ways, and its parameters."""
    hidden = torch.randn(tokens, HIDDEN, requires_grad=True)
    weight = (torch.randn(VOCABULARY, HIDDEN) * 0.05).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (tokens,))
    return lambda logprobs: logprobs(hidden, weight, targets)[0], [hidden, weight]


def whole_model(tokens: int, layers: int) -> tuple[Callable[[LogProbs], Tensor], list[Tensor]]:
    """The same with the blocks of a Qwen2.5-0.5B before it."""
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=4864, num_hidden_layers=layers,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    policy = Policy(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"))
    row = torch.randint(0, VOCABULARY, (1, tokens + 1))
    scored = torch.arange(tokens + 1)[None] > 0

    def run(logprobs: LogProbs) -> Tensor:
        with mock.patch("policy.token_logprobs", logprobs):
            return policy(row, scored)[0]

    return run, list(policy.parameters())


def memory(field: str) -> int:
    """A field of this process's memory status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(run: Callable[[], Tensor], parameters: list[Tensor]) -> tuple[float, float]:
    """Seconds and peak bytes of one forward and backward pass."""
    for parameter in parameters:
        parameter.grad = None
    before = memory("VmRSS") + sum(parameter.nbytes for parameter in parameters)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    began = time.process_time()
    run().sum().backward()
    return time.process_time() - began, memory("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    run, parameters = whole_model(args.tokens, args.layers) if args.layers else output_layer(args.tokens)
    sides = {"chunks": token_logprobs, "full logits": full_logprobs}
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            results[name].append(measure(lambda: run(side), parameters))  # noqa: B023
    seconds, peak = ({name: min(row[i] for row in rows) for name, rows in results.items()} for i in (0, 1))
    print(f"{args.tokens} tokens, V = {VOCABULARY:,}, D = {HIDDEN}, {args.layers} layers, {args.rounds} rounds")
    for name in sides:
        print(f"  {name:12} {seconds[name]:7.2f} s  {peak[name] / 1e9:6.2f} GB")
    print(
        f"  chunks: {peak['full logits'] / peak['chunks']:.1f} times less memory, "
        f"{seconds['chunks'] / seconds['full logits']:.2f} times the time"
    )


if __name__ == "__main__":
    main()
