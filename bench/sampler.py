"""The sampler against transformers' `generate`, on random Qwen2 models.

    python -m bench.sampler     on one CPU thread; --output FILE keeps the table; on a GPU: bench/gpu.py

Both sides sample with top-p 0.95 from the same prompts; sides are interleaved and the fastest of several runs counts.
Samples differ, so the measure is seconds per 1,000 sampled tokens. Prompts are equally long: nothing is padded.
Random weights give nearly uniform tokens, so V / n of V ids as stop ids give lengths that are exponential with mean n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn.functional import linear
from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from bench.top_p import HEADER, MEASURED, TOP_P, fastest, machine, table_row
from rollout import Sampler, onednn_linear
from tools.cli import run_stage, stage_parser
from tools.run import check_written, write_text

VOCABULARY = 4096


def make_model(hidden: int, **changes: int | bool) -> PreTrainedModel:
    """Four layers, heads of 32 dimensions, two query heads to a key head (grouped, as Qwen2's and Qwen3's are)."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": 4,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": hidden // 64,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **sizes | changes)).eval()


def cache_bytes(model: PreTrainedModel, rows: int, tokens: int) -> int:
    config, weight = model.config, model.model.embed_tokens.weight
    head_dim = config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * weight.element_size()
    return rows * tokens * token


class Case:
    """Prompts, sampled by either side, `batch` rows at a time; each side counts the tokens that it samples."""

    def __init__(
        self, model: PreTrainedModel, prompts: int, length: int, new: int, batch: int, samples: int = 1, mean: int = 0
    ):
        vocabulary = model.config.vocab_size
        self.model, self.batch, self.samples, self.new = model, batch, samples, new
        self.prompts = torch.randint(vocabulary, (prompts, length), generator=torch.Generator().manual_seed(1)).tolist()
        self.stops = list(range(vocabulary // mean)) if mean else []
        self.tokens: dict[str, int] = {}
        if model.device.type == "cuda":
            length = -(-length // 256) * 256  # as the sampler rounds it
        self.sampler = Sampler(model, cache_bytes(model, batch, length + new))  # made once: it keeps its recordings

    def ours(self) -> None:
        groups = self.sampler.generate(
            self.prompts, samples=self.samples, max_new_tokens=self.new, stop_ids=self.stops, top_p=TOP_P
        )
        self.tokens["ours"] = sum(len(sample.tokens) for group in groups for sample in group)

    def generate(self) -> None:
        number = self.batch // self.samples  # prompts at a time
        count, stops = 0, set(self.stops)
        for start in range(0, len(self.prompts), number):
            tokens = torch.tensor(self.prompts[start : start + number], device=self.model.device)
            out = self.model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=True,
                top_p=TOP_P,
                top_k=0,
                max_new_tokens=self.new,
                num_return_sequences=self.samples,
                eos_token_id=self.stops or None,
                pad_token_id=0,
            )
            for row in out[:, tokens.shape[1] :].tolist():
                count += next((index + 1 for index, token in enumerate(row) if token in stops), len(row))
        self.tokens["generate"] = count

    def generate_batch(self) -> None:
        """transformers' own continuous batching; on a GPU asynchronous and with CUDA graphs, its fastest way."""
        config = GenerationConfig(
            do_sample=True, top_p=TOP_P, top_k=0, max_new_tokens=self.new, eos_token_id=self.stops or -1, pad_token_id=0
        )
        if self.model.device.type == "cuda":
            how = ContinuousBatchingConfig(use_cuda_graph=True, use_async_batching=True)
        else:  # 512 tokens of cache a prompt: otherwise it takes all memory
            how = ContinuousBatchingConfig(num_blocks=2 * len(self.prompts), max_batch_tokens=2048)
        outputs = self.model.generate_batch(self.prompts, generation_config=config, continuous_batching_config=how)
        self.tokens["generate_batch"] = sum(len(output.generated_tokens) for output in outputs.values())

    def per_thousand(self, names: list[str], rounds: int) -> dict[str, float]:
        """Seconds per 1,000 tokens of each side."""
        sides: dict[str, Callable[[], object]] = {name: getattr(self, name) for name in names}
        best = fastest(sides, rounds, self.model.device.type)
        return {name: 1000 * best[name] / self.tokens[name] for name in names}


def cpu_rows(rounds: int) -> Iterator[str]:
    for hidden, least, stretch in ((256, "2.5x", "4x"), (128, "4x", "6x")):
        case = Case(make_model(hidden), prompts=64, length=32, new=128, batch=64)
        yield compare(case, f"hidden {hidden}, batch 64", least, stretch, rounds)
        products = linear_seconds(case)
        yield table_row("its linear layers alone, oneDNN", products["oneDNN"], "MKL", products["MKL"], "", "")
        many_heads = make_model(hidden, num_attention_heads=hidden // 16, num_key_value_heads=hidden // 16)
        case = Case(many_heads, prompts=64, length=32, new=128, batch=64)
        yield compare(case, f"hidden {hidden}, ungrouped heads of 16", least, stretch, rounds)
    for hidden in (256, 128):
        case = Case(make_model(hidden), prompts=256, length=32, new=256, batch=64, mean=48)
        yield compare(case, f"hidden {hidden}, exponential lengths", "4x", "7x", rounds)
    for hidden in (256, 128):
        case = Case(make_model(hidden), prompts=4, length=512, new=64, batch=64, samples=16)
        yield compare(case, f"hidden {hidden}, 16 samples per 512 tokens", "5x", "10x", rounds)


def compare(case: Case, what: str, least: str, stretch: str, rounds: int) -> str:
    best = case.per_thousand(["ours", "generate"], rounds)
    return table_row(what, best["ours"], "generate", best["generate"], least, stretch)


def linear_seconds(case: Case) -> dict[str, float]:
    """Seconds per 1,000 tokens of a decoding step's matrix products with the weights, by library: no step is faster."""
    modules = [module for module in case.model.modules() if isinstance(module, torch.nn.Linear)]
    inputs = [torch.randn(case.batch, module.in_features) for module in modules]

    @torch.no_grad()
    def step(product: Callable[..., torch.Tensor]) -> None:
        for x, module in zip(inputs, modules):
            product(x, module.weight, module.bias)

    best = fastest({"oneDNN": lambda: step(onednn_linear), "MKL": lambda: step(linear)}, 20, "cpu")
    return {name: 1000 * seconds / case.batch for name, seconds in best.items()}


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side that count")
    parser.add_argument("--output", type=Path, help="write the table here too")
    args = parser.parse_args()
    if args.output:
        check_written("--output", args.output, MEASURED.encode())
    torch.set_num_threads(1)
    lines = [machine("cpu"), "", HEADER]
    print(*lines, sep="\n")
    for row in cpu_rows(args.rounds):
        print(row, flush=True)
        lines.append(row)
        if args.output:
            write_text(args.output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    run_stage(main)
