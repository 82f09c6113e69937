"""Files survive a crash; metrics have each step once; one process at a time makes an output."""

import contextlib
import errno
import json
import os
import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graph
from tools.cli import UserError, one_line
from tools.run import (
    MADE_BY,
    Journal,
    Metrics,
    RunDir,
    append_jsonl,
    is_there,
    read_jsonl,
    write_jsonl,
    write_text,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
rows_of_json = st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=5)


# --------------------------------------------------------------------------------------------------------- crash safety


@settings(max_examples=60)
@given(before=rows_of_json, cut=rows_of_json.filter(bool), after=rows_of_json, data=st.data())
def test_a_line_cut_anywhere_costs_that_line_only(tmp_path_factory, before, cut, after, data):
    """Cut the last line at any byte, also inside a character: it is dropped on reading, cut off by the next append.
    A whole record without its newline stays."""
    path = tmp_path_factory.mktemp("cut") / "x.jsonl"
    append_jsonl(path, before)
    size = path.stat().st_size if before else 0
    append_jsonl(path, cut[:1])
    whole = path.stat().st_size - 1
    left = data.draw(st.integers(size, whole))
    os.truncate(path, left)
    kept = before + cut[:1] * (left == whole)
    assert list(read_jsonl(path, appended=True)) == kept
    append_jsonl(path, after)
    assert list(read_jsonl(path, appended=True)) == kept + after


@pytest.mark.parametrize("of", [None, graph.write_prose, graph.write_graphml, graph.write_kgx])
def test_two_that_write_one_file_do_not_mix(tmp_path, page_graph, of):
    """Such as two reports of a run: whoever reads it sees the whole of one or of the other."""
    path, texts = tmp_path / "x_nodes.jsonl", ["a" * 300_000, "b" * 200_000]
    (_, _, database) = page_graph.execute("PRAGMA database_list").fetchone()
    if of:
        of(page_graph, path)
        texts = [path.read_text()] * 2

    def write_often(text):
        with contextlib.closing(sqlite3.connect(database)) as db:
            for _ in range(10):
                of(db, path) if of else write_text(path, text)
                assert path.read_text() in texts

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write_often, texts))
    assert not list(tmp_path.glob("*.partial"))


def test_a_long_half_line_is_cut_off(tmp_path):
    """The walk back to the last newline crosses several of its blocks."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 200_000)
    append_jsonl(path, [{"c": 3}])
    assert path.read_bytes() == b'{"a": 1}\n{"c": 3}\n'
    path.write_bytes(b"y" * 200_000)  # no newline at all
    append_jsonl(path, [{"c": 3}])
    assert path.read_bytes() == b'{"c": 3}\n'


def test_broken_text_is_kept(tmp_path):
    """Half a surrogate pair, which web pages and language models do produce, comes back as it was."""
    rows = [{"text": "\ud83d half", "é\u2028": "\x00"}]
    append_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl", rows)
    assert list(read_jsonl(tmp_path / "a.jsonl")) == list(read_jsonl(tmp_path / "b.jsonl")) == rows


@pytest.mark.parametrize("line", [b'{"b": 2', b"\xff", b"nonsense", b"[1]", b"3"])
def test_a_bad_line_inside_a_file_is_named(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"c": 3}\n')
    rows = read_jsonl(path)
    assert next(rows) == {"a": 1}
    with pytest.raises(UserError, match=r"x.jsonl, line 2: not"):
        next(rows)


def test_empty_lines_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": 2}\n')  # and Notepad's mark
    assert list(read_jsonl(path)) == [{"a": 1}, {"b": 2}]


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match="x.jsonl does not exist; make it with: python make.py"):
        list(read_jsonl(tmp_path / "x.jsonl", "python make.py"))


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    """A crash before the new text is on disk and renamed leaves the old text."""
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def crash(*_):
        raise OSError(errno.EIO, "power cut")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, crash)
            with pytest.raises(OSError, match="power cut"):
                write_text(path, "new")
        assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new" and [item.name for item in tmp_path.iterdir()] == ["x.txt"]


# ---------------------------------------------------------------------------------------- the run directory and metrics


def test_a_missing_run_or_input_names_its_command(tmp_path):
    Metrics(RunDir(tmp_path / "there", create=True), "synth").log(1)
    known = "start it with: RUN='.*no where' bash run.sh; or take another by --run: .*there"
    with pytest.raises(UserError, match=f"no where does not exist; {known}$"):
        RunDir(tmp_path / "no where")
    run = RunDir(tmp_path / "new", create=True)
    for name, command in MADE_BY.items():
        with pytest.raises(UserError) as caught:
            run.input(name)
        assert f"make it with: {command} --run {run.path}" in str(caught.value)
        run.output(name).touch()
        assert run.input(name) == run.path / name


def test_a_finished_output_is_left_alone(tmp_path, capsys):
    run = RunDir(tmp_path)
    assert not run.finished("sft") and capsys.readouterr().out == ""
    run.output("sft").mkdir()
    assert run.finished("sft") and "nothing to do" in capsys.readouterr().out


def test_a_finished_output_names_the_other_command_that_made_it(tmp_path, capsys, monkeypatch):
    run = RunDir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sft.py", "--lr", "1"])
    run.claim("sft")
    run.output("sft").mkdir()
    assert run.finished("sft") and "another" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["sft.py", "--lr", "2"])
    assert run.finished("sft") and "made by another command (sft.py --lr 1): nothing" in capsys.readouterr().out


@given(logged=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9)), max_size=12), step=st.integers(0, 9))
@settings(max_examples=30)
def test_rewind_drops_this_stage_beyond_the_step_only(tmp_path_factory, logged, step):
    run = RunDir(tmp_path_factory.mktemp("metrics"))
    metrics = {name: Metrics(run, name) for name in "ab"}
    for stage, number in logged:
        metrics[stage].log(number, value=1 / 3)
    with open(run.output("metrics.jsonl"), "a") as file:
        file.write('{"stage": "a", "st')  # and a crash
    metrics["a"].rewind(step)
    metrics["a"].log(step + 1)
    expected = [item for item in logged if item[0] == "b" or item[1] <= step] + [("a", step + 1)]
    rows = list(read_jsonl(run.output("metrics.jsonl")))
    assert [(row["stage"], row["step"]) for row in rows] == expected
    assert all(row.get("value", 0.333333) == 0.333333 and row["time"] > 1e9 for row in rows)


@pytest.mark.parametrize(
    ("logged", "step", "told"),
    [
        (0, 0, ""),
        (4, 4, "sft: going on from the checkpoint at step 4\n"),
        (7, 4, "sft: going on from the checkpoint at step 4; 3 later steps of the run before are done again\n"),
        (7, 0, "sft: there is no checkpoint, beginning at step 0; 7 later steps of the run before are done again\n"),
    ],
)
def test_a_stage_says_what_it_goes_on_from(tmp_path, capsys, logged, step, told):
    metrics = Metrics(RunDir(tmp_path), "sft")
    for done in range(logged):
        metrics.log(done + 1)
    metrics.resume(step)
    assert capsys.readouterr().out == told
    assert sum(1 for _ in read_jsonl(metrics.path)) == step if logged else not metrics.path.exists()


def test_one_process_at_a_time_makes_an_output(tmp_path, monkeypatch):
    """The claim names its holder, is per output however that is written, and ends with `kill -9`."""
    code = f"import time; from tools.run import RunDir; RunDir({str(tmp_path)!r}).claim('rl1'); print(flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "; time.sleep(600)", "--stage", "1"],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    try:
        with pytest.raises(UserError, match=f"rl1 is being made by another process .PID {holder.pid} on .*--stage 1"):
            RunDir(tmp_path).claim("rl1")
        RunDir(tmp_path).claim("rl2")
        (tmp_path / "link").symlink_to(tmp_path)
        monkeypatch.setenv("RANK", "1")  # means nothing here: a stage says which of its processes claims
        for run, name in ((tmp_path, "./rl1"), (tmp_path / "link", "rl1"), (tmp_path, "x/../rl1/")):
            with pytest.raises(UserError, match="is being made by another process"):
                RunDir(run).claim(name)
    finally:
        holder.kill()
        holder.communicate()
    RunDir(tmp_path).claim("rl1")
    assert (tmp_path / ".locks" / "rl1").read_text().startswith(f"PID {os.getpid()} on ")


@settings(max_examples=60)
@given(rows=st.lists(st.dictionaries(st.text(), values, max_size=3), min_size=2, max_size=5), data=st.data())
def test_a_journal_notices_what_is_changed_doubled_moved_or_taken_out(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    for row in rows:
        Journal(path, {"--flag": 1}).append([row])
    assert Journal(path, {"--flag": 1}).rows == json.loads(json.dumps(rows))
    lines = path.read_bytes().splitlines(keepends=True)
    number = data.draw(st.integers(1, len(rows) - 1))
    how = data.draw(st.sampled_from(["changed", "doubled", "moved", "taken out"]))
    if how == "changed":
        lines[number] = json.dumps(json.loads(lines[number]) | {"more": 1}).encode() + b"\n"
    elif how == "moved":
        lines[number], lines[number + 1] = lines[number + 1], lines[number]
    else:
        lines[number : number + 1] = [lines[number]] * (2 if how == "doubled" else 0)
    path.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="is not as it was written; delete .*j.jsonl to start over"):
        Journal(path, {"--flag": 1})


def test_a_full_disk_is_told_with_the_file(tmp_path):
    (tmp_path / "x.jsonl.partial").symlink_to("/dev/full")
    (tmp_path / "y.jsonl").symlink_to("/dev/full")
    for write, name in (write_jsonl, "x.jsonl"), (append_jsonl, "y.jsonl"):
        with pytest.raises(OSError) as caught:
            write(tmp_path / name, [{"a": 1}])
        assert re.fullmatch(f"No space left on device: .*{name}(.partial)?", one_line(caught.value))


def test_a_link_to_nothing_is_not_passed_over(tmp_path):
    """A file may be lacking; a link that stands for one that is not there, or for itself, is a mistake."""
    loop, dangling, link = (tmp_path / name for name in ("loop", "dangling", "link"))
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "gone")
    link.symlink_to(tmp_path)
    assert is_there(link) and not is_there(tmp_path / "gone")
    for path in (loop, dangling):
        with pytest.raises(UserError, match=f"{path.name} is a link to nothing; mend it, or delete it"):
            is_there(path)
