"""Two processes train what one process trains; checkpoints and saved models are whole, whoever reads them."""

import json
import re
import resource
import signal
import warnings

import pytest
import stages
import torch
from conftest import PROJECT, call_main, metrics_of, python, weights
from test_grpo import SMALL, make_run
from test_policy import EXAMPLES
from test_rollout import make
from test_sft import compare_runs
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.run import parse_args
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from two_processes import ADAPTERS, CPU, PROMPTS, one_step, training

import fsdp_utils
import grpo
import sft
from policy import Example, Policy, load_policy, score
from rollout import Sampler
from tools.cli import UserError
from tools.run import write_jsonl

WEIGHTS = [0.5, -2.0, 1.0, 0.25, -1.0]
SFT = "--steps 3 --batch-size 5 --lr 1e-3 --validation 0.15 --validate-every 2 --save-every 2".split()
GRPO = ["--steps", 2, "--save-every", 1, *SMALL, "--lr", 1e-4]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny):
    """One model with tied embeddings, one without (its embeddings and output layer differ)."""
    folder = tmp_path_factory.mktemp("untied")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    make("qwen2-untied", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"tied": tiny, "untied": folder, "one-idle": tiny, "replicas": tiny, "offloaded": folder, "adapters": tiny}


@pytest.fixture(scope="module")
def two(tmp_path_factory, models, cold_started, questions, chats):
    """The folder that the two processes of a job leave."""
    folder = tmp_path_factory.mktemp("two")
    run = prepare(folder / "run", cold_started, questions, chats)
    launched = [
        ("sft", ["--run", run, "--model", models["tied"], "--output", "sft2", *SFT]),
        ("grpo", ["--run", run, "--stage", 1, *GRPO]),
        ("grpo", ["--run", run, "--stage", 2, "--round-steps", 1, "--mine-budget", 9, *GRPO]),
    ]
    stopped = ["--run", run, "--model", models["tied"], "--output", "sft3", *SFT, "--pack"]
    lost = ["--run", run, "--stage", 1, "--output", "lost", *GRPO]
    case = {"folder": folder, "stages": launched, "stopped": stopped, "lost": lost, **models}
    (folder / "case.json").write_text(json.dumps(case, default=str))
    statuses = stages.run_on_two(["two_processes.py", folder / "case.json"], folder, timeout=900)
    # At the very end one process kills itself: the job has failed, and the survivor has said why.
    assert statuses == [1, -signal.SIGKILL], (folder / "0" / "stderr").read_text()[-5000:]
    return folder


def prepare(folder, cold_started, questions, chats):
    run = make_run(folder, cold_started, questions)
    write_jsonl(run / "cot.jsonl", chats)
    return run


def distance(found, expected):
    """Relative distance of two sets of tensors."""
    assert found.keys() == expected.keys()
    difference = sum((found[name] - expected[name]).double().pow(2).sum() for name in expected)
    return (difference / sum(value.double().pow(2).sum() for value in expected.values())).sqrt().item()


# ------------------------------------------------------------------------------------------------- two processes as one


@pytest.mark.parametrize("name", ["tied", "untied", "one-idle", "replicas", "offloaded", "adapters"])
def test_two_processes_train_what_one_trains(two, models, name, tmp_path):
    """Gradient, its norm, weights after steps; samples before and after a step; the checkpoint's way back."""
    how = {"adapters": ADAPTERS} if name == "adapters" else {}
    gradient, expected = training(models[name], tmp_path, EXAMPLES, WEIGHTS, **how)
    results = json.loads((two / name / "results.json").read_text())
    assert distance(torch.load(two / name / "gradient.pt"), gradient) < 1e-5
    assert results["norm"] == pytest.approx(expected["norm"], rel=1e-5)
    assert results["samples_before"] == expected["samples_before"]
    assert results["samples_after"] == expected["samples_after"]
    assert results["extra"] == expected["extra"] == {"step": 1, "note": [1, "x"]}
    assert results["noise_repeats"] and expected["noise_repeats"]
    assert distance(weights(two / name / "second"), weights(tmp_path / "second")) < 1e-5
    start = weights(models[name])
    assert distance(weights(tmp_path / "second"), start) > 1e-3  # there was something to get wrong
    for folder in (two / name, tmp_path):
        assert distance(weights(folder / "again"), weights(folder / "second")) == 0
    share = 1 if name == "replicas" else 2
    assert (
        expected["held"] / share <= results["held"] < expected["held"] / share + 1000
    )  # rows that do not come out even


@pytest.mark.parametrize("name", ["tied", "untied", "adapters"])
def test_a_saved_model_is_an_ordinary_folder(two, models, name):
    folder = two / name / "second"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    tied = name != "untied"
    assert ("lm_head.weight" not in weights(folder)) == tied
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) == tied
    assert (
        AutoTokenizer.from_pretrained(folder).chat_template == AutoTokenizer.from_pretrained(models[name]).chat_template
    )
    assert weights(folder).keys() == weights(models[name]).keys()
    half = weights(two / name / "half")
    assert all(torch.equal(value.bfloat16(), half[key]) for key, value in weights(folder).items())
    assert model.config.dtype == torch.float32
    assert AutoConfig.from_pretrained(two / name / "half").dtype == torch.bfloat16
    assert not list(folder.parent.glob("*.partial"))


@pytest.mark.parametrize("name", ["tied", "adapters"])
def test_one_process_goes_on_from_two(two, models, tmp_path, name):
    """A checkpoint of two processes, read by one: weights, optimiser and the caller's data. It holds data only."""
    adapters = ADAPTERS if name == "adapters" else None
    policy, tokenizer = fsdp_utils.load_sharded(models[name], CPU, adapters=adapters)
    optimizer = torch.optim.AdamW(policy.trained(), lr=5.0, fused=True)
    state = fsdp_utils.TrainingState(two / name / "state", policy, optimizer)
    assert state.load() == {"step": 1, "note": [1, "x"]}
    suffixes = {path.suffix for path in (two / name / "state").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".state", ".json"}
    assert optimizer.param_groups[0]["lr"] == 5.0  # settings come from the flags, not from the checkpoint
    optimizer.param_groups[0]["lr"] = 1e-3
    one_step(policy, optimizer, EXAMPLES, WEIGHTS)
    fsdp_utils.save_hf(policy, tokenizer, tmp_path / "second")
    assert distance(weights(tmp_path / "second"), weights(two / name / "second")) < 1e-5


def test_stages_of_two_processes_equal_those_of_one(two, models, tmp_path, cold_started, questions, chats):
    """The command lines of the cold start and both RL stages: same weights, same metrics, each step once."""
    run = prepare(tmp_path / "run", cold_started, questions, chats)
    call_main(sft, "--run", run, "--model", models["tied"], "--output", "sft2", *SFT)
    call_main(grpo, "--run", run, "--stage", 1, *GRPO)
    call_main(grpo, "--run", run, "--stage", 2, "--round-steps", 1, "--mine-budget", 9, *GRPO)
    for stage, before in (("sft2", models["tied"]), ("rl1", run / "sft"), ("rl2", run / "rl1")):
        found, expected = weights(two / "run" / stage), weights(run / stage)
        assert distance(found, expected) < 1e-5 < distance(expected, weights(before))
        rows = [metrics_of(folder, stage) for folder in (two / "run", run)]
        for one, other in zip(*rows, strict=True):
            for key in {"step", "loss", "grad_norm", "val_loss", "reward", "length", "entropy", "trained_tokens"} & {
                *other
            }:
                assert one[key] == pytest.approx(other[key], rel=1e-3, abs=2e-6), key
        assert not (two / "run" / f"{stage}.state").exists()
    assert (two / "run" / "ledger.jsonl").read_text() == (run / "ledger.jsonl").read_text()


def test_ranks_agree_on_stopping(two):
    """One of them got SIGTERM in step 1 of 3; both left, and went on: without packing the same weights again."""
    assert distance(weights(two / "run" / "sft3"), weights(two / "run" / "sft2")) < 1e-5
    assert [row["step"] for row in metrics_of(two / "run", "sft3")] == [1, 2, 3]
    assert not (two / "run" / "sft3.state").exists()


def test_a_rank_that_dies_takes_the_job_down(two):
    message = (two / "survivor.txt").read_text()
    assert message.startswith("rank 0 lost contact with another process, which died or left (")
    assert message.endswith("); the same command resumes from the last checkpoint") and "\n" not in message
    assert not (two / "run" / "lost").exists()


# ---------------------------------------------------------------------------------------------------------- one process


def test_gathered_sampling_is_plain_sampling(models):
    """For a plain module `gathered` does nothing; two processes' samples are compared above."""
    policy = Policy(load_policy(models["tied"])[0])
    options = {"max_new_tokens": 12, "stop_ids": [1]}
    plain = Sampler(policy.model).generate(PROMPTS, **options)
    with fsdp_utils.gathered(policy):
        assert Sampler(policy.model).generate(PROMPTS, **options) == plain


def test_a_crash_while_saving_leaves_the_checkpoint_before(models, tmp_path, monkeypatch):
    policy = Policy(load_policy(models["tied"])[0])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    state = fsdp_utils.TrainingState(tmp_path / "state", policy, optimizer)
    one_step(policy, optimizer, EXAMPLES, WEIGHTS)
    state.save(1, {"at": 1})
    kept = {name: value.clone() for name, value in policy.state_dict().items()}
    one_step(policy, optimizer, EXAMPLES, WEIGHTS)
    for function in ("dcp.save", "save_file", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"fsdp_utils.{function}", lambda *_, **__: 1 / 0)
            with pytest.raises((ZeroDivisionError, CheckpointException)):
                state.save(2, {"at": 2})
    assert state.load() == {"step": 1, "at": 1}
    assert all(torch.equal(kept[name], value) for name, value in policy.state_dict().items())
    one_step(policy, optimizer, EXAMPLES, WEIGHTS)
    state.save(3, {"at": 3})
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000003"]  # the older one is gone
    state.remove()
    assert not (tmp_path / "state").exists() and state.load() is None


def test_twenty_kills_at_random_moments_change_nothing(tmp_path, cold_started, questions, chats):
    """Stages that save at every step, killed anywhere: while loading, sampling, updating, saving, finishing."""
    flags = {
        "sft": ["--model", cold_started / "sft", *"--steps 4 --batch-size 6 --save-every 1 --samples 0".split()],
        "rl1": ["--stage", 1, "--steps", 3, "--save-every", 1, *SMALL],
        "rl2": ["--stage", 2, "--steps", 3, "--save-every", 1, "--round-steps", 2, "--mine-samples", 2, *SMALL],
    }
    flags["rl2"] += ["--lora", 2]
    flags["sft"] += ["--output", "again"]
    prepare(tmp_path / "start", cold_started, questions, chats)
    case = {"start": tmp_path / "start", "folder": tmp_path, "kills": 20, "flags": flags}
    (tmp_path / "case.json").write_text(json.dumps(case, default=str))
    result = stages.run(["killed_at_random.py", tmp_path / "case.json"])
    assert result.returncode == 0, result.stderr[-5000:]
    straight, *killed = sorted(tmp_path.glob("run-*"))
    assert killed
    for run in killed:
        for stage in ("again", "rl1", "rl2"):
            compare_runs(straight, run, stage)
            steps = [row["step"] for row in metrics_of(run, stage)]
            assert steps == list(range(1, 5 if stage == "again" else 4))
        assert (run / "ledger.jsonl").read_bytes() == (straight / "ledger.jsonl").read_bytes()


@pytest.mark.parametrize("script", ["sft.py", "grpo.py", "evaluate.py"])
def test_torchrun_leaves_run_dir_to_the_stage(script):
    """--run it takes for an abbreviation of an option of its own; --run-dir needs no -- before the script."""
    words = [script, "--run-dir", "runs/a b"]
    args = parse_args(["--nproc_per_node", "2", *words])
    assert [args.training_script, *args.training_script_args] == words


@pytest.mark.parametrize("world, shard_over, shape", [(16, 0, (16,)), (16, 16, (16,)), (16, 8, (2, 8)), (4, 1, (4, 1))])
def test_the_mesh_has_a_row_per_copy(monkeypatch, world, shard_over, shape):
    monkeypatch.setattr(fsdp_utils, "world_size", lambda: world)
    monkeypatch.setattr(fsdp_utils, "init_device_mesh", lambda device, shape, mesh_dim_names: (shape, mesh_dim_names))
    names = ("shard",) if len(shape) == 1 else ("replicate", "shard")
    assert fsdp_utils.process_mesh(CPU, shard_over) == (shape, names)
    for wrong in (3, -1, 32):
        with pytest.raises(UserError, match=f"--shard-over {wrong} does not divide the {world} processes"):
            fsdp_utils.process_mesh(CPU, wrong)


def test_a_checkpoint_of_one_process_warns_of_nothing(models, tmp_path):
    policy, _ = fsdp_utils.load_sharded(models["tied"], CPU, gradient_checkpointing=True)
    state = fsdp_utils.TrainingState(tmp_path / "state", policy, torch.optim.AdamW(policy.parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.save(1, {})
        state.load()


def test_a_full_disk_is_one_line_and_costs_no_checkpoint(tiny, tmp_path):
    """Libraries raise errors of their own classes where a write fails; here the kernel refuses large files."""
    policy, tokenizer = fsdp_utils.load_sharded(tiny, CPU)
    state = fsdp_utils.TrainingState(tmp_path / "state", policy, torch.optim.AdamW(policy.parameters()))
    state.save(1, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        for write in (lambda: state.save(2, {}), lambda: fsdp_utils.save_hf(policy, tokenizer, tmp_path / "sft")):
            with pytest.raises(
                UserError, match="partial cannot be written .*; mend that, and the same command resumes"
            ):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert state.load() == {"step": 1} and not (tmp_path / "sft").exists()


def test_a_gradient_is_clipped_to_its_norm():
    layer = torch.nn.Linear(3, 1)
    layer.weight.grad, layer.bias.grad = torch.full((1, 3), 2.0), torch.full((1,), 2.0)
    assert fsdp_utils.clip_grad_norm(layer, 100.0) == pytest.approx(4.0) and layer.bias.grad.item() == 2.0
    assert fsdp_utils.clip_grad_norm(layer, 1.0) == pytest.approx(4.0)
    assert fsdp_utils.clip_grad_norm(layer, 100.0) == pytest.approx(1.0, rel=1e-4)


def test_torchrun_starts_a_stage_on_a_run_dir(tmp_path):
    done = python(
        "-m", "torch.distributed.run", "--nproc_per_node", 2, "kg_build.py", "--run-dir", tmp_path / "a b", "--stats"
    )
    assert f"kg_build.py: error: run directory {tmp_path}/a b does not exist" in done.stderr


def test_torchrun_listens_nowhere_as_run_sh_starts_it(tmp_path):
    """The docs' commands for one machine set the same (test_house.py); the processes' own sockets: two_processes.py."""
    script = tmp_path / "listening.py"
    script.write_text(
        "import os, stages\n"
        "said = f\"{stages.listening(os.getppid())} {os.environ['TORCHELASTIC_USE_AGENT_STORE']}\\n\"\n"
        "os.write(1, said.encode())  # whole, whatever the other process prints\n"
    )
    environment, flags = re.search(
        r"^train=\(env (\S+) torchrun (.*) # on loopback", (PROJECT / "run.sh").read_text(), re.M
    ).groups()
    variables = dict([environment.split("=")], PYTHONPATH=str(PROJECT / "tests"))
    done = python("-m", "torch.distributed.run", *flags.split(), "--nproc_per_node", 2, script, **variables)
    assert done.stdout.splitlines() == ["set() False"] * 2, done.stderr


def test_one_process_needs_no_group():
    assert fsdp_utils.rank() == 0 and fsdp_utils.world_size() == 1
    assert fsdp_utils.gather_objects("x") == ["x"] and fsdp_utils.reduce_over_ranks([2.0], "sum", CPU) == [2.0]
    fsdp_utils.barrier()
    fsdp_utils.leave_processes()
    assert fsdp_utils.compute_dtype(CPU) == torch.float32
    assert fsdp_utils.compute_dtype(torch.device("cuda")) == torch.bfloat16 == fsdp_utils.compute_dtype(CPU, True)


def example_of(prompt, sample):
    return Example(prompt + sample.tokens, [False] * len(prompt) + [True] * len(sample.tokens))


@pytest.mark.parametrize("adapters", [None, ADAPTERS])
def test_one_cpu_process_computes_in_bfloat16_as_a_gpu_does(tiny, adapters):
    """What is trained stays in float32; what is frozen, the sampler and its cache are in bfloat16; near in what they
    compute to float32."""
    steps = {}
    for half in (False, True):
        policy, _ = fsdp_utils.load_sharded(tiny, CPU, adapters=adapters, bfloat16=half)
        dtypes = {parameter.requires_grad: parameter.dtype for parameter in policy.parameters()}
        assert dtypes == {True: torch.float32} | (
            {False: torch.bfloat16 if half else torch.float32} if adapters else {}
        )
        with fsdp_utils.gathered(policy):
            sampler = Sampler(policy.model)
            samples = sampler.generate(PROMPTS, samples=2, max_new_tokens=12, stop_ids=[1])
            kept = policy.model.model.embed_tokens.weight.dtype
        assert kept == (torch.bfloat16 if half else torch.float32)
        drawn = [(prompt, sample) for prompt, group in zip(PROMPTS, samples) for sample in group]
        scored = score(policy, [example_of(*one) for one in drawn], 200, CPU)
        gaps = torch.cat(scored) - torch.tensor([logprob for _, sample in drawn for logprob in sample.logprobs])
        assert gaps.abs().mean() < (0.02 if half else 1e-5)
        gradient, norm = one_step(policy, torch.optim.AdamW(policy.trained(), lr=1e-3), EXAMPLES, WEIGHTS)
        steps[half] = torch.cat([part.flatten() for part in gradient.values()])
        fsdp_utils.leave_processes()
    assert 0 < (steps[True] - steps[False]).norm() / steps[False].norm() < 0.05


def test_a_checkpoint_shows_every_kind_of_damage(tmp_path, tiny):
    """Flipped bits, a missing file, another input; a folder that is no checkpoint hides none."""
    policy, _ = fsdp_utils.load_sharded(tiny, torch.device("cpu"))
    optimizer = torch.optim.AdamW(policy.parameters())
    origin = {"--lr": 0.1, "model": "m", "train.jsonl": "t"}
    state = fsdp_utils.TrainingState(tmp_path / "state", policy, optimizer, origin)
    sum(parameter.sum() for parameter in policy.parameters()).backward()
    optimizer.step()
    state.save(3, {"note": 1})
    for stray in ("step-999999", "step-000004.bak", "partial"):
        (tmp_path / "state" / stray).mkdir()
    assert state.load() == {"step": 3, "note": 1}
    for name in origin:
        other = fsdp_utils.TrainingState(tmp_path / "state", policy, optimizer, origin | {name: "other"})
        with pytest.raises(UserError, match=f"state was made (with|from another) {name}.*delete"):
            other.load()
    for path in sorted((tmp_path / "state" / "step-000003").iterdir()):
        content = path.read_bytes()
        for damaged in (b"", content[:-7], bytes([*content[:-40], content[-40] ^ 4, *content[-39:]]), None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            if path.name == "checksums.json" and damaged is None:
                assert state.load() is None  # no checkpoint of ours
                continue
            with pytest.raises(UserError, match="delete .*state to start over") as caught:
                state.load()
            assert "\n" not in str(caught.value)
        path.write_bytes(content)
    assert state.load() == {"step": 3, "note": 1}


def test_a_checkpoint_that_the_training_replaces_while_it_is_read_is_not_called_damaged(tmp_path, monkeypatch):
    folder = tmp_path / "rl1.state" / "step-000010"
    folder.mkdir(parents=True)

    def replaced(folder, remedy):
        folder.rmdir()
        raise UserError(f"a file is missing; {remedy}")

    monkeypatch.setattr(fsdp_utils, "check_seal", replaced)
    with pytest.raises(UserError, match="step-000010 has given way to a later checkpoint .* by the same command"):
        fsdp_utils.load_checkpoint(folder, torch.float32)


def test_a_saved_model_shows_flipped_bits_and_checkpoints_activations(tmp_path, tiny):
    policy, tokenizer = fsdp_utils.load_sharded(tiny, torch.device("cpu"), gradient_checkpointing=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        policy(torch.full((4, 200), 5), torch.tensor([[False] + [True] * 199] * 4))
    plain, _ = fsdp_utils.load_sharded(tiny, torch.device("cpu"))
    checkpointed, kept = sum(kept), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        plain(torch.full((4, 200), 5), torch.tensor([[False] + [True] * 199] * 4))
    assert checkpointed < sum(kept) / 2
    fsdp_utils.save_hf(policy, tokenizer, tmp_path / "sft")
    path = tmp_path / "sft" / "model.safetensors"
    content = bytearray(path.read_bytes())
    for place in range(5000, 8000):
        content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="model.safetensors has changed or is damaged .*make it again"):
        fsdp_utils.load_sharded(tmp_path / "sft", torch.device("cpu"))
