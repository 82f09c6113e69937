"""What only a GPU can show, part by part, in the order of worth: bash bench/gpu.sh FOLDER [PART ...]

    tests     the kernels, the recorded steps and the training stages, on the GPU
    top_p     the kernel beside one pass over the logits, sorting, and FlashInfer where it is installed
    decode    random weights of Qwen2.5's shapes beside the bandwidth floor, `generate` and `generate_batch`
    step      a GRPO step of 0.5 B parameters, and of 7 B with LoRA: seconds by phase, memory beside `grpo.py --plan`
    tiny      the tiny recipe from its first RL stage on, in bfloat16; needs TINY=runs/tiny, where its `sft` is finished
    model     a real model through cold start, both RL stages and evaluation; needs TINY and MODEL=folder as well

Each part is a process with a time limit of its own, so that none takes another's memory or time; all fit into nine
minutes. Results are appended to FOLDER/results.jsonl as they come, what a part printed is FOLDER/PART.txt, and the
table at the end is FOLDER/table.md. Exit status 1 if a part failed or missed a target.

Needed: the packages of requirements.txt and, for `tests`, of tests/requirements.txt. FlashInfer (flashinfer-python) and
flash-attn (for `generate_batch`) are used where they are. Nothing is fetched. A MODEL folder may hold its weights in
pieces (split -b 50m model.safetensors model.safetensors.piece-): they are joined there.

`--rehearse` runs everything on the CPU in small sizes, so that on the day only what is the GPU's own can fail."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

import fsdp_utils
from bench.grpo_step import MODEL, Ours
from bench.sampler import Case, cache_bytes, make_model
from bench.top_p import TOP_P, fastest, sort_and_multinomial
from cuda.top_p import sample_top_p
from lora import Adapters
from plan import Machine, Work, memory, outline
from tools.run import append_jsonl, read_jsonl

PROJECT = Path(__file__).parents[1]
REPEATS = 20  # of a kernel in one recording, so that launching it and waiting for it does not count
SHAPES = {  # of Qwen2.5: hidden, intermediate, layers, heads, key heads, vocabulary
    "0.5B": (896, 4864, 24, 14, 2, 151_936),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936),
    "7B": (3584, 18_944, 28, 28, 4, 152_064),
    "rehearsal": (64, 96, 2, 2, 1, 3072),
}


@dataclass(slots=True)
class Result:
    """A row of the table. `passed` is None where there is no target."""

    part: str
    what: str
    result: str
    target: str = ""
    passed: bool | None = None
    error: str = ""


@dataclass(slots=True)
class Day:
    """Where the parts run, and how large: `device` is cuda, or cpu in a rehearsal."""

    folder: Path
    device: str

    @property
    def rehearsal(self) -> bool:
        return self.device == "cpu"

    def synchronize(self) -> None:
        if not self.rehearsal:
            torch.cuda.synchronize()


# ---------------------------------------------------------------------------------------------------------------- parts


def tests(day: Day) -> Iterator[Result]:
    files = [f"tests/test_{name}.py" for name in ("decode", "top_p", "gpu")]
    words = [sys.executable, "-m", "pytest", "-q", *(["--version"] if day.rehearsal else files)]
    done = subprocess.run(words, cwd=PROJECT, env=os.environ | {"GPU_TESTS": "1"}, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    error = next((line for line in lines if line.startswith(("E  ", "FAILED", "ERROR"))), "")
    yield Result("tests", ", ".join(files), lines[-1] if lines else "", "all pass", done.returncode == 0, error)


def top_p(day: Day) -> Iterator[Result]:
    """Targets: 4 times one pass at 256 x 151,936 in bfloat16, 0.30 ms at 512 x 131,072 in float32."""
    sizes = [(256, 151_936, torch.bfloat16), (512, 131_072, torch.float32), (128, 131_072, torch.float32)]
    for rows, vocabulary, dtype in [(4, 600, torch.float32)] if day.rehearsal else sizes:
        logits = (torch.randn(rows, vocabulary, device=day.device) * 2).to(dtype)
        seeds = torch.arange(rows, device=day.device)
        sides = {name: repeated(day, side) for name, side in top_p_sides(day, logits, seeds).items()}
        best = {name: each / REPEATS for name, each in fastest(sides, 1 if day.rehearsal else 10, day.device).items()}
        sort = {"sort + multinomial": lambda logits=logits: sort_and_multinomial(logits)}  # waits for the device
        best |= fastest(sort, 1 if day.rehearsal else 10, day.device)
        what = f"{rows} x {vocabulary:,} {str(dtype).removeprefix('torch.')}"
        ours, one_pass = best["kernel"], best["pass"]
        yield Result("top_p", f"{what}, ms", f"{1e3 * ours:.3f}", *judge(rows == 512, 1e3 * ours, 0.30))
        yield Result("top_p", f"{what}, passes", f"{ours / one_pass:.2f}", *judge(rows == 256, ours / one_pass, 4.0))
        for name in best.keys() - {"kernel"}:
            yield Result("top_p", f"{what}, {name}, ms", f"{1e3 * best[name]:.3f}")


def judge(asked: bool, value: float, most: float) -> tuple[str, bool | None]:
    """Target and verdict of a value that must not be above `most`, where that is asked of it."""
    return (f"at most {most:g}", value <= most) if asked else ("", None)


def top_p_sides(day: Day, logits: torch.Tensor, seeds: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The kernel and its peers. A pass reads the logits once; a copy of them writes as many bytes as well."""
    steps, copy = torch.zeros_like(seeds), torch.empty_like(logits)
    sides: dict[str, Callable[[], object]] = {
        "kernel": lambda: sample_top_p(logits, seeds, steps, 1.0, TOP_P),
        "pass": lambda: logits.sum(dtype=torch.float32),
        "copy": lambda: copy.copy_(logits),
    }
    if importlib.util.find_spec("flashinfer") and not day.rehearsal:
        from flashinfer.sampling import top_p_sampling_from_probs

        sides["FlashInfer, with softmax"] = lambda: top_p_sampling_from_probs(logits.float().softmax(-1), TOP_P)
    return sides


def repeated(day: Day, function: Callable[[], object]) -> Callable[[], object]:
    """`function`, REPEATS times, on a GPU as one CUDA graph."""

    def repeat() -> None:
        for _ in range(REPEATS):
            function()

    function()  # compiles
    if day.rehearsal:
        return repeat
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        repeat()
    return graph.replay


def decode(day: Day) -> Iterator[Result]:
    """128 tokens in, 512 out; our side of every size first, then the peers, which take longer."""
    names, batches = (["rehearsal"], [4]) if day.rehearsal else (["0.5B", "7B", "1.5B"], [256, 64])
    for name in names:
        model = shaped(name, day.device)
        for batch in batches:
            yield from beside_floor(day, model, name, batch)
        if name in ("0.5B", "rehearsal"):
            yield serving(day, model)
        del model
        release(day)
    for name in names[:2]:
        yield from peers(day, shaped(name, day.device), name, batches[0])
        release(day)


def beside_floor(day: Day, model: PreTrainedModel, name: str, batch: int) -> Iterator[Result]:
    """The floor is what a step takes that only reads the weights and the cache once, at the measured bandwidth."""
    case = decoding_case(day, model, batch)
    ours = seconds_per_token(case, "ours")
    case.sampler.free()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    read = weights + cache_bytes(model, batch, len(case.prompts[0]) + case.new / 2)
    share, least = read / bandwidth(day) / batch / ours, {"0.5B": 0.4, "7B": 0.6}.get(name) if batch == 256 else None
    target = (f"at least {least:.0%}", share >= least) if least else ("", None)
    yield Result("decode", f"{name}, batch {batch}, share of the bandwidth floor", f"{share:.0%}", *target)
    yield Result("decode", f"{name}, batch {batch}, tokens/s", f"{1 / ours:.0f}")


def peers(day: Day, model: PreTrainedModel, name: str, batch: int) -> Iterator[Result]:
    """`generate`, and last `generate_batch`, since that changes the model's attention function."""
    case = decoding_case(day, model, batch)
    ours = seconds_per_token(case, "ours")
    case.sampler.free()
    for side, least in (("generate", 4), ("generate_batch", 2)):
        if side == "generate" or not day.rehearsal:  # without a GPU, `generate_batch` takes all memory for its cache
            times = seconds_per_token(case, side) / ours
            verdict = None if day.rehearsal else times >= least
            yield Result("decode", f"{name}, batch {batch}, {side}", f"{times:.1f}x", f"at least {least}x", verdict)


def serving(day: Day, model: PreTrainedModel) -> Result:
    """nano-vllm's workload, nearly: 256 requests of 100 to 1,024 tokens; a response stops at random, after 566 tokens
    on average and 1,024 at most, where theirs have uniform lengths."""
    prompts, longest = (256, 1024) if not day.rehearsal else (4, 8)
    case = Case(model, prompts, longest, longest, prompts, mean=770 if not day.rehearsal else 4)
    lengths = torch.randint(longest // 10, longest + 1, (prompts,), generator=torch.Generator().manual_seed(2)).tolist()
    case.prompts = [prompt[: max(1, length)] for prompt, length in zip(case.prompts, lengths)]
    rate = 1 / seconds_per_token(case, "ours")
    case.sampler.free()
    verdict = None if day.rehearsal else rate >= 30_000
    return Result("decode", "256 requests, 100-1,024 in and out, tokens/s", f"{rate:.0f}", "at least 30,000", verdict)


def decoding_case(day: Day, model: PreTrainedModel, batch: int) -> Case:
    return Case(model, batch, *((8, 4) if day.rehearsal else (128, 512)), batch)


def seconds_per_token(case: Case, side: str) -> float:
    """Ours twice: the first run compiles and records. A peer once, it takes long."""
    if side == "ours":
        return case.per_thousand([side], 1)["ours"] / 1000
    began = time.perf_counter()
    getattr(case, side)()
    return (time.perf_counter() - began) / case.tokens[side]


def shaped(name: str, device: str) -> PreTrainedModel:
    """Random weights of a Qwen2.5's shapes in bfloat16, made where they stay: on the CPU 7 B would take minutes."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SHAPES[name]
    sizes = {"intermediate_size": intermediate, "num_hidden_layers": layers, "vocab_size": vocabulary}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "tie_word_embeddings": name != "7B"}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return make_model(hidden, **sizes)
    finally:
        torch.set_default_dtype(before)


def bandwidth(day: Day) -> float:
    """Bytes a second that a sum over a large block reads."""
    block = torch.zeros(2**20 if day.rehearsal else 2**30, dtype=torch.bfloat16, device=day.device)
    return block.nbytes / fastest({"read": lambda: block.sum(dtype=torch.float32)}, 10, day.device)["read"]


def arithmetic(day: Day) -> float:
    """Floating-point operations a second of a large product."""
    size, dtype = (256, torch.float32) if day.rehearsal else (8192, torch.bfloat16)
    a = torch.randn(size, size, device=day.device).to(dtype)
    return 2 * size**3 / fastest({"product": lambda: a @ a}, 10, day.device)["product"]


def release(day: Day) -> None:
    gc.collect()
    if not day.rehearsal:
        torch.cuda.empty_cache()


def step(day: Day) -> Iterator[Result]:
    sizes = [("rehearsal", 2, 4, None)] if day.rehearsal else [("0.5B", 32, 512, None), ("7B", 16, 512, 16)]
    for name, questions, length, rank in sizes:
        yield from grpo_step(day, name, questions, length, rank and Adapters(rank, 2.0 * rank, 0))
        release(day)


def grpo_step(day: Day, name: str, questions: int, length: int, adapters: Adapters | None) -> Iterator[Result]:
    """Two steps as grpo.py takes them on one GPU, the first of which compiles and records."""
    work = Work(questions, 8, length, 5120, 0.01 if day.rehearsal else 4.0, False, adapters)
    flags = {"cache_gb": work.cache_gb, "micro_tokens": work.micro_tokens, "share_prompts": False}
    with fsdp_utils.job() as job, tempfile.TemporaryDirectory() as folder:
        shaped(name, day.device).save_pretrained(folder)
        AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)
        release(day)
        policy, tokenizer = fsdp_utils.load_sharded(folder, job.device, adapters=adapters)
        ours = Ours(policy, tokenizer, job.device, questions, length, **flags)
        for _ in range(2):
            measured = dict(phases(day, ours))
    model = policy.model
    planned = memory(outline(model.config, adapters), Machine(1, 80.0), work)
    passes, tokens = 4 if adapters else 6, questions * 8 * length
    parameters = sum(parameter.numel() for parameter in outline(model.config).parameters())
    for phase, (seconds, peak) in measured.items():
        what = f"{name}{', LoRA' if adapters else ''}, {phase}"
        plan = sum(planned[phase].values())
        yield Result("step", f"{what}, s", f"{seconds:.2f}")
        fits = day.rehearsal or peak <= plan
        yield Result("step", f"{what}, GB of memory at most", f"{peak:.1f}", f"{plan:.1f} planned", fits)
    share = passes * parameters * tokens / measured["updating"][0] / arithmetic(day)
    yield Result("step", f"{name}, updating, share of measured FLOP/s", f"{share:.0%}")
    read = length * (2 * parameters + cache_bytes(model, questions * 8, length / 2))
    share = read / measured["sampling"][0] / bandwidth(day)
    yield Result("step", f"{name}, sampling, share of measured bandwidth", f"{share:.0%}")


def phases(day: Day, ours: Ours) -> Iterator[tuple[str, tuple[float, float]]]:
    """The phases of one step: seconds, and the peak of allocated memory in GB."""
    began = time.perf_counter()
    if not day.rehearsal:
        torch.cuda.reset_peak_memory_stats()
    for phase in ours.phases():
        day.synchronize()
        peak = 0.0 if day.rehearsal else torch.cuda.max_memory_allocated() / 1e9
        yield phase, (time.perf_counter() - began, peak)
        if not day.rehearsal:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()


def tiny(day: Day) -> Iterator[Result]:
    """run.sh finds the stages before rl1 finished and runs the others."""
    run = started(day, "tiny", ["kg.sqlite", "synth.jsonl", "train.jsonl", "heldout.jsonl", "cot.jsonl", "sft"])
    stamp = subprocess.check_output("cksum < requirements.txt | tr ' ' -", shell=True, cwd=PROJECT, text=True).strip()
    (day.folder / "environment").mkdir(exist_ok=True)
    (day.folder / "environment" / f".installed-{stamp}").touch()  # what is installed serves: nothing can be fetched
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"RUN": str(run), "VIRTUAL_ENV": str(day.folder / "environment"), "PATH": path}
    command(["bash", "run.sh", *(["--help"] if day.rehearsal else ["tiny"])], environment)
    yield from stages_of("tiny", run)


def model(day: Day) -> Iterator[Result]:
    """A few steps of each stage on the tiny recipe's questions."""
    folder, few = Path(needed("MODEL")), "2" if day.rehearsal else "20"
    join_pieces(folder)
    run = started(day, "model", ["train.jsonl", "heldout.jsonl", "cot.jsonl"])
    rl = f"--questions 16 --max-new-tokens {4 if day.rehearsal else 256} --cache-gb 4 --lr 2e-6 --steps {few}".split()
    evaluation = f"--max-new-tokens {4 if day.rehearsal else 256} --cache-gb 4".split()
    models = ["--model", f"Base={folder}", *(f"--model={name}={name}" for name in ("sft", "rl1", "rl2"))]
    for words in (
        ["sft.py", "--model", str(folder), "--steps", few, "--batch-size", "8", "--lr", "2e-5"],
        ["grpo.py", "--stage", "1", *rl],
        ["grpo.py", "--stage", "2", *rl, "--mine-samples", "2", "--mine-budget", "256"],
        ["evaluate.py", *evaluation, *models],
    ):
        command([sys.executable, *words, "--run", str(run)], os.environ)
    yield from stages_of("model", run)


def started(day: Day, name: str, inputs: list[str]) -> Path:
    """A run directory with `inputs` of the finished tiny run."""
    source, run = Path(needed("TINY")), day.folder / name
    run.mkdir(parents=True, exist_ok=True)
    for path in (source / item for item in inputs):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        if not (run / path.name).exists():
            copy(path, run / path.name)
    return run


def needed(name: str) -> str:
    if name not in os.environ:
        raise LookupError(f"{name} is not set; see python -m bench.gpu --help")
    return os.environ[name]


def join_pieces(folder: Path) -> None:
    pieces, whole = sorted(folder.glob("model.safetensors.piece-*")), folder / "model.safetensors"
    if pieces and not whole.exists():
        with open(whole, "wb") as file:
            for piece in pieces:
                file.write(piece.read_bytes())


def command(words: list[str], environment: Any) -> None:
    """Raises CalledProcessError; what it printed is in the part's own output."""
    subprocess.run(words, cwd=PROJECT, env=environment, check=True)


def stages_of(part: str, run: Path) -> Iterator[Result]:
    """What a run's metrics say: steps, their seconds, the sampler's gap; and the scores."""
    rows = list(read_jsonl(run / "metrics.jsonl")) if (run / "metrics.jsonl").exists() else []
    for name in ("rl1", "rl2"):
        steps = [row for row in rows if row["stage"] == name and "seconds_rollout" in row]
        if steps:
            seconds = sum(row["seconds_rollout"] + row["seconds_update"] for row in steps) / len(steps)
            gap = sum(row.get("logprob_gap", 0.0) for row in steps) / len(steps)
            yield Result(part, f"{name}, {len(steps)} steps, s a step", f"{seconds:.2f}")
            yield Result(part, f"{name}, |log pi of sampler - trainer|", f"{gap:.4f}", *judge(True, gap, 0.02))
    for row in rows:
        if row["stage"] == "evaluate":
            yield Result(part, f"{row['model']} on {row['benchmark']}", f"{row['accuracy']:.1%}")


# -------------------------------------------------------------------------------------------------------------- the day

PARTS: dict[str, tuple[Callable[[Day], Iterator[Result]], int]] = {  # with the seconds that it may take
    # together nine minutes
    "tests": (tests, 80),
    "top_p": (top_p, 35),
    "decode": (decode, 130),
    "step": (step, 105),
    "tiny": (tiny, 90),
    "model": (model, 100),
}


def run_part(name: str, day: Day) -> None:
    """Run a part here. Each result, and the error that ends it, is on disk at once."""
    results = day.folder / "results.jsonl"
    try:
        for result in PARTS[name][0](day):
            print(result, flush=True)
            append_jsonl(results, [asdict(result)])
    except Exception as error:  # whatever it is, it becomes a row of the table, and the other parts run
        traceback.print_exc()
        line = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        append_jsonl(results, [asdict(Result(name, "ended early", "", "", False, line))])


def supervise(name: str, day: Day, limit: int) -> None:
    """Run a part in a process group of its own, which ends with its time."""
    words = [sys.executable, "-m", "bench.gpu", str(day.folder), name, "--here"]
    with open(day.folder / f"{name}.txt", "w") as log:
        part = subprocess.Popen(words, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)
        try:
            error = "" if (status := part.wait(limit)) == 0 else f"exit status {status}, see {log.name}"
        except subprocess.TimeoutExpired:
            error = f"stopped after {limit} s"
        finally:
            if part.poll() is None:
                os.killpg(part.pid, signal.SIGKILL)
                part.wait()
    if error:
        append_jsonl(day.folder / "results.jsonl", [asdict(Result(name, "ended early", "", "", False, error))])


def table(rows: list[dict[str, Any]], device: str) -> str:
    verdict = {True: "pass", False: "FAIL", None: ""}
    lines = [device, "", "| part | what | result | target | | error |", "|---|---|---|---|---|---|"]
    for row in rows:
        error = row["error"].replace("|", "/")[:160]
        cells = (row["part"], row["what"], row["result"], row["target"], verdict[row["passed"]], error)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="keeps results, tables and what was printed")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {', '.join(PARTS)}")
    parser.add_argument("--rehearse", action="store_true", help="small sizes on the CPU, in this process")
    parser.add_argument("--here", action="store_true", help="in this process, without a time limit")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    day = Day(args.folder.resolve(), "cpu" if args.rehearse else "cuda")
    if not args.rehearse and not torch.cuda.is_available():
        parser.error("there is no GPU; --rehearse runs everything on the CPU, in small sizes")
    day.folder.mkdir(parents=True, exist_ok=True)
    if args.here:
        run_part(args.parts[0], day)
        return
    results = day.folder / "results.jsonl"
    if any(day.folder.iterdir()) and not (results.exists() and results.read_bytes().startswith(b'{"part": ')):
        parser.error(f"{args.folder} holds files that this has not written; name another folder")
    results.unlink(missing_ok=True)
    for name in args.parts or PARTS:
        if args.rehearse:
            run_part(name, day)
        else:
            supervise(name, day, PARTS[name][1])
    rows = list(read_jsonl(results)) if results.exists() else []
    text = table(rows, "rehearsal on the CPU" if args.rehearse else torch.cuda.get_device_name())
    (day.folder / "table.md").write_text(text)
    print(text)
    sys.exit(any(row["passed"] is False for row in rows))


if __name__ == "__main__":
    main()
