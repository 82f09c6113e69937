"""Tables say what the files say: one run, several, the paper's."""

import re
from pathlib import Path

import pytest
from conftest import SHARED, call_main
from hypothesis import given
from hypothesis import strategies as st
from test_results import cells_of, rows_of

import report
import tables
from clean.formats import BENCHMARKS, DATASETS
from results import macro_average, micro_average, score_file
from reward import format_response
from tools.cli import UserError
from tools.run import write_jsonl


def write_results(run, **hits):
    """A run's saved responses to ten questions, of two tiers by turns: variant -> how many are right."""
    folder = run / "eval" / "heldout"
    folder.mkdir(parents=True)
    for label, right in hits.items():
        rows = rows_of([format_response("x", "A" if n < right else "B") for n in range(10)])
        tiers = ("difficult", "easy")
        write_jsonl(folder / f"{label}.jsonl", [row | {"tier": tiers[n % 2]} for n, row in enumerate(rows)])


def table_after(text, title):
    """The cells of the first table behind a title, but for the column of the benchmark."""
    table = text.split(f"{title}\n\n", 1)[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in table if "| ---" not in line]


def test_macro_and_micro_average(tmp_path):
    results = {"m": {}}
    for name, right, n in (("small", 1, 1), ("large", 2, 8)):
        path = tmp_path / f"{name}.jsonl"
        write_jsonl(path, rows_of([format_response("so", "A" if i < right else "B") for i in range(n)]))
        results["m"][name] = score_file(path)
    assert macro_average(results["m"]) == (1 + 1 / 4) / 2
    assert micro_average(results["m"]) == 3 / 9
    assert "| 62.5 | 33.3  |" in tables.ablation_table(results)


def test_the_gap_between_synthetic_and_public_questions(tmp_path):
    scored = {}
    for name, right in (("heldout", 8), ("heldout_public", 5)):
        path = tmp_path / f"{name}.jsonl"
        write_jsonl(path, rows_of([format_response("so", "A" if i < right else "B") for i in range(10)]))
        scored[name] = score_file(path)
    table = tables.ablation_table({"m": scored})
    assert dict(zip(cells_of(table, "Variant"), cells_of(table, "| m ")))["Gap"] == "+30.0"
    assert "Gap" not in tables.ablation_table({"m": {"heldout": scored["heldout"]}})


def test_table_of_several_runs(tmp_path, capsys):
    for name, hits in (("run-0", 4), ("run-1", 6)):
        write_results(tmp_path / name, Base=0, RL=hits)
    call_main(report, "--table", tmp_path / "run-0", tmp_path / "run-1")
    text = capsys.readouterr().out
    accuracies = text.partition("Accuracy in %")[2]
    assert cells_of(accuracies, "heldout ", "RL ") == ["heldout", "RL", "40.0", "60.0", "50.0", "20.0", "+50.0"]
    step = cells_of(text, "run-1: Base -> RL")
    assert step[2] == "10" and step[3].startswith("+60.0 (") and step[4] == "yes"
    assert "Step: the gain over the row above" in text
    assert "quoted" not in text and "run-0 -> run-1" not in text  # no benchmark of the paper's; seeds are no methods


def test_an_ablation_stands_beside_its_baseline(tmp_path, capsys):
    """A fork is another method, not another seed: each run is a column, the differences to the first come last."""
    write_results(tmp_path / "full", **{"+CoT cold start": 4, "Base": 1, "+RL stage 2": 8})
    write_results(tmp_path / "full-rl2--no-mining---steps-5", **{"Base": 1, "+RL stage 2": 5, "+RL stage 1": 3})
    for run in tmp_path.iterdir():  # the fork has the very same base
        (run / "eval" / "heldout" / "Base.json").write_text('{"settings": {"questions": 10, "model_hash": "0123"}}')
    call_main(report, "--table", tmp_path / "full", tmp_path / "full-rl2--no-mining---steps-5")
    text = capsys.readouterr().out
    assert table_after(text, "Accuracy in %") == [
        ["Variant", "full", "rl2 --no-mining --steps-5"],
        ["Base", "10.0", "10.0"],
        ["+CoT cold start", "40.0", "-"],
        ["+RL stage 1", "-", "30.0"],
        ["+RL stage 2", "80.0", "50.0"],
    ]
    name, against = "+RL stage 2: full -> rl2 --no-mining --steps-5", "Against full, on the same questions"
    assert table_after(text, f"{against} (paired bootstrap, 95%)")[1:] == [
        [name, "10", "-30.0 (-60.0 to +0.0)", "no"],
        [name, "5", "-40.0 (-80.0 to +0.0)", "no"],  # easy
        [name, "5", "-20.0 (-60.0 to +0.0)", "no"],  # difficult
    ]
    assert text.index("Against full") > text.index("From row to row") and "Mean" not in text
    write_results(tmp_path / "full-sft", **{"+RL stage 2": 5})
    call_main(report, "--table", *sorted(tmp_path.iterdir()))
    assert "heldout, easy" in text and "heldout, easy" not in capsys.readouterr().out  # several forks: no tiers
    with pytest.raises(UserError, match="tinny does not exist"):
        call_main(report, "--table", tmp_path / "full", tmp_path / "tinny")


@pytest.mark.parametrize(
    ("names", "seeds"),
    [
        (["tiny"], True),
        (["tiny-0", "tiny-1", "tiny-2"], True),
        (["tiny", "tiny-1"], True),
        (["tiny-rl1", "tiny-rl2"], False),  # forks of two stages
        (["tiny-rl1--clip-0.2", "tiny-rl1--clip-0.3"], False),
        (["7b", "32b"], False),
        (["a/tiny-0", "b/tiny-0"], False),
    ],
)
def test_what_counts_as_seeds_of_one_method(names, seeds):
    assert tables.are_seeds(tables.run_names([Path(name) for name in names])) == seeds


def test_table_of_one_run_has_neither_mean_nor_spread(tmp_path, capsys):
    write_results(tmp_path / "run", Base=1, RL=4)
    call_main(report, "--table", tmp_path / "run")
    text = capsys.readouterr().out
    accuracies = text.partition("Accuracy in %")[2]
    assert cells_of(accuracies, "| Benchmark") == ["Benchmark", "Variant", "run", "Step"]
    assert cells_of(accuracies, "heldout ", "RL ") == ["heldout", "RL", "40.0", "+30.0"]


def test_a_run_stands_beside_the_papers_rows(tmp_path, capsys):
    for name in ("medqa", "pubmedqa"):
        (tmp_path / "eval" / name).mkdir(parents=True)
        write_jsonl(tmp_path / "eval" / name / "ours.jsonl", rows_of([format_response("x", "A")] * 3 + [""]))
    call_main(report, "--table", tmp_path)
    text = capsys.readouterr().out
    assert cells_of(text, "| Model", "Source")[2:] == [
        "CareQA", "JMED", "Medbullets", "MedMCQA", "MedQA", "MedXpertQA", "PubMedQA", "MMLU-Pro Biology",
        "MMLU-Pro Health", "Avg.", "ΔAvg.",
    ]  # fmt: skip
    ours = ["measured here", "-", "-", "-", "-", "75.0", "-", "75.0", "-", "-", "75.0", "+0.0"]
    assert cells_of(text, "7B: +RL Stage 2")[-2:] == ["63.4", "+7.9"]
    assert cells_of(text, f"{tmp_path.name}: ours")[1:] == ours
    assert cells_of(text, "Fleming-R1-7B")[6:9] == ["75.10", "19.14", "78.60"]


def test_the_quoted_tables_are_the_papers():
    *rows, expert, larger = tables.paper_rows()
    assert [row["table"] for row in rows] == ["Table 3"] * 11 + ["Table 4"] * 7
    for row in rows:
        nine = [float(row[name]) for name in BENCHMARKS]
        assert sum(nine) / 9 == pytest.approx(float(row["avg"]), abs=0.06), row["model"]
    if SHARED.is_dir():
        paper = (SHARED / "paper.txt").read_text(encoding="utf-8").replace("\xa0", " ")
        for row in rows:
            numbers = [row[name] for name in (*BENCHMARKS, "avg")]
            assert f"{row['model']} {' '.join(numbers)}{' +' + row['gain'] if row['gain'] else ''}\n" in paper
        assert f"{expert['model']} ({expert['medxpertqa']}%)" in paper
        assert f"{larger['model']} {larger['medxpertqa']}%" in paper


def test_without_a_run_the_papers_four_tables_are_printed(capsys):
    call_main(report, "--table")
    text = capsys.readouterr().out
    sizes = {row.split("|")[1].strip(): row.split("|")[4].strip().replace(",", "") for row in text.split("\n")[4:12]}
    known = {dataset.title: str(dataset.paper_size) for dataset in DATASETS}
    for name, size in sizes.items():
        assert known[re.sub(r" \((Text|USMLE)\)|[()]", "", name)] == size, name
    assert cells_of(text, "HuatuoGPT-O1") == ["HuatuoGPT-O1", "7B, 72B", "Inference"]
    assert cells_of(text, "quoted, Table 3", "Fleming-R1-32B")[-2:] == ["75.42", "-"]
    assert cells_of(text, "7B: +RL Stage 2")[-2:] == ["63.4", "+7.9"]
    assert cells_of(text, "GPT-4o")[2:] == ["-"] * 5 + ["30.37"] + ["-"] * 5
    if SHARED.is_dir():
        paper = (SHARED / "paper.txt").read_text(encoding="utf-8").replace("\xa0", " ")
        cells = [" ".join(row.split("|")[1:-1]).split() for row in text.split("\n") if row.startswith("| ")]
        written = {" ".join(row) for row in cells}
        lines = paper[paper.index("Table 1:") : paper.index("4.1.2")].splitlines()[2:]
        lines += paper[paper.index("Table 2:") : paper.index("“Reasoning")].splitlines()[2:]
        assert {" ".join(line.split()) for line in lines if line.strip()} <= written


MEASURED = st.dictionaries(st.text(), st.dictionaries(st.sampled_from(BENCHMARKS), st.floats(0, 100)), max_size=4)


@given(MEASURED)
def test_own_models_stand_among_the_papers_bars(measured):
    experts, averages = tables.paper_bars(measured).values()
    for bars, own in (
        (experts, {model: nine["medxpertqa"] for model, nine in measured.items() if "medxpertqa" in nine}),
        (averages, {model: sum(nine.values()) / 9 for model, nine in measured.items() if len(nine) == 9}),
    ):
        assert [accuracy for _, accuracy, _ in bars] == sorted((bar[1] for bar in bars), reverse=True)
        assert {model: accuracy for model, accuracy, quoted in bars if not quoted} == pytest.approx(own)
    assert sum(quoted for *_, quoted in experts) == 13 and sum(quoted for *_, quoted in averages) == 11


def test_nothing_to_tabulate_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no evaluation yet; finish the run .*RUN=.* bash run.sh"):
        call_main(report, "--table", tmp_path)
    write_results(tmp_path, x=1)
    write_jsonl(tmp_path / "eval" / "heldout" / "x.jsonl", [{"id": "1"}])
    with pytest.raises(UserError, match="no file of saved responses"):
        call_main(report, "--table", tmp_path)


def test_seeds_of_two_methods_are_compared_over_both(tmp_path, capsys):
    """Forks are paired with the seed they were forked from; a difference within the spread is told as such."""
    for seed, (plain, forked) in enumerate([(4, 9), (5, 9), (6, 10)]):
        write_results(tmp_path / f"tiny-{seed}", Base=0, RL=plain)
        write_results(tmp_path / f"tiny-{seed}-rl1--with-std", Base=0, RL=forked)
    paths = [tmp_path / f"tiny-{seed}{change}" for change in ("", "-rl1--with-std") for seed in range(3)]
    assert {method: len(seeds) for method, seeds in tables.methods_of(paths).items()} == {
        "tiny": 3,
        "rl1 --with-std": 3,
    }
    call_main(report, "--table", *paths)
    text = capsys.readouterr().out.partition("Over seeds and questions")[2]
    name = "RL: tiny -> rl1 --with-std"
    cells = cells_of(text, name)
    assert cells[2:4] == ["3", "10"] and cells[4].startswith("+43.3 (") and cells[5] == "yes"
    assert cells_of(text, "Base: tiny -> rl1 --with-std")[4:] == ["+0.0 (+0.0 to +0.0)", "no"]
    assert cells_of(text, "tiny: Base -> RL")[4].startswith("+50.0 (")
    assert tables.methods_of([Path("tiny"), Path("tiny-0"), Path("tiny-rl1--clip-0.2")]) == {}
    assert tables.methods_of([Path("tiny-rl1---steps-5"), Path("tiny-rl1---steps-6")]) == {}
