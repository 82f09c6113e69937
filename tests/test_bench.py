"""What measures on a GPU, rehearsed on the CPU: every part, its time limit, and the table at the end."""

import shutil

import pytest
from conftest import call_main

import evaluate
import grpo
import sft
from bench import gpu
from tools.run import read_jsonl, write_jsonl

STAGES = {"sft.py": sft, "grpo.py": grpo, "evaluate.py": evaluate}


@pytest.fixture
def finished(tmp_path, cold_started, questions, monkeypatch):
    """What stands for a finished tiny run and a model, and stages that run in this process."""
    source = tmp_path / "finished"
    shutil.copytree(cold_started, source)
    rows = [question.to_json() for question in questions]
    for name in ("train.jsonl", "heldout.jsonl", "synth.jsonl"):
        write_jsonl(source / name, rows)
    (source / "kg.sqlite").touch()
    monkeypatch.setenv("TINY", str(source))
    monkeypatch.setenv("MODEL", str(cold_started / "sft"))


def test_every_part_runs_on_the_cpu(tmp_path, finished, monkeypatch, capsys):
    commands = []

    def command(words, environment):
        commands.append(words)
        if words[0] != "bash":
            call_main(STAGES[words[1]], *words[2:])

    monkeypatch.setattr(gpu, "command", command)
    with pytest.raises(SystemExit) as ended:
        call_main(gpu, tmp_path / "day", "--rehearse")
    rows = list(read_jsonl(tmp_path / "day" / "results.jsonl"))
    assert [row for row in rows if row["error"]] == [] and {row["part"] for row in rows} >= {*gpu.PARTS} - {"tiny"}
    assert commands[0] == ["bash", "run.sh", "--help"] and len(commands) == 5
    assert ended.value.code == any(row["passed"] is False for row in rows)
    assert (tmp_path / "day" / "table.md").read_text() in capsys.readouterr().out


def test_a_part_ends_with_its_time_and_its_error_is_a_row(tmp_path, monkeypatch):
    day = gpu.Day(tmp_path, "cpu")
    gpu.supervise("top_p", day, 0.05)
    monkeypatch.delenv("TINY", raising=False)
    gpu.run_part("tiny", day)
    errors = [(row["part"], row["error"]) for row in read_jsonl(tmp_path / "results.jsonl")]
    assert errors == [
        ("top_p", "stopped after 0.05 s"),
        ("tiny", "LookupError: TINY is not set; see python -m bench.gpu --help"),
    ]
    assert sum(limit for _, limit in gpu.PARTS.values()) <= 540
