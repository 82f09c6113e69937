"""Every input of every stage, damaged: a stage says so in one line, or leaves what it would have left without it.

Seeded: `DAMAGES=3100 pytest tests/test_damage.py` damages ten times as much as the suite does.
"""

import ctypes
import gc
import json
import os
import random
import shutil
import sqlite3
import struct
import sys
import traceback
import zlib

import pytest
from conftest import PROJECT
from pages import PAGES, REDIRECTS, export
from test_consult import Judge
from test_synth import make_graph

import curate
import distill
import evaluate
import grpo
import kg_build
import report
import sft
import synth
from graph import SCHEMA
from reward import format_response
from tools.cli import run_stage
from tools.run import seal, write_jsonl
from wiki.mediawiki import Page

TIMES = int(os.environ.get("DAMAGES", 310)) / 310
# How often each stage's inputs are damaged; a page of charts takes a second.
DAMAGES = {"kg_build": 20, "look": 10, "synth": 20, "curate": 70, "review": 50, "distill": 35, "resume": 15}
DAMAGES |= {"sft": 25, "grpo": 15, "evaluate": 40, "report": 10, "walk": 20, "mine": 20, "judge": 20}
TRAINING = "--steps 1 --micro-tokens 512"
ANY_CHAT = "cot.jsonl"  # chats have no ids: one may come twice
BEGUN = {"cot.partial.jsonl", "kg.sqlite.partial", "kg.pages.sqlite", "rl2.state", "teacher_cache.jsonl"}
OPTIONAL = {"kind", "tier"}  # fields that may be lacking
STAGES = {  # name: module, flags, what it reads, what it leaves
    "kg_build": (kg_build, "--source dump.xml --seeds Pneumonia --workers 1", ["dump.xml"], ["kg.sqlite"]),
    "look": (kg_build, "--stats --export graph.xml --text prose.jsonl", ["kg.sqlite"], []),
    "synth": (synth, "--questions 4 --options 2", ["kg.sqlite"], ["synth.jsonl"]),
    "curate": (curate, "--heldout 0", ["synth.jsonl", "decisions.jsonl"], ["train.jsonl", "heldout.jsonl"]),
    "review": (
        curate,
        "--heldout 0 --accept review.jsonl",
        ["synth.jsonl", "review.jsonl"],
        ["train.jsonl", "heldout.jsonl"],
    ),
    "distill": (distill, "--teacher evidence", ["train.jsonl"], ["cot.jsonl"]),
    "resume": (distill, "--teacher evidence", ["train.jsonl", "cot.partial.jsonl"], ["cot.jsonl"]),
    "sft": (
        sft,
        f"--model model {TRAINING} --batch-size 2 --samples 0 --validation 0",
        ["cot.jsonl", "model"],
        ["sft/model.safetensors"],
    ),
    "grpo": (
        grpo,
        f"--stage 1 --model model {TRAINING} --questions 2 --group-size 2 --max-new-tokens 3 --cache-gb 0.05",
        ["train.jsonl", "model"],
        ["rl1/model.safetensors"],
    ),
    "mine": (  # killed after its mining
        grpo,
        f"--stage 2 --model model {TRAINING} --questions 2 --group-size 2 --max-new-tokens 3 --cache-gb 0.05 "
        "--mine-samples 1 --round-steps 1",
        ["train.jsonl", "model", "rl2.state"],
        ["rl2/model.safetensors", "ledger.jsonl"],
    ),
    "walk": (  # killed before its links were made
        kg_build,
        "--source dump.xml --seeds Pneumonia --workers 1",
        ["dump.xml", "kg.sqlite.partial", "kg.pages.sqlite"],
        ["kg.sqlite"],
    ),
    "judge": (
        kg_build,
        "--verify-relations --verify-below 1 --teacher openai:judge",
        ["kg.sqlite", "teacher_cache.jsonl"],
        ["kg.sqlite"],
    ),
    "evaluate": (
        evaluate,
        "--model m=model --max-new-tokens 3 --cache-gb 0.05",
        ["heldout.jsonl", "eval/heldout/m.jsonl", "eval/heldout/m.json", "tiers/heldout.jsonl", "model"],
        ["eval/heldout/m.jsonl"],
    ),
    "report": (report, "--transcripts 0", ["metrics.jsonl", "eval/heldout/m.jsonl", "eval/heldout/m.json"], []),
}


class Here:
    """`kg_build.Readers` in this process."""

    def __init__(self, read, workers):
        self.read_page = read

    def read(self, pages: list[Page], kinds=None):
        return {page.title: self.read_page(page, (kinds or {}).get(page.title)) for page in pages}

    def close(self):
        pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny, questions):
    """A folder with every input, as the stages leave them."""
    folder = tmp_path_factory.mktemp("whole")
    evidence = [["Asthma", "symptom", "Cough", 1, "Asthma causes cough."]]
    rows = [
        question.to_json() | {"evidence": [[f"{evidence[0][0]} {number}", *evidence[0][1:]]], "kind": "x"}
        for number, question in enumerate(questions)
    ]
    shutil.copytree(tiny, folder / "model")
    seal(folder / "model")
    for name in ("synth", "train"):
        write_jsonl(folder / f"{name}.jsonl", rows)
    write_jsonl(folder / "heldout.jsonl", rows[:4])
    write_jsonl(folder / "review.jsonl", [row | {"votes": ["A"], "decision": "reject"} for row in rows[4:6]])
    write_jsonl(folder / "decisions.jsonl", [row | {"votes": ["A"], "decision": "reject"} for row in rows[5:8]])
    chats = [
        {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": "x"}]}
        for row in rows[:3]
    ]
    for row in chats:
        row["messages"][-1]["content"] = format_response("It is so.", "A")
    write_jsonl(folder / "cot.jsonl", chats)
    (folder / "dump.xml").write_text(export(PAGES, REDIRECTS), encoding="utf-8")
    (folder / "tiers").mkdir()
    write_jsonl(folder / "tiers" / "heldout.jsonl", [{"id": row["id"], "tier": "easy"} for row in rows[:4]])
    graph_of(folder / "kg.sqlite")
    status, said = run("evaluate", folder)
    assert status == 0, said
    with Judge({}) as judge, pytest.MonkeyPatch.context() as patch:
        patch.setattr(kg_build, "Readers", Here)
        patch.setenv("TEACHER_BASE_URL", f"http://127.0.0.1:{judge.server_address[1]}/v1")
        (folder / "teacher_cache.jsonl").touch()
        begin("distill", folder, lacking="note_paths")
        begin("kg_build", folder, lacking="link")
        begin("mine", folder, lacking="print_summary")
        begin("judge", folder)
        yield folder
        judge.shutdown()


def begin(name, whole, lacking=None):
    """Take a stage to where it misses a function, and keep what a stage would resume from."""
    folder = whole / f"begun-{name}"
    folder.mkdir()
    leave(name, whole, folder)
    with pytest.MonkeyPatch.context() as patch:
        if lacking:
            patch.delattr(STAGES[name][0], lacking)
        status, said = run(name, folder)
    assert status == (None if lacking else 0), said
    gc.collect()  # closes its databases
    for begun in BEGUN.intersection(path.name for path in folder.iterdir()):
        shutil.rmtree(whole / begun) if (whole / begun).is_dir() else (whole / begun).unlink(missing_ok=True)
        (folder / begun).rename(whole / begun)


def graph_of(path):
    """A random graph with all the tables of a real one."""
    database = sqlite3.connect(make_graph(path, 0))
    database.executescript("ALTER TABLE relation ADD COLUMN page; ALTER TABLE relation ADD COLUMN section;" + SCHEMA)
    database.executescript(
        "ALTER TABLE relation ADD COLUMN confidence REAL;"
        "UPDATE relation SET page = subject, section = 'lead', confidence = 0.9;"
        "INSERT INTO evidence SELECT id, page, revision, 'lead', sentence, 0.9 FROM relation;"
        "INSERT INTO rejected VALUES ('too long', 3); INSERT INTO page_error VALUES ('Gout', 'too deep')"
    )
    prose = [
        (id, zlib.compress(f"{title} is a thing.".encode()))
        for id, title in database.execute("SELECT id, title FROM entity")
    ]
    database.executemany("INSERT INTO prose VALUES (?, ?)", prose)
    database.commit()
    database.close()


def run(name, folder):
    """A stage in this process: its exit status and what it printed, or None and a traceback."""
    module, flags, reads, _ = STAGES[name]
    words = [str(folder / word) if word.endswith((".xml", ".jsonl")) else word for word in flags.split()]
    words = [word.replace("=model", f"={folder / 'model'}") for word in words]
    words = [str(folder / "model") if word == "model" else word for word in words]
    sys.argv = [f"{module.__name__}.py", *words, "--run", str(folder)]
    out, streams = folder.with_suffix(".out"), (sys.stdout, sys.stderr)
    with open(out, "w", encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        try:
            run_stage(module.main)
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = None
            traceback.print_exc(file=file)
        finally:
            sys.stdout, sys.stderr = streams
    return status, out.read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------------------------------- damages


def of_bytes(path, rng):
    """What happens to any file. Returns its description."""
    content = path.read_bytes()
    kind = rng.choice(["cut", "empty", "folder", "link", "missing", "noise", "zeros"])
    place = rng.randrange(len(content))
    if kind in ("folder", "link", "missing"):
        path.unlink()
        path.mkdir() if kind == "folder" else path.symlink_to(path) if kind == "link" else None
    elif kind in ("cut", "empty"):
        path.write_bytes(content[: rng.randrange(1, len(content)) if kind == "cut" else 0])
    else:
        junk = rng.randbytes(40) if kind == "noise" else bytes(40)
        path.write_bytes(content[:place] + junk + content[place + 40 :])
    return kind


WRONG = (None, True, 7, -1.5, 10**30, "", [], [None], {}, {"": 1}, [[1]])
LACKING = object()


def wrong(value, values=WRONG):
    """Values of other types."""
    return [other for other in values if type(other) is not type(value)]


def of_lines(path, rng):
    """What happens to JSON lines: a record that is none, one that comes twice, a field of another type or lacking."""
    lines = path.read_text(encoding="utf-8").splitlines()
    number = rng.randrange(len(lines))
    kind = rng.choice(
        ["line", "field", "field", "field", "lacking", "lacking", "twice"][: 6 if ANY_CHAT == path.name else 7]
    )
    row = json.loads(lines[number])
    if kind == "line":
        junk = ("nonsense", "[1]", "[" * 5000, '{"id": ' + "9" * 5000 + "}", '{"id": NaN}', '"x"')
        lines.insert(number, rng.choice(junk))
    elif kind == "twice":
        lines.insert(number, lines[number])
    else:
        owner = row
        name = rng.choice(sorted(owner.keys() - (OPTIONAL if kind == "lacking" else set())))
        if isinstance(owner[name], dict) and owner[name] and rng.random() < 0.5:
            owner = owner[name]
            name = rng.choice(sorted(owner))
        if kind == "lacking":
            del owner[name]
        else:
            owner[name] = rng.choice(wrong(owner[name], WRONG[1:] if name in OPTIONAL else WRONG))
        kind = f"{kind} {name}"
        lines[number] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return kind


def of_json(path, rng):
    """A setting of another type or lacking, also in a setting's own settings."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    owner = whole
    name = rng.choice(sorted(owner))
    while isinstance(owner[name], dict) and owner[name] and rng.random() < 0.7:
        owner = owner[name]
        name = rng.choice(sorted(owner))
    owner[name] = rng.choice([*wrong(owner[name]), LACKING])
    told = f"setting {name} = {owner[name]!r}"
    if owner[name] is LACKING:
        del owner[name]
    path.write_text(json.dumps(whole), encoding="utf-8")
    return told


def of_tables(path, rng):
    """A table or column that lacks or holds other things."""
    database = sqlite3.connect(path)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    table = rng.choice(sorted(tables))
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    column = rng.choice(columns)
    kind = rng.choice(["drop", "rename", "null", "blob", "word", "number"])
    value = {"null": "NULL", "blob": "x'ff00'", "word": "'x y'", "number": "-7"}.get(kind)
    changes = {"drop": f"DROP TABLE {table}", "rename": f"ALTER TABLE {table} RENAME COLUMN {column} TO other"}
    change = changes.get(kind, f"UPDATE OR IGNORE {table} SET {column} = {value}")
    try:
        with database:
            database.execute(change)
    except sqlite3.Error:  # the schema forbids it
        pass
    database.close()
    return change


def damage(path, rng):
    """Damage a file, or one of a folder's. Returns what was done to which."""
    if path.is_dir():
        path = rng.choice(sorted(path.iterdir()))
    special = {".jsonl": of_lines, ".json": of_json, ".sqlite": of_tables}.get(path.suffix)
    how = special if special and path.stat().st_size < 1 << 20 and rng.random() < 0.6 else of_bytes
    return path.name, how(path, rng)


# ---------------------------------------------------------------------------------------------------------------- tests


def leave(name, whole, folder):
    """Lay a stage's inputs into a folder."""
    for item in filter(lambda item: (whole / item).exists(), STAGES[name][2]):
        (folder / item).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (whole / item).is_dir() else shutil.copy2
        copy(whole / item, folder / item)


def outputs(name, folder):
    found = {}
    for output in STAGES[name][3]:
        path = folder / output
        if path.suffix == ".sqlite" and path.is_file():
            database = sqlite3.connect(path)
            found[output] = [
                database.execute(f"SELECT * FROM {t} ORDER BY 1").fetchall() for t in ("entity", "relation")
            ]
            database.close()
        else:
            found[output] = path.read_bytes() if path.is_file() else None
    return found


def told(name, said):
    """Whether a stage that ended well has said what it left out or found missing."""
    return any(
        word in said for word in ("rejected  ", "not applied", "are beyond", "could not be read", "Warning", "left out")
    )


@pytest.mark.parametrize("name", STAGES)
def test_no_damage_ends_in_a_traceback_or_passes_unsaid(name, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(kg_build, "Readers", Here)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(PROJECT)
    rng = random.Random(name)
    (tmp_path / "sound").mkdir()
    leave(name, whole, tmp_path / "sound")
    status, said = run(name, tmp_path / "sound")
    assert status == 0, said
    expected, faults = outputs(name, tmp_path / "sound"), []
    for number in range(int(TIMES * DAMAGES[name])):
        folder = tmp_path / str(number)
        folder.mkdir()
        leave(name, whole, folder)
        item = rng.choice(STAGES[name][2])
        what = damage(folder / item, rng)
        status, said = run(name, folder)
        errors = [line for line in said.splitlines() if ": error: " in line]
        if status is None or "Traceback" in said:
            faults.append((number, *what, said[-1500:]))
        elif status == 1 and len(errors) != 1 or status not in (0, 1):
            faults.append((number, *what, f"status {status}: {said[-300:]}"))
        elif status == 0 and outputs(name, folder) != expected and not told(name, said):
            faults.append((number, *what, f"silent: {said[-300:]}"))
        shutil.rmtree(folder)
    assert not faults, "\n\n".join(" | ".join(map(str, fault)) for fault in faults)


def without_privileges(name, folder):
    """Like `run`, in a process for which permissions bind, even if it is root's. Its exit status and what it said."""
    child = os.fork()
    if child == 0:
        status = None
        try:
            if os.geteuid() == 0:  # it keeps no capability
                ctypes.CDLL(None).capset(struct.pack("II", 0x20080522, 0), bytes(24))
            status, _ = run(name, folder)
        finally:
            os._exit(99 if status is None else status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, folder.with_suffix(".out").read_text(encoding="utf-8")


MEASURING = [name for name in STAGES if name not in ("look", "judge", "report")]


@pytest.mark.skipif(sys.platform != "linux", reason="root gives up its privileges as Linux has them")
@pytest.mark.parametrize(
    "name, locked", [*((name, ".") for name in STAGES), *((name, "metrics.jsonl") for name in MEASURING)]
)
def test_what_may_not_be_written_is_named_in_one_line(name, locked, whole, tmp_path, monkeypatch):
    """Such as another user's: the run directory, or a file in it."""
    monkeypatch.setattr(kg_build, "Readers", Here)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(PROJECT)
    folder = tmp_path / "run"
    folder.mkdir()
    leave(name, whole, folder)
    if name == "evaluate":  # else it has nothing to do
        shutil.rmtree(folder / "eval")
    (folder / "metrics.jsonl").touch()
    (folder / locked).chmod(0o555)
    status, said = without_privileges(name, folder)
    (folder / locked).chmod(0o755)
    errors = [line for line in said.splitlines() if ": error: " in line]
    assert status == 1 and len(errors) == 1 and str(folder / locked) in errors[0] and "Traceback" not in said, said
