"""Shared by all tests: a tiny model with a tokenizer of its own, a few questions, and ways to run a stage."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "GPU_TESTS" not in os.environ:  # the same everywhere: float32 on the CPU
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import stages
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # before anything imports Triton: its kernels then run on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")

gc.disable()  # until all is imported: it would look through half a million lasting objects again and again
torch.set_num_threads(1)
settings.register_profile("tests", deadline=None)  # a busy machine is no failure
settings.load_profile("tests")
PROJECT = stages.PROJECT
SHARED = Path(__file__).parents[2] / "shared"


# The longest files, in the order of what they take: a worker that began one of them last would end alone.
LONGEST = ("test_fsdp_utils", "test_pipeline", "test_grpo", "test_synth", "test_rollout", "test_top_p", "test_evaluate",
           "test_damage", "test_report", "test_curate", "test_kg_build", "test_rehearse", "test_run_sh")  # fmt: skip


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    names = [*LONGEST, *sorted({item.path.stem for item in items} - set(LONGEST))]
    items.sort(key=lambda item: names.index(item.path.stem))


@pytest.fixture(scope="session")
def shared_data():
    """Real parts that are not in the repository; tests that need them are skipped where they are missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared test data is not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def questions():
    """Twenty-one questions, seven of each tier."""
    from question import TIERS, Question

    names = ("Asthma", "Gout", "Malaria", "Scurvy")
    return [
        Question(
            id=f"test/{number}",
            source="test",
            language="en",
            question=f"Which one of these is number {number}?",
            options={letter: f"{name} {number}" for letter, name in zip("ABCD", names)},
            answer="ABCD"[number % 4],
            tier=TIERS[number % 3],
        )
        for number in range(21)
    ]


@pytest.fixture(scope="session")
def chats(questions):
    """Rows for the cold start: each question's chat with a well-formed answer."""
    from reward import format_response, prompt_messages

    answers = [format_response("It is so.", question.answer) for question in questions]
    return [
        {"messages": [*prompt_messages(question), {"role": "assistant", "content": answer}]}
        for question, answer in zip(questions, answers)
    ]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, chats):
    """The folder of a random Qwen2 of two layers and its ChatML tokenizer; input and output embeddings are tied."""
    from data.make_base import make_model, make_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    texts = [message["content"] for row in chats for message in row["messages"]]
    tokenizer = make_tokenizer(texts, [], 420)
    torch.manual_seed(0)
    make_model(tokenizer, hidden=64, layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cold_started(tmp_path_factory, tiny, chats):
    """A run directory whose `sft` keeps the format and guesses the answer, so that its rewards differ."""
    import sft
    from tools.run import write_jsonl

    run = tmp_path_factory.mktemp("cold") / "run"
    run.mkdir()
    write_jsonl(run / "cot.jsonl", chats)
    flags = "--steps 40 --batch-size 12 --lr 5e-3 --validation 0.15 --validate-every 20 --save-every 1000"
    call_main(sft, "--run", run, "--model", tiny, *flags.split())
    return run


def call_main(module, *flags):
    """A stage's `main` in this process, with a command line; it raises what the stage raises."""
    argv, sys.argv = sys.argv, [f"{module.__name__}.py", *map(str, flags)]
    try:
        module.main()
    finally:
        sys.argv = argv


def python(*arguments, timeout=300, **environment):
    """A Python process in the project's folder; its output as text. Stages are forked, if nothing speaks against it."""
    if str(arguments[0]).removesuffix(".py") in stages.STAGES:
        return stages.run(arguments, timeout, environment=environment)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def killed_after(module, step, *flags):
    """A stage's process that is killed (as by `kill -9`) as soon as it has logged `step`."""
    return stages.run([f"{module}.py", *flags], dies_at=step)


def weights(folder):
    """All tensors of a saved model by name."""
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def metrics_of(run, stage):
    """A stage's lines of a run's metrics."""
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage]


@pytest.fixture(scope="session")
def page_graph(tmp_path_factory):
    """The graph of the pages in pages.py, open."""
    from pages import PAGES, REDIRECTS, build, export

    return build(tmp_path_factory.mktemp("kg"), export(PAGES, REDIRECTS))
