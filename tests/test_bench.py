"""What measures on a GPU, rehearsed on the CPU: every part, its time limit, and the table at the end."""

import shutil

import pytest
from conftest import call_main
from pages import PAGES, build, export, facts

import evaluate
import grpo
import sft
from bench import gpu, judged_relations, rivals, sampler
from tools.cli import UserError
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


@pytest.mark.parametrize("bench", [sampler, rivals])
def test_a_file_that_a_bench_has_not_written_is_left_alone(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "cpu_rows", lambda *_: ["| a row |"])
    table, other = tmp_path / "table.md", tmp_path / "notes.md"
    for _ in range(2):  # its own it may write again
        call_main(bench, "--output", table)
    assert table.read_text().endswith("| a row |\n")
    other.write_text("mine")
    with pytest.raises(UserError, match="notes.md: there is another file, which --output has not written"):
        call_main(bench, "--output", other)
    assert other.read_text() == "mine"


@pytest.mark.parametrize("name", ["results.jsonl", "table.md"])
def test_a_folder_that_holds_other_files_is_left_alone(name, tmp_path, capsys):
    (tmp_path / name).write_text('{"mine": 1}\n')
    with pytest.raises(SystemExit):
        call_main(gpu, tmp_path, "top_p", "--rehearse")
    assert "holds files that this has not written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name] and "mine" in (tmp_path / name).read_text()


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


def test_a_sample_is_drawn_of_what_is_not_judged_yet(tmp_path, capsys):
    have = set(facts(build(tmp_path, export(PAGES, {}))))
    known = min(have)
    capsys.readouterr()
    judged = tmp_path / "judged.tsv"
    head, row = "seed\tedges\tsubject\trelation\tobject\tverdict", ["1", "9", *known, "correct"]
    judged.write_text(head + "\n" + "\t".join(row) + "\n")
    call_main(judged_relations, judged, "--draw", tmp_path / "kg.sqlite", "--seed", 7, "--count", 1000)
    sample = tmp_path / "sample.tsv"
    sample.write_text(capsys.readouterr().out.replace("\t\t\t", "\tcorrect\t\t"))
    rows = judged_relations.read_judged(sample)
    assert {judged_relations.fact_of(row) for row in rows} == have - {known} and {row["seed"] for row in rows} == {"7"}
    few = judged_relations.draw(tmp_path / "kg.sqlite", 7, 1, set())
    assert {row["relation"] for row in few} == {relation for _, relation, _ in have}


def test_every_weight_has_a_name_of_its_own_in_gguf():
    names = [rivals.gguf_name(name) for name, _ in sampler.make_model(64).model.named_parameters()]
    assert len(set(names)) == len(names) and {"token_embd.weight", "blk.3.attn_q.bias", "blk.0.ffn_gate.weight"} <= set(
        names
    )
