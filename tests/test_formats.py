"""Every native format is read into the question record; what is no single-choice question is rejected with a reason."""

import csv
import io
import json
import math
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from clean import formats
from clean.formats import BENCHMARKS, DATASETS, load_rows, pubmedqa_test_ids
from question import Question
from tools.cli import UserError

read_native = partial(formats.read_native, record=Question)
read_hub = partial(formats.read_hub, record=Question)

OPTIONS = {"A": "Iron deficiency", "B": "Folate deficiency", "C": "Parvovirus B19 infection", "D": "Leukemia"}
MCQ = {"opa": "Uterus", "opb": "Ovary", "opc": "Cervix", "opd": "Vagina"}
NAN_ROW = dict.fromkeys(("exam_id", "question", "op1", "op2", "op3", "op4", "cop", "unique_id"), math.nan)

# One native row per format and the (letter, option text) of its answer.
NATIVE = {
    "medqa": ({"question": "Cause?", "options": OPTIONS, "answer_idx": "C", "answer": "..."}, "C", OPTIONS["C"]),
    "careqa": (
        {"question": "True?", "op1": "a", "op2": "b", "op3": "c", "op4": "d", "cop": 2.0, "unique_id": "u1"},
        "B",
        "b",
    ),
    "mmlu_pro_biology": (
        {"question": "DNA?", "options": ["x", "y", "z"], "answer": "B", "answer_index": 1, "category": "biology"},
        "B",
        "y",
    ),
    "mmlu_pro_health": (
        {"question": "Polio?", "options": list("abcdefghij"), "answer": "J", "answer_index": 9, "category": "health"},
        "J",
        "j",
    ),
    "medxpertqa": (
        {"id": "Text-1", "question": "Next?", "options": {**OPTIONS, "E": "e", "F": "f"}, "label": "F"},
        "F",
        "f",
    ),
    "jmed": (
        {
            "diagId": 7,
            "final_question": "最有可能的诊断是什么？",
            "final_options": json.dumps({"options": {"A": "肌肉劳损", "B": "腱鞘炎"}}, ensure_ascii=False),
            "final_correct_answer": "['B']",
        },
        "B",
        "腱鞘炎",
    ),
    "medbullets": ({"question": "Best drug?", **MCQ, "ope": "Tube", "answer_idx": "E", "link": "x"}, "E", "Tube"),
    "cmexam": ({"Question": "可见于", "Options": "A 气胸\\nB 肝癌\\nC 右肾结石", "Answer": "C"}, "C", "右肾结石"),
}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NATIVE)
def test_each_native_format(name, tmp_path):
    row, letter, option = NATIVE[name]
    questions, rejections = read_native(name, write(tmp_path / "test.jsonl", [row, row | {"id": "x", "diagId": "x"}]))
    assert len(questions) + len(rejections) == 2
    first = questions[0]
    assert (first.answer, first.options[letter], first.source) == (letter, option, name)
    assert first.language == ("zh" if name in ("jmed", "cmexam") else "en")
    assert first.id.startswith(f"{name}/test/")


def test_the_table_names_the_nine_benchmarks_and_the_papers_sizes():
    assert len(BENCHMARKS) == 9
    sizes = {dataset.name: dataset.paper_size for dataset in DATASETS}
    assert (
        sizes["medmcqa"] == 4183 and sizes["careqa"] == 5621 and sizes["medbullets"] == 298 and sizes["cmexam"] is None
    )


def test_medmcqa_counts_from_one_in_the_authors_file_and_from_zero_on_the_hub(tmp_path):
    def answers(numbers):
        rows = [{"id": str(i), "question": "Which?", **MCQ, "cop": cop} for i, cop in enumerate(numbers)]
        return [question.answer for question in read_native("medmcqa", write(tmp_path / "dev.json", rows))[0]]

    assert answers([1, 2, 4]) == ["A", "B", "D"]
    assert answers([0, 1, 3]) == ["A", "B", "D"]
    with pytest.raises(UserError, match="neither 0 nor 4"):
        answers([1, 2, 3])


def test_medmcqa_without_a_label_is_rejected(tmp_path):
    rows = [{"id": str(i), "question": "Which?", **MCQ, "cop": cop} for i, cop in enumerate([0, -1])]
    questions, rejections = read_native("medmcqa", write(tmp_path / "test.json", rows))
    assert len(questions) == 1 and rejections == [("medmcqa/test/1", "answer not among the options")]


def test_pubmedqa_mapping_and_hub_rows(tmp_path):
    path = tmp_path / "ori_pqal.json"
    row = {"QUESTION": "Does it help?", "CONTEXTS": ["Background.", "Results."], "final_decision": "maybe"}
    path.write_text(json.dumps({"21645374": row, "1": row | {"final_decision": "perhaps"}}, indent=1))
    (question,), rejections = read_native("pubmedqa", path)
    assert question.id == "pubmedqa/ori_pqal/21645374" and question.answer == "C"
    assert question.question == "Background.\nResults.\n\nDoes it help?"
    assert rejections == [("pubmedqa/ori_pqal/1", "answer not among the options")]
    assert question.kind == "official test split" and len(pubmedqa_test_ids()) == 500

    hub = {"pubid": 5, "question": "Does it?", "context": {"contexts": ["Text."]}, "final_decision": "no"}
    other, tested = read_native("pubmedqa", write(tmp_path / "hub.jsonl", [hub, hub | {"pubid": 21645374}]))[0]
    assert (other.answer, other.kind, tested.kind) == ("B", None, "official test split")


def test_medxpertqa_authors_files(tmp_path):
    options = [{"letter": letter, "content": text} for letter, text in OPTIONS.items()]
    row = {"id": "Text-20", "question": "Why?\nAnswer Choices: (A) ...", "options": options, "label": ["D"]}
    ((question,), rejections) = read_native(
        "medxpertqa", write(tmp_path / "t.jsonl", [row, row | {"label": ["A", "B"]}])
    )
    assert (question.question, question.answer, question.options) == ("Why?", "D", OPTIONS)
    assert rejections == [("medxpertqa/t/Text-20", "id occurs twice")]


def test_cmexam_csv_with_several_answers(tmp_path):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["Question", "Options", "Answer", "Explanation"])
    writer.writerow(["咳嗽\u2028可见于", "A 喉炎\nB 百日咳", "A", 'a "quoted" one'])
    writer.writerow(["属于", "A 甲\\nB 乙", "AB", ""])
    writer.writerow(["属于", "", "A", ""])
    path = tmp_path / "test.csv"
    path.write_text("\ufeff" + text.getvalue(), encoding="utf-8", newline="")
    (question,), rejections = read_native("cmexam", path)
    assert question.options == {"A": "喉炎", "B": "百日咳"}
    assert [reason for _, reason in rejections] == ["several answers", "not 2 to 26 options"]


def test_cmexam_hub_rows(tmp_path):
    options = [{"key": "A", "value": "甲"}, {"key": "B", "value": "乙"}]
    row = {"Question": "属于", "Options": options, "Answer": "B"}
    assert read_native("cmexam", write(tmp_path / "t.json", [row]))[0][0].options == {"A": "甲", "B": "乙"}


def test_rejections_keep_count_of_every_row(tmp_path):
    good = NATIVE["careqa"][0]
    rows = [good, NAN_ROW, good | {"unique_id": "u2", "cop": 9.0}, good | {"unique_id": "u3", "op4": None}]
    path = write(tmp_path / "c.jsonl", rows)
    path.write_text(path.read_text() + '{"cut\n["a list"]\n')
    questions, rejections = read_native("careqa", path)
    reasons = [reason for _, reason in rejections]
    assert len(questions) == 1
    assert reasons == ["empty row", "answer not among the options", "no op4", "not a JSON object", "not a JSON object"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "x"}\n', "holds no valid medqa question .1 rows: options are not a mapping"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"hello", "neither JSON nor JSON lines"),
        (b"[" * 100_000, "neither JSON nor JSON lines"),
        (b"[]", "holds no valid medqa question"),
    ],
)
def test_bad_files_are_one_clear_error(content, message, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_native("medqa", path)


def test_a_file_of_another_benchmark_is_refused(shared_data):
    """Every native excerpt under every name: its own gives questions, any other one clear error."""
    files = {path.name.split("_")[0].split(".")[0]: path for path in (shared_data / "native").iterdir()}
    files |= {f"mmlu_pro_{part}": shared_data / "native" / f"mmlu_pro_{part}.jsonl" for part in ("biology", "health")}
    names = [dataset.name for dataset in DATASETS]
    for name in names:
        for other in names:
            if name == other:
                assert read_native(name, files[name])[0]
            else:
                with pytest.raises(UserError):
                    read_native(other, files[name])


@pytest.mark.parametrize("answer", ["BD", "Cefixime", "[]", "", None, ["A", "B"], "b"])
def test_an_answer_is_one_letter(answer, tmp_path):
    row = {"id": "1", "question": "Next?", "options": OPTIONS, "label": "A"}
    path = write(tmp_path / "t.jsonl", [row, row | {"id": "2", "label": answer}])
    assert len(read_native("medxpertqa", path)[1]) == 1


def test_a_missing_file_an_unknown_dataset_a_broken_csv(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_native("medqa", tmp_path / "none.json")
    with pytest.raises(UserError, match="known: .*medqa"):
        read_native("medqa2", tmp_path)
    broken = tmp_path / "broken.csv"
    broken.write_text('Question,Options\n"never closed,A x')
    with pytest.raises(UserError, match="not a readable CSV"):
        load_rows(broken)


def test_the_hub_gives_the_same_records(monkeypatch):
    calls = []

    def load_dataset(repo, config, split):
        calls.append((repo, config, split))
        if repo == "qiaojin/PubMedQA":
            raise ConnectionError("offline\nand more")
        return [{"id": "a", "question": "Which?", **MCQ, "cop": 3, "subject_name": "Surgery"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (question,), rejections = read_hub("medmcqa", "train")
    assert (question.id, question.answer, question.kind) == ("medmcqa/train/a", "D", "Surgery") and not rejections
    assert calls == [("openlifescienceai/medmcqa", None, "train")]
    with pytest.raises(UserError, match=r"cannot load qiaojin/PubMedQA from the hub \(offline\)"):
        read_hub("pubmedqa", "test")
    with pytest.raises(UserError, match="no training split"):
        read_hub("careqa", "train")


def test_files_by_column(shared_data, tmp_path):
    """Data frames saved as {column: {"0": cell}} or {column: [cell]} hold the same questions as by row."""
    path = shared_data / "native" / "medbullets_op5_by_column.json"
    by_index, rejections = read_native("medbullets", path)
    assert len(by_index) == len(next(iter(json.loads(path.read_text()).values()))) and not rejections
    columns = {name: list(cells.values()) for name, cells in json.loads(path.read_text()).items()}
    (tmp_path / path.name).write_text(json.dumps(columns))
    assert read_native("medbullets", tmp_path / path.name)[0] == by_index


def test_what_needs_an_image_is_rejected_with_that_reason(shared_data, tmp_path):
    with_image = json.loads((shared_data / "native" / "medxpertqa_image_row.jsonl").read_text().splitlines()[0])
    rows = [{**with_image, "id": "Text-0", "images": []}, with_image, {**with_image, "images": None, "image": "x.png"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions, rejections = read_native("medxpertqa", tmp_path / "rows.jsonl")
    assert [question.id for question in questions] == ["medxpertqa/rows/Text-0"]
    assert {reason for _, reason in rejections} <= {"needs an image", "id occurs twice"} and len(rejections) == 2
    assert rejections[0] == ("medxpertqa/rows/MM-0", "needs an image")
