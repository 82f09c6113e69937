"""The large recipes from end to end, without hub, wiki, language model and GPU: `bash run.sh RECIPE rehearse`.

    python tests/rehearsals.py 7b        # or 32b, 1gpu; all three without a name; minutes each

Stand-ins on loopback serve the small encyclopedia as a wiki, excerpts of every dataset and small models under the names
and in the layouts of the hub, and a chat model that answers every kind of call; two processes stand in for GPUs.
"""

import argparse
import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from hashlib import sha256
from pathlib import Path

PROJECT = Path(__file__).parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from hub import Hub, Loopback, QuietHandler  # noqa: E402

NATIVE = PROJECT.parent / "shared" / "data" / "native"
RECIPES = ("7b", "32b", "1gpu")

# ----------------------------------------------------------------------------------------------------------- the hub


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(rows):
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def card(**configs):
    """A dataset's README: config -> {split: path}."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [line for split, path in splits.items() for line in (f"  - split: {split}", f"    path: {path}")]
    return "\n".join([*lines, "---", ""]).encode()


def native(name):
    """The rows of an excerpt in the authors' format."""
    text = (NATIVE / name).read_text(encoding="utf-8-sig")
    if name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if name.endswith(".jsonl") or not text.lstrip().startswith(("[", "{\n")):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text)


def pubmedqa_rows():
    """As on the hub: contexts in a structure of their own, ids as numbers."""
    return [
        {
            "pubid": int(id),
            "question": row["QUESTION"],
            "context": {"contexts": row["CONTEXTS"], "labels": row["LABELS"]},
            "long_answer": row["LONG_ANSWER"],
            "final_decision": row["final_decision"],
        }
        for id, row in native("pubmedqa_ori_pqal.json").items()
    ]


def datasets():
    """The repositories of clean/formats.py in the hub's layouts."""
    medmcqa = [{**row, "cop": row["cop"] - 1} for row in native("full/medmcqa_dev.json")[:80]]
    pubmed, cmexam = pubmedqa_rows(), native("cmexam.csv")
    mmlu = native("mmlu_pro_biology.jsonl") + native("mmlu_pro_health.jsonl")
    xpert, half = native("medxpertqa_text.jsonl"), len(pubmed) // 2
    contents = {
        "HPAI-BSC/CareQA": {
            "README.md": card(CareQA_en={"test": "CareQA_en.json"}, CareQA_es={"test": "CareQA_es.json"}),
            "CareQA_en.json": json.dumps(native("careqa.jsonl")).encode(),
            "CareQA_es.json": json.dumps(native("careqa.jsonl")).encode(),
        },
        "jdh-algo/JMED": {"README.md": b"# JMED\n", "JMED.jsonl": jsonl(native("jmed_adjusted_5_options.json"))},
        "LangAGI-Lab/medbullets_op5": {"data/test-00000-of-00001.parquet": parquet(native("medbullets_op5.csv"))},
        "openlifescienceai/medmcqa": {
            "data/train-00000-of-00001.parquet": parquet(medmcqa[20:]),
            "data/validation-00000-of-00001.parquet": parquet(medmcqa[:20]),
        },
        "GBaker/MedQA-USMLE-4-options": {
            "README.md": b"---\nlicense: cc-by-4.0\n---\n",
            "phrases_no_exclude_train.jsonl": jsonl(native("full/medqa_train_25.jsonl")),
            "phrases_no_exclude_test.jsonl": jsonl(native("medqa.jsonl")),
        },
        "TsinghuaC3I/MedXpertQA": {
            "README.md": card(
                MM={"dev": "MM/dev.jsonl", "test": "MM/test.jsonl"},
                Text={"dev": "Text/dev.jsonl", "test": "Text/test.jsonl"},
            ),
            **{f"{config}/{split}.jsonl": jsonl(xpert) for config in ("MM", "Text") for split in ("dev", "test")},
        },
        "qiaojin/PubMedQA": {
            "README.md": card(
                pqa_artificial={"train": "pqa_artificial/train-*"}, pqa_labeled={"train": "pqa_labeled/train-*"}
            ),
            "pqa_artificial/train-00000-of-00001.parquet": parquet(pubmed[half:]),
            "pqa_labeled/train-00000-of-00001.parquet": parquet(pubmed[:half]),
        },
        "TIGER-Lab/MMLU-Pro": {
            "data/test-00000-of-00001.parquet": parquet(mmlu),
            "data/validation-00000-of-00001.parquet": parquet(mmlu[:3]),
        },
        "fzkuji/CMExam": {
            "README.md": b"---\nlicense: apache-2.0\n---\n",
            **{f"{split}.json": jsonl(cmexam) for split in ("train", "valid", "test")},
        },
    }
    return {f"datasets/{name}": files for name, files in contents.items()}


def models():
    """Random models of one layer under the names of the recipes, each with its weights in several files."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

    from data.make_base import make_tokenizer

    texts = [row["question"] for row in native("full/medqa_test.jsonl")[:200]]
    texts += [row["Question"] + row["Options"] for row in native("cmexam.csv")]
    tokenizer, repositories = make_tokenizer(texts, [], 2000), {}
    for name, config, tied in (
        ("Qwen/Qwen2.5-7B-Instruct", Qwen2Config, False),
        ("Qwen/Qwen2.5-1.5B-Instruct", Qwen2Config, True),
        ("Qwen/Qwen3-32B", Qwen3Config, False),
    ):
        size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16}
        size |= {"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 16384}
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        torch.manual_seed(0)
        made = config(vocab_size=2048, **size, **ends, bos_token_id=None, tie_word_embeddings=tied)
        with tempfile.TemporaryDirectory() as folder:
            model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
            model.save_pretrained(folder, max_shard_size="40KB")
            tokenizer.save_pretrained(folder)
            repositories[name] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return repositories


# ---------------------------------------------------------------------------------------------- the wiki, the teacher


class Server(Loopback):
    """Answers what is posted by `answer(text of the body)`, JSON data."""

    def __init__(self, answer):
        super().__init__(Handler)
        self.answer = answer


class Handler(QuietHandler):
    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = json.dumps(self.server.answer(asked)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def wiki_of(dump):
    """What an api.php answers that holds the pages of a dump."""
    from wiki.mediawiki import read_dump

    pages = {page.title: page for page in read_dump(dump)}

    def answer(text):
        form = dict(urllib.parse.parse_qsl(text))
        found = [pages.get(title) or title for title in form["titles"].split("|")]
        return {"query": {"pages": [described(page, form["prop"]) for page in found]}}

    def described(page, what):
        if isinstance(page, str):
            return {"title": page, "missing": True}
        if what == "redirects":
            redirects = [{"title": other.title} for other in pages.values() if other.redirect == page.title]
            return {"title": page.title, "redirects": redirects}
        revision = {"revid": page.revision, "slots": {"main": {"content": page.wikitext}}}
        redirect = {"redirect": True} if page.redirect else {}
        return {"title": page.title, "pageid": page.page, "revisions": [revision], **redirect}

    return answer


def chat_model(text):
    """A chat completion that is of use for every kind of call."""
    body = json.loads(text)
    words = reply(body["messages"], body["seed"])
    usage = {"completion_tokens": len(words) // 4 + 1, "total_tokens": (len(text) + len(words)) // 4 + 1}
    return {"choices": [{"message": {"content": words}, "finish_reason": "stop"}], "usage": usage}


def reply(chat, seed):
    system, user = chat[0]["content"], chat[-1]["content"]
    options = re.findall(r"^([A-Z])\. (.*)$", user, re.MULTILINE)
    if system.startswith("You sort the pages"):
        return "none"
    if system.startswith("You check a fact"):
        return "yes"
    if system.startswith("You read medical facts"):
        return fact(json.loads(user))
    if system.startswith("Write a short clinical vignette"):
        findings = [line.partition(": ")[2] for line in user.splitlines()]
        return f"A 40-year-old man comes to the clinic. He has {', '.join(findings)}."
    if system.startswith("Grade the difficulty"):
        return ("easy", "moderate", "difficult")[chance(user) % 3]
    if system.startswith("You are a senior physician"):
        return draft(chat)
    if "its conclusion was taken out" in system:
        reasoning = user.split("<reasoning>")[1]
        letter = next((letter for letter, text in options if text in reasoning), "-")
        return f"<think>It ends there.</think><answer>{letter}</answer>"
    if "<reasoning>" in user:
        return "<think>All is well.</think><answer>A</answer>"
    return f"<think>I choose.</think><answer>{options[seed % len(options)][0]}</answer>"  # one of five trials is right


def chance(text):
    return int(sha256(text.encode()).hexdigest(), 16)


def fact(page):
    """What a disease's page says of fever, copied."""
    told = [sentence for sentence in re.split(r"(?<=\.)\s+", page["text"]) if re.search(r"\bfever\b", sentence)]
    if not told or page["type"] != "disease":
        return "none"
    return json.dumps({"subject": page["title"], "relation": "symptom", "object": "fever", "sentence": told[0]})


def draft(chat):
    """Reasoning to the true answer; the first draft ends elsewhere for every other question, so that it is refined."""
    asked = chat[3]["content"]  # after an example
    letter, text = re.findall(r"^Answer: ([A-Z])\. (.*)$", asked, re.MULTILINE)[-1]
    if len(chat) == 4 and chance(asked) % 2:
        letter = "B" if letter == "A" else "A"
    return f"<think>The findings fit {text} best. I assume that nothing else was seen.</think><answer>{letter}</answer>"


# ------------------------------------------------------------------------------------------------------------ the runs


def rehearse(recipe, folder, **environment):
    """`bash run.sh RECIPE rehearse` in a folder, with stand-ins for all that is elsewhere."""

    wiki, hub = Server(wiki_of(PROJECT / "data/encyclopedia.xml")), Hub(datasets() | models())
    with hub as hub_url, wiki as wiki_url, Server(chat_model) as chat_url:
        elsewhere = {"HF_ENDPOINT": hub_url, "WIKI_API": f"{wiki_url}/w/api.php", "TEACHER_BASE_URL": f"{chat_url}/v1"}
        places = {"HF_HOME": f"{folder}/hf", "RUN": f"{folder}/{recipe}", "GPUS": "2", "CUDA_VISIBLE_DEVICES": ""}
        usual = {"CONTACT": "you@example.org", "TEACHER": "openai:stand-in", "VERIFIER": "openai:another"}
        if recipe == "1gpu":  # it needs none of these
            usual = {}
        environment = (
            os.environ | {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"} | elsewhere | places | usual | environment
        )
        return subprocess.run(["bash", "run.sh", recipe, "rehearse"], cwd=PROJECT, env=environment)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE", help="7b, 32b, 1gpu; all of them")
    parser.add_argument("--folder", help="for runs and downloads, which then stay; none: one that is deleted")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for recipe in args.recipes:
            if rehearse(recipe, args.folder or folder).returncode:
                sys.exit(f"{recipe}: the rehearsal failed")


if __name__ == "__main__":
    main()
