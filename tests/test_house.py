"""The house and its front door: who imports whom, which commands are written down, where links and names lead."""

import argparse
import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from conftest import PROJECT

import teacher
from tools.fork import STAGES as OUTPUTS
from tools.run import MADE_BY

STAGES = "kg_build synth curate distill sft grpo evaluate report".split()  # always told in this order
FOLDERS = ("wiki", "clean", "tools", "draw", "cuda")
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "bench/README.md", "bench/history.md")]
PAGES += sorted((PROJECT / "docs").glob("*.md"))
SCRIPTS = [path for path in sorted(PROJECT.glob("**/*.py")) if not {"tests", ".venv"} & set(path.parts)]
BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))


# -------------------------------------------------------------------------------------------------------------- floors


def module(path):
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts)


def imports(path, known):
    """The project's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & known


@pytest.fixture(scope="module")
def graph():
    """Each module of the root and of the folders, and what it imports of them."""
    files = [path for path in SCRIPTS if path.parent == PROJECT or path.parent.name in FOLDERS]
    known = {module(path) for path in files}
    return {module(path): imports(path, known) for path in files}


def test_no_stage_is_imported_by_a_stage_or_a_noun(graph):
    assert set(STAGES) < set(graph)
    assert {name: wrong for name, used in graph.items() if (wrong := used & set(STAGES))} == {}


def test_folders_import_nothing_of_the_root(graph):
    inner = {name for name in graph if "." in name}
    assert {name for name in inner if name.split(".")[0] in FOLDERS} == inner and len(inner) > 8
    assert {name: wrong for name in inner if (wrong := graph[name] - inner)} == {}


def test_no_circle_of_imports(graph):
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)  # raises CycleError


def defined(path):
    """The names that a module defines or imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def unknown_names(source, known):
    """What a source takes of the project's modules that they do not define; `known`: module -> its names."""
    tree, modules, unknown = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if f"{node.module}.{alias.name}" in known:
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                elif node.module in known and alias.name not in known[node.module]:
                    unknown.append(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            if node.attr not in known[modules[node.value.id]]:
                unknown.append(f"{modules[node.value.id]}.{node.attr}")
    return unknown


def test_every_name_of_a_module_that_is_used_is_defined_there():
    """Also in the benches, which no test runs: nobody calls a function by the name that it had before."""
    known = {module(path): defined(path) for path in SCRIPTS}
    wrong = "import fsdp_utils\nfrom tools import run as r\nfrom question import Nobody\nfsdp_utils.gone()\nr.lost"
    assert sorted(unknown_names(wrong, known)) == ["fsdp_utils.gone", "question.Nobody", "tools.run.lost"]
    everywhere = [*SCRIPTS, *(PROJECT / "tests").glob("*.py")]
    assert {str(path): wrong for path in everywhere if (wrong := unknown_names(path.read_text(), known))} == {}


def test_cuda_does_not_hide_the_drivers_package():
    assert not (PROJECT / "cuda" / "__init__.py").exists()


# ------------------------------------------------------------------------------------------------------ the same order


def test_the_stages_are_told_in_one_way():
    readme, contributing = (page.read_text() for page in PAGES[:2])
    assert re.findall(r"^\| \d \| `(\w+)\.py` \|", readme, re.MULTILINE) == STAGES
    assert ", ".join(f"`{stage}`" for stage in STAGES) in contributing.replace("\n", " ")
    with_output = list(dict.fromkeys(command.split()[1].removesuffix(".py") for command in MADE_BY.values()))
    assert with_output == STAGES[:6]
    assert [name for names in OUTPUTS.values() for name in names] == list(MADE_BY)
    calls = re.findall(r"^ *stage \w+ .*?(\w+)\.py", (PROJECT / "run.sh").read_text(), re.MULTILINE)
    assert list(dict.fromkeys(calls)) == STAGES


def test_run_sh_is_short():
    assert len((PROJECT / "run.sh").read_text().splitlines()) < 80


# ------------------------------------------------------------------------------------------------------------- commands


class Read(Exception):
    """The command line was read to its end, without an error."""


def words_of(line):
    """A shell line as words, without variables, comments and what follows a pipe; None: not a command of ours."""
    line = re.sub(r"\$\{?\w+\}?", "1", line.split(" | ")[0].split("; done")[0])
    line = re.sub(r"^(for .*; do )?((export )?\w+=\S+ )*", "", line.strip().removeprefix("$ "))
    if (
        not re.match(r"(bash|python(?! -c)|torchrun) ", line)
        or "..." in line
        or re.match(r"bash .*\b(STAGE|SCRIPT)\b", line)
    ):
        return None
    return shlex.split(line, comments=True)


def commands(text):
    """The commands in the code blocks of a page or in the indented lines of a docstring; a trailing \\ joins lines.

    Variables that the text itself sets to several words have their values.
    """
    text = re.sub(r"\\\n\s*", "", text)
    for name, value in re.findall(r'^(\w+)="([^"]* [^"]*)"', text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    for line in text.splitlines():
        for command in line.split(" && "):
            words = words_of(command)
            if words:
                yield command.strip(), words


def blocks(page):
    return "\n".join(re.findall(r"^```(?:bash|sh)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


def inline(page):
    """The commands that stand in a sentence or a table."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return "\n".join(re.findall(r"`((?:bash|python|torchrun) [^`]+)`", prose.replace("\n", " ")))


def test_torchrun_listens_on_loopback_where_one_machine_is_meant():
    """Every such command, in the pages and in docstrings, stands below variables that mean what run.sh gives."""
    flags = "train=(env TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend c10d --rdzv-conf store_type=file"
    assert flags in (PROJECT / "run.sh").read_text()
    same = "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 PET_RDZV_BACKEND=c10d PET_RDZV_CONF=store_type=file"
    texts = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)]
    texts += [ast.get_docstring(ast.parse(path.read_text())) or "" for path in SCRIPTS]
    alone = [text for text in texts if re.search(r"^ *torchrun (?!--nnodes)", text, re.M)]
    assert len(alone) >= 5 and all(0 <= text.find(same) < text.find("torchrun ") for text in alone)


def read_flags(script, words, monkeypatch):
    """Have the script's own parser read the words, and return the namespace. Raises UserError if it refuses them."""
    monkeypatch.setattr(sys, "argv", [script, *words])
    stage = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    if hasattr(stage, "parse_args"):
        return stage.parse_args()
    parse = argparse.ArgumentParser.parse_args

    def parse_only(*arguments):
        raise Read(parse(*arguments))

    with monkeypatch.context() as patch, pytest.raises(Read) as read:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        stage.main()
    return read.value.args[0]


def check(words, monkeypatch):
    """Raises if the command would be refused for its words."""
    program, *rest = words
    while program == "env" or "=" in program:
        program, *rest = rest
    if program == "torchrun":
        assert "--" in rest, "torchrun takes --run for an option of its own"
        rest = rest[rest.index("--") + 1 :]
    if rest[0] == "-m":
        rest[:2] = [rest[1].replace(".", "/") + ".py"]
    assert (PROJECT / rest[0]).exists(), rest[0]
    if rest[0] == "run.sh":
        recipe, stage, *flags = [*rest[1:], "", ""][: max(2, len(rest) - 1)]
        assert recipe in ("", "tiny", "1gpu", "7b", "32b")
        if stage and stage != "rehearse":
            assert stage in OUTPUTS
            _, script, *fixed = MADE_BY[OUTPUTS[stage][-1]].split()
            read_flags(script, [*fixed, *flags], monkeypatch)
    elif rest[0].endswith(".py"):
        read_flags(rest[0], rest[1:], monkeypatch)


@BY_PAGE
def test_every_command_of_a_page_is_understood(page, monkeypatch):
    for line, words in commands(blocks(page) + "\n" + inline(page)):
        try:
            check(words, monkeypatch)
        except Exception as error:
            pytest.fail(f"{page.name}: {line}: {error}")


@pytest.mark.parametrize("script", [*STAGES, "plan", "data/make_base"])
def test_every_command_of_a_docstring_is_understood(script, monkeypatch):
    doc = ast.get_docstring(ast.parse((PROJECT / f"{script}.py").read_text()))
    for line, words in commands(doc):
        try:
            check(words, monkeypatch)
        except Exception as error:
            pytest.fail(f"{script}.py: {line}: {error}")


def commands_of(recipe, **environment):
    """run.sh's commands of a recipe as words, told by itself."""
    body = (PROJECT / "run.sh").read_text()
    say = 'stage() { printf "%s\\t" "${@:2}"; echo; }'
    body = body.replace("source tools/stage.sh", say).replace("source ./setup.sh", ":")
    body = body.replace('cd "$(dirname "$0")"', ":")
    told = subprocess.run(
        ["bash", "-c", body, "run.sh", recipe],
        cwd=PROJECT, env=os.environ | environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [line.split("\t")[:-1] for line in told.splitlines()]


@pytest.mark.parametrize(
    ("recipe", "environment"),
    [
        ("tiny", {}),
        ("1gpu", {}),
        ("1gpu", {"LOCAL": "/a b", "MODEL": "org/x", "TEACHER": "openai:any"}),
        ("7b", {"CONTACT": "you@example.org", "TEACHER": "openai:any", "VERIFIER": "openai:other"}),
        ("32b", {"CONTACT": "you@example.org", "TEACHER": "openai:any"}),
    ],
)
def test_every_command_of_run_sh_is_understood(recipe, environment, monkeypatch):
    told = commands_of(recipe, **environment)
    assert len(told) == {"tiny": 9, "1gpu": 10, "7b": 9, "32b": 7}[recipe]
    for words in told:
        check(words, monkeypatch)
    if "LOCAL" in environment:
        assert not any(word in ("medqa", "medmcqa", "org/x") for words in told for word in words)
        assert "/a b/org/x" in told[4] and "medqa=/a b/medqa_train.jsonl" in told[2]


UNSEEN = {"run", "seed", "micro_tokens", "save_every", "cache_gb"}  # they change no result


def test_docstrings_and_run_sh_agree_on_the_tiny_recipe(monkeypatch):
    """Every docstring command that calls itself the tiny recipe's means what the command of run.sh means."""
    found = []
    for script in STAGES:
        doc = ast.get_docstring(ast.parse((PROJECT / f"{script}.py").read_text()))
        for line, words in commands(doc):
            if re.search(r"#.*the tiny recipe", line):
                theirs = next(call[1:] for call in commands_of("tiny") if call[1] == words[1])
                here, there = (vars(read_flags(call[0], call[1:], monkeypatch)) for call in (words[1:], theirs))
                assert {name: here[name] for name in here if name not in UNSEEN and here[name] != there[name]} == {}, (
                    line
                )
                found.append(script)
    assert {"synth", "curate", "distill", "sft"} <= set(found)


# ----------------------------------------------------------------------------------------------------- links and names


def anchors(page):
    """The headings' anchors, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@BY_PAGE
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?://", target):
            name, _, anchor = target.partition("#")
            other = (page.parent / name).resolve() if name else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


@BY_PAGE
def test_every_file_that_is_named_exists(page):
    names = re.findall(r"`([\w/.]+\.(?:py|sh|md|csv|xml|svg))`", page.read_text())
    places = (PROJECT, page.parent)
    missing = {name for name in names if not any((place / name).exists() for place in places)}
    assert missing - {"__init__.py", "card.md"} == set()  # what must not be there; what a run makes


@BY_PAGE
def test_every_flag_that_is_named_exists(page):
    torchrun = {"--nnodes", "--nproc_per_node", "--node_rank", "--master_addr", "--master_port"}
    known = torchrun | {"--help", *re.findall(r"--[a-z][\w-]*", "".join(path.read_text() for path in SCRIPTS))}
    teachers = argparse.ArgumentParser()
    teacher.add_teacher_arguments(teachers, "", "")
    known |= set(re.findall(r"--[a-z][\w-]*", teachers.format_help()))
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(re.findall(r"`([^`\n]+)`", page.read_text()))))
    assert named - known == set()


@BY_PAGE
def test_every_function_that_is_named_exists(page):
    """In a table whose last column is "read first": names of the files in the column before."""
    for row in re.findall(r"^\| .*\| read first \|\n\|[-| ]*\|\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE):
        for line in row.splitlines():
            *_, files, names = line.strip("| ").split(" | ")
            paths = [PROJECT / name for name in re.findall(r"`([^`]+)`", files)]
            sources = "".join(
                f.read_text() for path in paths for f in ([path] if path.is_file() else path.glob("*.py"))
            )
            for name in re.findall(r"`([^`]+)`", names):
                assert re.search(rf"(def |class |^){name.split('.')[-1]}\b", sources, re.MULTILINE), name
