"""The adapters: what they compute, where they begin, what comes out of them for transformers and for PEFT."""

import copy
import json

import pytest
import torch
from conftest import call_main, metrics_of, weights
from safetensors import safe_open
from test_grpo import SMALL, make_run
from test_sft import compare_runs
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

import evaluate
import fsdp_utils
import grpo
import lora
import sft
from tools.cli import UserError
from tools.run import read_jsonl, write_jsonl

TOKENS = torch.arange(12).view(2, 6)
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def base_model(config=Qwen2Config, **how):
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config(**SIZES, **how), attn_implementation="sdpa").eval()


def adapted(model, rank=2, alpha=6.0, moved=True):
    """A copy of the model with adapters, `moved` away from where they begin."""
    model = copy.deepcopy(model)
    lora.add_adapters(model, rank, alpha)
    lora.reset_adapters(model, 0)
    if moved:
        with torch.no_grad():
            for number, (_, layer) in enumerate(lora.adapters(model)):
                layer.lora_B.normal_(generator=torch.Generator().manual_seed(number))
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("config", [Qwen2Config, Qwen3Config, LlamaConfig])
def test_it_begins_at_the_base_and_trains_the_adapters_of_every_linear_layer_alone(config):
    base = base_model(config)
    model = adapted(base, moved=False)
    assert torch.equal(logits(model), logits(base))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    linear = {
        name
        for name, module in base.model.layers.named_modules(prefix="model.layers")
        if type(module).__name__ == "Linear"
    }
    assert len(linear) == 7 * 2 and trained == {f"{name}.{part}" for name in linear for part in ("lora_A", "lora_B")}
    assert {parameter.dtype for _, parameter in model.named_parameters() if parameter.requires_grad} == {torch.float32}


def test_an_adapted_layer_is_the_formula():
    model = adapted(base_model(), rank=3, alpha=6.0)
    for _, layer in lora.adapters(model):
        x = torch.randn(5, layer.in_features, dtype=torch.float64)
        layer.double()
        wanted = layer.weight @ x[0] + 6.0 / 3 * layer.lora_B @ (layer.lora_A @ x[0])
        wanted = wanted if layer.bias is None else wanted + layer.bias
        torch.testing.assert_close(layer(x)[0], wanted)


def test_the_merged_model_computes_what_the_adapted_one_does():
    base = base_model()
    model = adapted(base)
    assert not torch.allclose(logits(model), logits(base), atol=1e-3)
    whole = base_model()
    whole.load_state_dict(lora.merged(model, model.state_dict(), torch.float32))
    torch.testing.assert_close(logits(whole), logits(model), atol=1e-5, rtol=1e-5)
    with lora.without_adapters(model):
        assert torch.equal(logits(model), logits(base))
    torch.testing.assert_close(logits(whole), logits(model), atol=1e-5, rtol=1e-5)


def test_peft_reads_the_adapter(tmp_path):
    peft = pytest.importorskip("peft")
    base = base_model()
    model = adapted(base, rank=4, alpha=6.0)
    base.save_pretrained(tmp_path / "base")
    lora.save_adapter(model, model.state_dict(), str(tmp_path / "base"), tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-5, rtol=1e-5)
    assert peft.PeftConfig.from_pretrained(tmp_path / "adapter").base_model_name_or_path == str(tmp_path / "base")


def test_adapters_begin_the_same_from_the_same_seed_and_unlike_each_other():
    first, again = (adapted(base_model(), moved=False).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = copy.deepcopy(base_model())
    lora.add_adapters(other, 2, 6.0)
    lora.reset_adapters(other, 1)
    a = [name for name in first if name.endswith("lora_A")]
    assert not any(torch.equal(first[name], other.state_dict()[name]) for name in a)
    values = {tuple(first[name].flatten().tolist()) for name in a}
    assert len(values) == len(a)


@pytest.mark.parametrize("rank", [0, -1, 17])
def test_a_rank_that_a_layer_cannot_have_is_refused(rank):
    with pytest.raises(UserError, match=f"--lora {rank}: the rank must be from 1 to 16"):
        lora.add_adapters(base_model(), rank, 8.0)


# ----------------------------------------------------------------------------------------------------------- the stages

SFT = "--lora 4 --lora-alpha 32 --lr 2e-2 --steps 8 --batch-size 8 --save-every 3 --samples 0".split()


@pytest.fixture
def run(tmp_path, cold_started, questions):
    folder = make_run(tmp_path / "run", cold_started, questions)
    (folder / "cot.jsonl").write_bytes((cold_started / "cot.jsonl").read_bytes())
    return folder


def test_the_cold_start_trains_adapters_and_leaves_an_ordinary_model(run, tiny):
    peft = pytest.importorskip("peft")
    flags = ["--run", run, "--model", tiny, *SFT]
    call_main(sft, *flags, "--output", "out")
    losses = [row["loss"] for row in metrics_of(run, "out")]
    assert losses[-1] < 0.5 * losses[0]
    before, after = weights(tiny), weights(run / "out")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")} and len(changed) == 7 * 2
    whole = AutoModelForCausalLM.from_pretrained(run / "out")
    base = AutoModelForCausalLM.from_pretrained(
        json.loads((run / "out/adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    )
    theirs = peft.PeftModel.from_pretrained(base, run / "out" / "adapter")
    torch.testing.assert_close(logits(theirs.eval()), logits(whole.eval()), atol=1e-4, rtol=1e-4)

    call_main(sft, *flags, "--output", "half", "--save-dtype", "bfloat16")
    half = weights(run / "half")
    assert all(torch.equal(half[name], after[name].bfloat16()) for name in after)


def test_stopped_it_keeps_adapters_alone_and_resumes_exactly(run, tiny, monkeypatch):
    flags = ["--run", run, "--model", tiny, *SFT]
    call_main(sft, *flags, "--output", "straight")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(fsdp_utils.Job, "stopping", lambda _: True)
        call_main(sft, *flags, "--output", "stopped")
    names = set()
    for file in (run / "stopped.state").rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            names |= set(opened.keys())
    assert names and all("lora_" in name for name in names)
    for other, message in (
        (["--lora", 8], "made with --lora 4, now it is 8"),
        (["--lora-alpha", 8], "made with --lora-alpha 32.0, now it is 8.0"),
        (["--model", run / "sft"], "made from another model"),
    ):
        with pytest.raises(UserError, match=message):
            call_main(sft, *flags, "--output", "stopped", *other)
    call_main(sft, *flags, "--output", "stopped")
    compare_runs(run, run, "stopped", "straight")


def test_both_stages_of_rl_train_adapters(run):
    for number, before in ((1, "sft"), (2, "rl1")):
        call_main(grpo, "--stage", number, "--run", run, "--steps", 2, *SMALL, "--lora", 2, "--kl", 0.01)
        rows = metrics_of(run, f"rl{number}")
        assert all(row["logprob_gap"] < 1e-5 and row["grad_norm"] > 0 for row in rows)
        assert not torch.equal(
            *(weights(run / name)["model.layers.0.mlp.up_proj.weight"] for name in (before, f"rl{number}"))
        )
        config = json.loads((run / f"rl{number}" / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(run / before) and config["lora_alpha"] == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora", 0], "argument --lora: 0 must be at least 1"),
        (["--lora", 65], "--lora 65: the rank must be from 1 to 64, the width of the narrowest layer"),
        (["--lora-alpha", 8], "--lora-alpha 8 scales adapters, and there are none; add --lora RANK"),
    ],
)
def test_flags_that_cannot_be_are_one_line(run, tiny, flags, message):
    for stage, more in ((sft, ["--model", tiny]), (grpo, ["--stage", 1])):
        with pytest.raises(UserError) as caught:
            call_main(stage, "--run", run, "--output", "out", *more, *flags)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_adapters_are_no_model_to_start_from(run, tiny):
    lora_folder = run / "adapter"
    lora_folder.mkdir()
    (lora_folder / "adapter_config.json").write_text("{}")
    with pytest.raises(
        UserError, match="adapter holds adapters alone; give the merged model, which is the folder around"
    ):
        call_main(sft, "--run", run, "--model", lora_folder, "--output", "out")


@pytest.mark.parametrize("how", [[], ["--lora", 2]])
def test_a_training_under_way_can_be_evaluated(run, questions, monkeypatch, how):
    """Its newest checkpoint after one step answers as the result of a training of one step does."""
    write_jsonl(run / "heldout.jsonl", [question.to_json() for question in questions])
    flags = ["--stage", 1, "--run", run, *SMALL, *how, "--lr", 1e-2]
    asked = ["--run", run, "--score", "loglikelihood", "--model"]
    call_main(grpo, *flags, "--steps", 1, "--output", "one")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(fsdp_utils.Job, "stopping", lambda _: True)
        call_main(grpo, *flags, "--steps", 3)
    call_main(evaluate, *asked, "so far=rl1.state", "one=one", "before=sft")
    so_far, one, before = (
        torch.tensor(
            [list(row["logprobs"].values()) for row in read_jsonl(run / "eval" / "heldout" / f"{label}.jsonl")]
        )
        for label in ("so far", "one", "before")
    )
    torch.testing.assert_close(so_far, one, atol=1e-4, rtol=0)
    assert (so_far - before).abs().max() > 1e-2
    with pytest.raises(UserError, match="rl2.state holds no checkpoint: the training has not saved one yet, or is fin"):
        call_main(evaluate, *asked, "x=rl2.state")
    (run / "sft" / "config.json").write_text((run / "sft" / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="rl1.state was made from another model; put that back"):
        call_main(evaluate, *asked, "other=rl1.state")
