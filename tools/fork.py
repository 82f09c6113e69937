"""Fork a finished run for an ablation: what the stages before one have made, in a run directory of its own.

    python -m tools.fork --model "Base=base" --model "+CoT cold start=sft" runs/tiny runs/ablation rl1 --with-std

makes runs/ablation, where `rl1` and the stages after it have still to run; `bash run.sh tiny rl1 --with-std` calls it
and runs them. Outputs are shared as hard links. What stages append to (metrics, answers) is copied, so that a fork
never changes its baseline.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.cli import UserError, run_stage, stage_parser
from tools.run import MADE_BY, METRIC, RunDir, is_there, publish, read_jsonl, write_jsonl

STAGES = {  # in order: what each leaves for the later ones
    "kg_build": ["kg.sqlite"],
    "synth": ["synth.jsonl"],
    "curate": ["train.jsonl", "heldout.jsonl", "heldout_public.jsonl"],
    "distill": ["cot.jsonl"],
    "sft": ["sft"],
    "rl1": ["rl1"],
    "rl2": ["rl2"],
}
APPENDED = ("teacher_cache.jsonl", "decisions.jsonl")  # what was paid for, and what a person decided


def check_flags(stage: str, flags: list[str]) -> None:
    """Let the stage's own script read the flags and do no more. Exits with its message and status if they are wrong."""
    _, script, *fixed = MADE_BY[STAGES[stage][-1]].split()
    read = f"import tools.cli, {Path(script).stem} as stage; tools.cli.run_stage(stage.parse_args)"
    code = f"import sys, tools.stop; sys.argv[0] = {script!r}; tools.stop.can_stop(); {read}"
    status = subprocess.run([sys.executable, "-c", code, *fixed, *flags]).returncode
    if status or {"-h", "--help"} & set(flags):  # no ablation: the help was asked for
        sys.exit(status or 1)


def share(source: Path, target: Path) -> None:
    """A file or folder under another name without its bytes again, where the file system knows hard links."""

    def link(source: str | Path, target: str | Path) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, copy_function=link) if source.is_dir() else link(source, target)


def fork(baseline: Path, target: Path, stage: str, models: dict[str, str]) -> None:
    """Fill `target`. `models` are the evaluated labels and their folders; those that are not made again are shared."""
    names = list(STAGES)
    before, again = names[: names.index(stage)], names[names.index(stage) :]
    for name in [output for earlier in before for output in STAGES[earlier]]:
        if is_there(baseline / name):
            share(baseline / name, target / name)
    kept = {label for label, folder in models.items() if folder not in again} if "curate" in before else set()
    for file in baseline.glob("eval/*/*.json*"):
        if file.stem in kept:
            (target / file.relative_to(baseline)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target / file.relative_to(baseline))
    for name in APPENDED:
        if is_there(baseline / name):
            shutil.copy2(baseline / name, target / name)
    rows = read_jsonl(baseline / "metrics.jsonl", appended=True, shape=METRIC | {"model?": str})
    write_jsonl(target / "metrics.jsonl", [row for row in rows if row["stage"] in before or row.get("model") in kept])


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("baseline", type=Path, help="a finished run")
    parser.add_argument("target", type=Path, help="the run directory to make")
    parser.add_argument("stage", choices=STAGES, help="the first that runs again")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="the stage's, which are only checked")
    parser.add_argument("--model", action="append", default=[], metavar="LABEL=PATH", help="as evaluate.py gets it")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    known = [stage for stage, outputs in STAGES.items() if (args.baseline / outputs[0]).exists()]
    if not (args.baseline / "report.html").exists():
        raise UserError(f"{args.baseline} is no finished run; finish it first, or name another: BASELINE=FOLDER")
    if args.stage not in known:
        raise UserError(f"{args.baseline} has no stage {args.stage}; it has: {' '.join(known)}")
    if args.flags:
        check_flags(args.stage, args.flags)
    partial = args.target.with_name(args.target.name + ".partial")
    RunDir(args.target.parent, create=True).claim(partial.name)
    if args.target.exists():
        raise UserError(f"{args.target} is there already; start run.sh again to join it, or name another folder")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    fork(args.baseline, partial, args.stage, dict(model.split("=", 1) for model in args.model))
    publish(partial, args.target)


if __name__ == "__main__":
    run_stage(main)
