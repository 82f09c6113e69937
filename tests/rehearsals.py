"""The large recipes from end to end, without hub, wiki, language model and GPU: `bash run.sh RECIPE rehearse`.

    python tests/rehearsals.py 7b        # or 32b, 1gpu; all three without a name; minutes each
    .ci/rehearsals                       # the same, after the installation of what the tests need

Stand-ins on loopback serve the small encyclopedia as a wiki, invented questions and small models under the names and in
the layouts of the hub, and a chat model that answers every kind of call; two processes stand in for GPUs.
"""

import argparse
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import urllib.parse
from hashlib import sha256
from itertools import islice
from pathlib import Path
from string import ascii_uppercase

PROJECT = Path(__file__).parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from hub import Hub, Loopback, QuietHandler  # noqa: E402

from wiki.mediawiki import read_dump  # noqa: E402

ENCYCLOPEDIA = PROJECT / "data" / "encyclopedia.xml"
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


class Exams:
    """Invented questions, each about another passage of the small encyclopedia: what is it about?"""

    def __init__(self):
        pages = [page for page in read_dump(ENCYCLOPEDIA) if not page.redirect]
        lines = [(page.title, line) for page in pages for line in page.wikitext.split("\n")]
        self.passages = iter([(title, plain(line)) for title, line in lines if 150 < len(line) < 2000])
        self.titles, self.rng = [page.title for page in pages], random.Random(0)

    def take(self, layout, count=30, options=4, ask="What does this describe? "):
        """Rows as `layout(number, question, texts of the options, index of the right one)` makes them."""
        rows = []
        for number, (title, passage) in enumerate(islice(self.passages, count), 1):
            texts, right = self.rng.sample(self.titles, options), self.rng.randrange(options)
            if title not in texts:
                texts[right] = title
            rows.append(layout(number, ask + passage.replace(title, "it"), texts, texts.index(title)))
        assert len(rows) == count
        return rows


def plain(wikitext):
    return re.sub(r"\[\[|\]\]|'{2,3}", "", wikitext)


def lettered(texts):
    return dict(zip(ascii_uppercase, texts))


def columns(names, texts):
    return dict(zip(names.split(), texts))


def careqa(number, question, texts, right):
    row = {"exam_id": 26.0, "question": question, **columns("op1 op2 op3 op4", texts), "cop": right + 1.0}
    return row | {"year": 2024.0, "category": "Medicine", "unique_id": f"u{number}"}


def jmed(number, question, texts, right):
    row = {"diagId": number, "final_question": question, "final_options": json.dumps({"options": lettered(texts)})}
    return row | {"final_correct_answer": f"['{ascii_uppercase[right]}']"}


def medbullets(number, question, texts, right):
    row = {"link": f"https://example.org/{number}", "question": question, **columns("opa opb opc opd ope", texts)}
    return row | {"answer_idx": ascii_uppercase[right], "answer": texts[right], "explanation": ""}


def medmcqa(number, question, texts, right):
    row = {"id": f"m{number}", "question": question, "cop": right, **columns("opa opb opc opd", texts), "exp": ""}
    return row | {"choice_type": "single", "subject_name": "Medicine", "topic_name": None}


def medqa(number, question, texts, right):
    row = {"question": question, "options": lettered(texts), "answer": texts[right]}
    return row | {"answer_idx": ascii_uppercase[right], "meta_info": "step1"}


def medxpertqa(number, question, texts, right):
    row = {"id": f"Text-{number}", "question": question, "options": lettered(texts), "label": ascii_uppercase[right]}
    return row | {"medical_task": "Diagnosis", "body_system": "Nervous", "question_type": "Reasoning"}


def pubmedqa(number, question, texts, right):
    row = {"pubid": number, "question": f"Is it {texts[0]}?", "context": {"contexts": [question], "labels": ["AIM"]}}
    return row | {"long_answer": "", "final_decision": "no" if right else "yes"}


def mmlu_pro(category, begun):
    """`begun`: how many rows of other categories stand before."""

    def layout(number, question, texts, right):
        row = {"question_id": begun + number, "question": question, "options": texts, "answer": ascii_uppercase[right]}
        return row | {"answer_index": right, "cot_content": "", "category": category, "src": ""}

    return layout


def cmexam(number, question, texts, right):
    """Some have several answers, as there."""
    options = "\\n".join(f"{letter} {text}" for letter, text in lettered(texts).items())
    answer = "AC" if number % 12 == 0 else ascii_uppercase[right]
    return {"Question": question, "Options": options, "Answer": answer, "Explanation": ""}


def datasets():
    """The repositories of clean/formats.py in the hub's layouts."""
    take, chinese = Exams().take, "以下描述的是什么？"
    mmlu = take(mmlu_pro("biology", 0), options=10) + take(mmlu_pro("health", 30), options=8)
    contents = {
        "HPAI-BSC/CareQA": {
            "README.md": card(CareQA_en={"test": "CareQA_en.json"}, CareQA_es={"test": "CareQA_es.json"}),
            "CareQA_en.json": json.dumps(take(careqa)).encode(),
            "CareQA_es.json": json.dumps(take(careqa, count=2)).encode(),
        },
        "jdh-algo/JMED": {"README.md": b"# JMED\n", "JMED.jsonl": jsonl(take(jmed, options=5, ask=chinese))},
        "LangAGI-Lab/medbullets_op5": {"data/test-00000-of-00001.parquet": parquet(take(medbullets, options=5))},
        "openlifescienceai/medmcqa": {
            "data/train-00000-of-00001.parquet": parquet(take(medmcqa)),
            "data/validation-00000-of-00001.parquet": parquet(take(medmcqa)),
        },
        "GBaker/MedQA-USMLE-4-options": {
            "README.md": b"---\nlicense: cc-by-4.0\n---\n",
            "phrases_no_exclude_train.jsonl": jsonl(take(medqa)),
            "phrases_no_exclude_test.jsonl": jsonl(take(medqa)),
        },
        "TsinghuaC3I/MedXpertQA": {
            "README.md": card(
                MM={"dev": "MM/dev.jsonl", "test": "MM/test.jsonl"},
                Text={"dev": "Text/dev.jsonl", "test": "Text/test.jsonl"},
            ),
            **{
                f"{config}/{split}.jsonl": jsonl(take(medxpertqa, count=12, options=10))
                for config in ("MM", "Text")
                for split in ("dev", "test")
            },
        },
        "qiaojin/PubMedQA": {
            "README.md": card(
                pqa_artificial={"train": "pqa_artificial/train-*"}, pqa_labeled={"train": "pqa_labeled/train-*"}
            ),
            "pqa_artificial/train-00000-of-00001.parquet": parquet(take(pubmedqa)),
            "pqa_labeled/train-00000-of-00001.parquet": parquet(take(pubmedqa)),
        },
        "TIGER-Lab/MMLU-Pro": {
            "data/test-00000-of-00001.parquet": parquet(mmlu),
            "data/validation-00000-of-00001.parquet": parquet(mmlu[:3]),
        },
        "fzkuji/CMExam": {
            "README.md": b"---\nlicense: apache-2.0\n---\n",
            **{f"{split}.json": jsonl(take(cmexam, options=5, ask=chinese)) for split in ("train", "valid", "test")},
        },
    }
    return {f"datasets/{name}": files for name, files in contents.items()}


def models():
    """Random models of one layer under the names of the recipes, each with its weights in several files.

    They write any token, and end within a few dozen of them, as a trained model ends a turn.
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

    from data.make_base import make_tokenizer

    texts = [plain(page.wikitext) for page in read_dump(ENCYCLOPEDIA)]
    tokenizer, repositories = make_tokenizer(texts[:300], [], 2000), {}
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
            end_soon(model, tokenizer.eos_token_id)
            model.save_pretrained(folder, max_shard_size="40KB")
            tokenizer.save_pretrained(folder)
            repositories[name] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return repositories


def end_soon(model, end):
    """Let a model write the token `end` at every position with a probability of about 6%, whatever the prompt.

    The first of its 16 dimensions is 5 for every token, all others are near 0: the last norm makes nearly 4 of it
    (5 over a root mean square of 5 / 4), so that 1.25 there raises this token's logit by nearly 5 above 2,047 others.
    """
    embedding, output = model.get_input_embeddings().weight.data, model.get_output_embeddings().weight.data
    embedding[:, 0] = 5
    output[end, 0] += 1.25


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


def rehearse(recipe, folder, repositories):
    """`bash run.sh RECIPE rehearse` in a folder, with stand-ins for all that is elsewhere; its exit status."""
    wiki = Server(wiki_of(ENCYCLOPEDIA))
    with Hub(repositories) as hub_url, wiki as wiki_url, Server(chat_model) as chat_url:
        elsewhere = {"HF_ENDPOINT": hub_url, "WIKI_API": f"{wiki_url}/w/api.php", "TEACHER_BASE_URL": f"{chat_url}/v1"}
        places = {"HF_HOME": f"{folder}/hf", "RUN": f"{folder}/{recipe}", "GPUS": "2", "CUDA_VISIBLE_DEVICES": ""}
        usual = {"CONTACT": "you@example.org", "TEACHER": "openai:stand-in", "VERIFIER": "openai:another"}
        if recipe == "1gpu":  # it needs none of these
            usual = {}
        environment = os.environ | {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"} | elsewhere | places | usual
        return subprocess.run(["bash", "run.sh", recipe, "rehearse"], cwd=PROJECT, env=environment).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE", help="7b, 32b, 1gpu; all of them")
    parser.add_argument("--folder", help="for runs and downloads, which then stay; none: one that is deleted")
    args = parser.parse_args()
    repositories, told = datasets() | models(), []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in args.recipes:
            before = os.times()
            failed = rehearse(recipe, args.folder or folder, repositories)
            told.append(f"{recipe}: {'failed after' if failed else 'came to its end in'} {spent(before)}")
            print("", *told, sep="\n", flush=True)
            if failed:
                sys.exit(1)


def spent(before):
    """Seconds since `before`, of the clock and of all processes that have ended."""
    now = os.times()
    cpu = now.children_user + now.children_system - before.children_user - before.children_system
    return f"{now.elapsed - before.elapsed:.0f} s, {cpu:.0f} s of CPU time"


if __name__ == "__main__":
    main()
