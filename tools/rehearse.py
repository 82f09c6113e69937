"""A dress rehearsal: a recipe's own commands, one by one, on tiny amounts and at their largest memory.

    bash run.sh 7b rehearse                                                    # calls this for every stage
    python -m tools.rehearse runs/7b-rehearsal synth python synth.py           # one stage: its name, its command
    python -m tools.rehearse runs/7b-rehearsal                                 # the table again

A stage's command gets the flags of `AMOUNTS` after its own. What trains is killed after its first step, so that the
second one resumes from a checkpoint. Each stage that held leaves a row in rehearsal.jsonl and is not tried again:
delete the directory to begin anew. What stages write on stderr is in rehearsal.log.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.cli import UserError, run_stage, stage_parser
from tools.run import RunDir, append_jsonl, read_jsonl

Row = dict[str, Any]

# What is tried, after the recipe's own flags: `group` is the largest one that the recipe can meet, `questions` fill
# a card's cache with such groups.
WORST = "--worst-case --steps 2 --save-every 1"
AMOUNTS = {
    "kg_build": "--target 40 --keep-pages",
    "synth": "--questions 40",
    "curate": "--limit 10 --heldout 4 --heldout-public 4",
    "distill": "--questions 6",
    "sft": f"{WORST} --batch-size {{twice}} --validation 0.3",
    "rl1": f"{WORST} --questions {{questions}}",
    "rl2": f"{WORST} --questions {{questions}} --group-size {{group}} --mine-budget {{twice}}",
    "evaluate": "--limit 8 --max-new-tokens 256",
    "report": "",
}
TRAINING = ("sft", "rl1", "rl2")
HELD_OUT = ("heldout", "heldout_public")
ENCYCLOPEDIA = "data/encyclopedia.xml"
NOTABLE = re.compile(r"\bwarning\b|left out:|are left out|no clear grade|kept unverified", re.IGNORECASE)
PROGRESS = re.compile(r"\d%\|")
OWN_DOING = re.compile(r"responses were cut and count|questions here, \d+ in the paper")  # of so few and short answers


@dataclass(slots=True)
class Stage:
    """A stage of a recipe: its name in run.sh, its command, the flags with which that would run, and its processes."""

    name: str
    command: list[str]
    flags: Row
    gpus: int
    plan_gb: float | None = None  # of a GPU, by `--plan`
    cache_rows: int = 0  # responses of full length that a card's cache holds; 0: there is no card

    @classmethod
    def of(cls, name: str, command: list[str], run: RunDir) -> Stage:
        """Raises UserError if the command's script refuses its flags, or they do not fit the memory."""
        gpus = int(command[command.index("--nproc_per_node") + 1]) if "torchrun" in command else 1
        told = flags_and_plan(command, run, gpus)
        stage = cls(name, command, told["flags"], gpus)
        if "plan" in stage.flags:
            stage.plan_gb = float(re.search(r"needs ([\d.]+) GB", told["plan"])[1])
            rows = re.search(r"cache holds ([\d,]+) responses", told["plan"])[1]
            stage.cache_rows = int(rows.replace(",", "")) * told["card"]
        return stage

    def amounts(self) -> list[str]:
        """The flags that make it small; none for a graph that is built from a file."""
        if self.name == "kg_build" and self.flags["source"] not in (None, "api"):
            return []
        sizes = {"twice": 2 * self.gpus}
        if self.name in ("rl1", "rl2"):
            sizes["group"] = max(self.group_sizes())
            sizes["questions"] = self.gpus * self.questions(sizes["group"])
        return AMOUNTS[self.name].format(**sizes).split()

    def group_sizes(self) -> list[int]:
        """Of each step of a stage of RL; they grow in stage 2."""
        size, steps = self.flags["group_size"], self.flags["steps"]
        if self.name == "rl1":
            return [size] * steps
        growth, limit, round_steps = (self.flags[name] for name in ("group_growth", "max_group_size", "round_steps"))
        return [min(size + step // round_steps * growth, limit) for step in range(steps)]

    def questions(self, group: int) -> int:
        """Questions for each process, in groups of so many: on a card as many as fill the cache, if the recipe has so
        many in a step."""
        filling = min(math.ceil(self.cache_rows / group), self.flags["questions"] // self.gpus)
        return max(filling, 2 if self.name == "rl1" else 1)


def script_of(command: list[str]) -> list[str]:
    """The words of a command from its script on: without python, or torchrun and its flags."""
    return command[next(at for at, word in enumerate(command) if word.endswith(".py")) :]


def flags_and_plan(command: list[str], run: RunDir, gpus: int) -> Row:
    """What `answer` prints of a stage's command, in a process of its own: what it loads is gone when the stage starts.

    Raises UserError if the script refuses its flags, or they do not fit the memory.
    """
    script, *words = script_of(command)
    code = f"from tools import rehearse; rehearse.answer({script!r}, {str(run.path)!r}, {gpus})"
    flags, plan = (output_of(["-c", code, *words]) + "\n").split("\n", 1)
    return json.loads(flags) | {"plan": plan}


def answer(script: str, run: str, gpus: int) -> None:
    """Print all flags that a script makes of the command line, as JSON; then what its `--plan` says, if it has that."""

    def tell() -> None:
        stage = importlib.import_module(Path(script).stem)
        flags = vars(stage.parse_args())
        card = card_gb() if "plan" in flags else None
        print(json.dumps({"flags": flags, "card": card is not None}, default=str))
        if "plan" in flags:
            gpu_gb = os.environ.get("GPU_GB") or card or 80
            sys.argv += ["--run", run, "--gpus", str(gpus), "--gpu-gb", str(gpu_gb), "--plan"]
            stage.main()

    sys.argv[0] = script
    run_stage(tell)


def card_gb() -> float | None:
    """Memory of the first card in GB; None without one."""
    import torch  # here: most stages do not need it

    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None


def output_of(words: list[str]) -> str:
    """What Python prints, run with these words. Raises UserError if it fails."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(reason(done.stderr, done.returncode))
    return done.stdout


def reason(errors: str, status: int) -> str:
    """Why a script ended, from what it wrote on stderr: its own line, else the last one that is no progress bar's."""
    own = re.findall(r"\b\w+\.py: error: (.*)$", errors, re.MULTILINE)
    if own:
        return own[0]
    if status < 0:
        return f"signal {-status} ended it" + " (is the host's memory too small?)" * (status == -signal.SIGKILL)
    lines = [line for line in errors.strip().splitlines() if not PROGRESS.search(line)]
    return lines[-1].strip() if lines else "it ended without a word"


# ------------------------------------------------------------------------------------------------- running a command


@dataclass(slots=True)
class Tried:
    """What a command did: its exit status, the lines of its output, and what it took."""

    status: int = 0
    asked_to_stop: bool = False  # by SIGTERM, which is handed on: torchrun then fails with a status of its own
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory_gb: float = 0.0  # of the host, by the largest of its processes
    checkpoint_bytes: int = 0


def execute(command: list[str], log: Path, ended_at: Path | None = None) -> Tried:
    """Run a command; its stdout is shown and returned, its stderr goes to the log.

    `ended_at`: as soon as this exists, the command and all that it started are killed.
    """
    tried, began = Tried(), time.time()
    at_once = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "1"} if ended_at else {}  # seconds that torchrun lets its processes
    with open(log, "a") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace", env=os.environ | at_once
        )

    def hand_on(*_) -> None:
        tried.asked_to_stop = True
        process.terminate()

    handler = signal.signal(signal.SIGTERM, hand_on)
    if ended_at:
        threading.Thread(target=kill_at, args=(process, ended_at, tried), daemon=True).start()
    for line in process.stdout:
        print(line, end="", flush=True)
        tried.lines.append(line.rstrip())
    _, status, usage = os.wait4(process.pid, 0)  # as `wait`, and what it took
    process.returncode = tried.status = os.waitstatus_to_exitcode(status)
    signal.signal(signal.SIGTERM, handler)
    tried.seconds, tried.memory_gb = time.time() - began, usage.ru_maxrss * 1024 / 1e9
    return tried


def kill_at(process: subprocess.Popen, path: Path, tried: Tried) -> None:
    """Wait for a file of a checkpoint and note its size; then kill the process, and by way of torchrun those that it
    started. They may come to their end before that reaches them, and delete the checkpoint."""
    while not path.exists():
        if process.returncode is not None:
            return
        time.sleep(0.01)
    tried.checkpoint_bytes = folder_bytes(path.parent)
    process.terminate() if "torchrun" in process.args else process.kill()  # torchrun ends its processes, if it can


def attempt(stage: Stage, command: list[str], run: RunDir) -> Tried:
    """Run a stage; one that trains is killed once its first step is saved, and run again to its end.

    Raises UserError with what would have stopped the run.
    """
    log, saved = run.output("rehearsal.log"), run.output(f"{stage.name}.state/step-000001/checksums.json")
    written = log.stat().st_size if log.exists() else 0
    tried = execute(command, log, saved if stage.name in TRAINING else None)
    if tried.checkpoint_bytes and not tried.asked_to_stop:
        first, tried = tried, execute(command, log)
        tried.lines, tried.seconds = first.lines + tried.lines, first.seconds + tried.seconds
        tried.checkpoint_bytes = first.checkpoint_bytes
    if tried.status and (tried.asked_to_stop or tried.status in (-signal.SIGTERM, 128 + signal.SIGTERM)):
        sys.exit(128 + signal.SIGTERM)
    if tried.status:
        with open(log, errors="replace") as errors:
            errors.seek(written)
            raise UserError(reason(errors.read(), tried.status))
    return tried


# --------------------------------------------------------------------------------------------------------- one stage


def rehearse(run: RunDir, stage: Stage, earlier: list[Row]) -> Row:
    """Try a stage and measure it. Raises UserError with what would have stopped the run."""
    before, asked = folder_bytes(run.path), len(lines_of(run, "teacher_cache.jsonl"))
    amounts = stage.amounts()
    tried = attempt(stage, [*stage.command, "--run", str(run.path), *amounts], run)
    measured = [row for row in lines_of(run, "metrics.jsonl") if row["stage"] == stage.name]
    answers = lines_of(run, "teacher_cache.jsonl")[asked:]
    peaks = [row["peak_memory_gb"] for row in measured if "peak_memory_gb" in row]
    row = {
        "stage": stage.name,
        "command": stage.command,
        "tried": " ".join(amounts) or "all of it",
        "seconds": tried.seconds,
        "memory_gb": max(peaks, default=tried.memory_gb),
        "plan_gb": stage.plan_gb,
        "disk_gb": (folder_bytes(run.path) - before + tried.checkpoint_bytes) / 1e9,
        "calls": dict(Counter(answer.get("purpose", "") for answer in answers)),
        "tokens": sum(answer.get("tokens", 0) for answer in answers),
        "warnings": warnings_of(tried.lines, measured),
    }
    row |= whole(stage, row, measured, run, earlier)
    if stage.name == "kg_build" and amounts:
        row["warnings"] += doubts_about_teacher(run, row["calls"])
        exchange_graph(run)
    return row


def exchange_graph(run: RunDir) -> None:
    """A graph of a few dozen pages holds no questions: the stages to come get the small encyclopedia's."""
    os.replace(run.output("kg.sqlite"), run.output("kg-live.sqlite"))
    output_of(["kg_build.py", "--run", str(run.path), "--source", ENCYCLOPEDIA])


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def lines_of(run: RunDir, name: str) -> list[Row]:
    path = run.output(name)
    return list(read_jsonl(path, appended=True)) if path.exists() else []


def warnings_of(lines: list[str], measured: list[Row]) -> list[str]:
    """What a stage said of itself, in its output and its metrics, that somebody should know."""
    told = [line.strip() for line in lines if NOTABLE.search(line) and not OWN_DOING.search(line)]
    for row in measured:
        told += row.get("warnings", [])
        vignettes = {name: count for name, count in row.items() if name.startswith("vignettes: ")}
        if vignettes and not row.get("vignettes: kept"):
            told.append(f"no vignette was kept, most often: {max(vignettes, key=vignettes.get)[11:]}")
    alike = Counter(re.sub(r"^Warning: [^:]*: ", "", line) for line in told)  # of every model and benchmark
    return [line if count == 1 else f"{line} ({count} times)" for line, count in alike.items()]


def doubts_about_teacher(run: RunDir, calls: dict[str, int]) -> list[str]:
    """Whether the teacher that read pages found facts there."""
    with closing(sqlite3.connect(run.output("kg.sqlite"))) as db:
        kept = db.execute("SELECT count(*) FROM evidence WHERE section LIKE 'teacher: %'").fetchone()[0]
        rejected = db.execute("SELECT reason FROM rejected ORDER BY count DESC").fetchone()
    if kept or not calls.get("facts"):
        return []
    return [f"no fact that the teacher read was kept, most often: {rejected[0] if rejected else 'it told none'}"]


# --------------------------------------------------------------------------------------- what the whole will take


def whole(stage: Stage, row: Row, measured: list[Row], run: RunDir, earlier: list[Row]) -> Row:
    """`number`: how many items the whole stage works on; `whole`: what it will take, with the arithmetic."""
    if row["tried"] == "all of it":
        return {"number": 0, "whole": ""}
    numbers = {known["stage"]: known["number"] for known in earlier}
    for known in earlier:
        numbers |= known.get("held_out", {})  # here fewer were kept
    if stage.name in TRAINING:
        return {"number": 0, "whole": training(stage, measured[-1], numbers)}
    number, tried = items(stage, measured, run, numbers)
    times = number / max(1, tried)
    parts = [f"{number:,} instead of {tried:,}, {times:,.0f} times as many"]
    by_training = evaluation(stage, number, lines_of(run, "metrics.jsonl")) if stage.name == "evaluate" else []
    parts += by_training or [f"{row['seconds'] * times / 3600:,.1f} h at this rate, the start counted as work"]
    if stage.name == "kg_build":
        parts.append(f"{measured[-1]['step'] * times:,.0f} titles, 50 to a request")
    if calls := sum(row["calls"].values()):
        parts.append(f"{calls * times:,.0f} calls, {row['tokens'] * times / 1e6:,.1f} M tokens")
    held_out = {name: stage.flags[name] for name in HELD_OUT} if stage.name == "curate" else {}
    return {"number": number, "held_out": held_out, "whole": "; ".join(parts)}


def items(stage: Stage, measured: list[Row], run: RunDir, numbers: dict[str, int]) -> tuple[int, int]:
    """How many entities, questions or answers the whole stage works on, and how many this one did."""
    last = measured[-1]
    if stage.name == "kg_build":
        return stage.flags["target"], last["entities"]
    if stage.name == "synth":
        return stage.flags["questions"], last["step"]
    if stage.name == "distill":
        return stage.flags["questions"], last["questions"]
    if stage.name == "curate":  # where both are had, a public question for each synthetic one
        return 2 * numbers["synth"], last["train"] + last["review"] + last["heldout"] + last["heldout_public"]
    models = [model.split("=")[0] for model in stage.flags["model"]]
    files = [file for file in run.output("eval").glob("*/*.json") if file.stem in models]
    asked = {file: json.loads(file.read_text())["settings"]["questions"] for file in files}
    number = sum(numbers.get(file.parent.name, questions) for file, questions in asked.items())
    return number, sum(file.with_suffix(".jsonl").read_bytes().count(b"\n") for file in files)


def training(stage: Stage, last: Row, numbers: dict[str, int]) -> str:
    """What a training stage takes where every sequence is as long as it may be, by its last step here."""
    flags = stage.flags
    if stage.name == "sft":
        seconds = flags["batch_size"] * flags["max_length"] / last["tokens_per_s"]
        steps = flags["steps"] or math.ceil(flags["epochs"] * numbers["distill"] / flags["batch_size"])
        return f"{steps:,} steps of {seconds:,.1f} s: {hours(steps * seconds, stage.gpus, last)}"
    tried = last["sampled_tokens"] / flags["max_new_tokens"]  # responses
    sampling, updating = last["seconds_rollout"] / tried, last["seconds_update"] / tried
    groups, minings = stage.group_sizes(), math.ceil(flags["steps"] / flags["round_steps"]) * (stage.name == "rl2")
    responses, mined = flags["questions"] * sum(groups), flags["mine_budget"] * minings
    seconds = responses * (sampling + updating) + mined * sampling
    each = f"{sampling:.2f} s to sample one, {updating:.2f} s to learn from it"
    return (
        f"{responses:,} responses in {len(groups)} steps, {mined:,} to mine; {each}: {hours(seconds, stage.gpus, last)}"
    )


def evaluation(stage: Stage, number: int, metrics: list[Row]) -> list[str]:
    """By the speed at which training has sampled, with a full cache."""
    steps = [row for row in metrics if row["stage"] in ("rl1", "rl2")]
    if not steps or stage.flags["score"] != "answer":
        return []
    tokens, speed = stage.flags["max_new_tokens"], steps[-1]["tokens_per_s"]
    taken = hours(number * tokens / speed, stage.gpus, steps[-1])
    return [f"{tokens:,} tokens each at {speed:,.0f} a second: {taken}"]


def hours(seconds: float, gpus: int, step: Row) -> str:
    """Hours, and GPU hours if it was GPUs that took a step of training which logged this."""
    if "memory_share" not in step:  # of a card
        return f"{seconds / 3600:,.1f} h on these CPUs, no estimate for GPUs"
    return f"{seconds / 3600:,.1f} h, {seconds / 3600 * gpus:,.1f} GPU hours"


# ------------------------------------------------------------------------------------------------------------ the table


def print_table(rows: list[Row]) -> None:
    """What was rehearsed, what the whole will take, and every warning."""
    lines = [["stage", "seconds", "memory, GB", "plan, GB", "disk, GB", "tried"]]
    for row in rows:
        planned = "" if row["plan_gb"] is None else f"{row['plan_gb']:.1f}"
        sizes = [f"{row['seconds']:.0f}", f"{row['memory_gb']:.2f}", planned, f"{row['disk_gb']:.2f}"]
        lines.append([row["stage"], *sizes, row["tried"]])
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    calls = sum((Counter(row["calls"]) for row in rows), Counter())
    if calls:
        print("\nCalls of the teacher: " + ", ".join(f"{count} {name}" for name, count in calls.items()))
    print("\nThe whole, by what this took:")
    print("\n".join(f"  {row['stage']:9} {row['whole']}" for row in rows if row["whole"]))
    told = [f"  {row['stage']:9} {line}" for row in rows for line in row["warnings"]]
    print("\n".join(["\nWarnings:", *told] if told else ["\nNo warnings."]))


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("run", type=Path, help="the rehearsal's own run directory")
    parser.add_argument("stage", nargs="?", choices=AMOUNTS, help="a stage's name in run.sh; none: print the table")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="its command, as in run.sh")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    run = RunDir(args.run, create=args.stage is not None)
    rows = lines_of(run, "rehearsal.jsonl")
    if args.stage and any(row["command"] == args.command for row in rows):
        print(f"{args.stage} is rehearsed already (delete {run.path} to begin anew)")
    elif args.stage:
        try:
            rows.append(rehearse(run, Stage.of(args.stage, args.command, run), rows))
        except UserError as error:
            proved = ", ".join(row["stage"] for row in rows) or "nothing"
            raise UserError(f"{args.stage} would have stopped the run: {error} (proved before it: {proved})") from None
        append_jsonl(run.output("rehearsal.jsonl"), rows[-1:])
    if args.stage in (None, "report"):
        print_table(rows)


if __name__ == "__main__":
    run_stage(main)
