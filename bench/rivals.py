"""The sampler against what else decodes many sequences on a CPU: transformers' continuous batching, and llama.cpp.

    python -m bench.rivals                                  # one thread; --output FILE keeps the table
    python -m bench.rivals --llama build/bin/llama-batched-bench

Random Qwen2 models of four layers, float32, 64 prompts of 32 tokens, 128 new tokens each: the first rows of
`bench.sampler`, in the same measure. llama.cpp gets the same weights as GGUF (that takes `pip install gguf`). Its
bench draws nothing: tokens are random ones, without a softmax or top-p, which spares it what the others do; and its
cache is float16.
"""

from __future__ import annotations

import resource
import subprocess
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bench.sampler import Case, make_model
from bench.top_p import HEADER, MEASURED, fastest, machine, table_row
from tools.cli import run_stage, stage_parser
from tools.run import check_written, write_text

PROMPTS, LENGTH, NEW = 64, 32, 128
NAMES = {  # of a layer's weights, as llama.cpp has them
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: PreTrainedModel, path: Path) -> None:
    """A Qwen2 model with tied embeddings, float32, without a tokenizer."""
    from gguf import GGUFWriter

    config, writer = model.config, GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, weight in model.model.named_parameters():
        writer.add_tensor(gguf_name(name), weight.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """layers.3.self_attn.q_proj.bias -> blk.3.attn_q.bias"""
    if not name.startswith("layers."):
        return {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]
    _, number, rest = name.split(".", 2)
    module, _, kind = rest.rpartition(".")
    return f"blk.{number}.{NAMES[module]}.{kind}"


def llama_seconds(binary: Path, weights: Path, length: int, new: int, sequences: int) -> float:
    """Processor seconds of llama.cpp's batched bench, loading included."""
    sizes = {"-npp": length, "-ntg": new, "-npl": sequences, "-c": max(512, sequences * (length + new))}
    options = {"-m": weights, "-t": 1, "-tb": 1, "-b": 2048, "-ub": 2048, "-ngl": 0} | sizes
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [str(word) for option in options.items() for word in option]
    subprocess.run([binary, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_rows(hidden: int, binary: Path | None, rounds: int) -> list[str]:
    """A line for each rival at one size."""
    model = make_model(hidden)
    case = Case(model, PROMPTS, LENGTH, NEW, batch=PROMPTS)
    what, tokens = f"hidden {hidden}, batch {PROMPTS}", PROMPTS * NEW
    best = case.per_thousand(["ours", "generate_batch"], rounds)
    rows = [table_row(what, best["ours"], "generate_batch", best["generate_batch"], "", "")]
    if binary:
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "model.gguf"
            write_gguf(model, weights)
            ours, theirs = [], []
            for _ in range(rounds + 1):
                ours.append(1000 * fastest({"ours": case.ours}, 1, "cpu")["ours"] / tokens)
                seconds = llama_seconds(binary, weights, LENGTH, NEW, PROMPTS) - llama_seconds(binary, weights, 1, 1, 1)
                theirs.append(1000 * seconds / tokens)
        rows.append(table_row(what, min(ours), "llama.cpp", min(theirs), "", ""))
    return rows


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--llama", type=Path, help="llama-batched-bench, built for this processor (GGML_NATIVE=ON)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side that count")
    parser.add_argument("--output", type=Path, help="write the table here too")
    args = parser.parse_args()
    if args.output:
        check_written("--output", args.output, MEASURED.encode())
    torch.set_num_threads(1)
    lines = [machine("cpu"), "", HEADER]
    for hidden in (256, 128):
        lines += cpu_rows(hidden, args.llama, args.rounds)
    print(*lines, sep="\n")
    if args.output:
        write_text(args.output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    run_stage(main)
