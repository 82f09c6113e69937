"""What `test_fsdp_utils.py` runs in two processes, as under `torchrun --nproc_per_node 2`, and compares with one."""

import json
import os
import signal
import sys
from pathlib import Path

import stages
import torch
from conftest import call_main
from test_policy import EXAMPLES

import fsdp_utils
import grpo
import sft
from lora import Adapters
from policy import accumulate_gradient
from rollout import Sampler
from tools.cli import UserError

PROMPTS = [[5, 0, 7], [3], [9, 9, 9, 9, 0, 0]]
CPU = torch.device("cpu")
ADAPTERS = Adapters(4, 64.0, seed=5)


def weighted_loss(examples, weights):
    """A loss that treats every example differently, as advantages do."""

    def loss_of(indices, logprobs, _):
        per_token = [weights[index] for index in indices for scored in examples[index].scored if scored]
        return (logprobs * torch.tensor(per_token)).sum()

    return loss_of


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def one_step(policy, optimizer, examples, weights):
    """A gradient, its norm, a step. The gradient (before clipping) by name, whole."""
    accumulate_gradient(policy, examples, weighted_loss(examples, weights), 40, CPU)
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    gradient = {name: whole(parameter.grad).clone() for name, parameter in trained.items()}
    norm = fsdp_utils.clip_grad_norm(policy, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return gradient, norm


def samples_of(policy):
    with fsdp_utils.gathered(policy):
        groups = Sampler(policy.model).generate(PROMPTS, samples=2, max_new_tokens=12, stop_ids=[1])
    return [[sample.tokens for sample in group] for group in groups]


def training(model_path, folder, examples, weights, **how):
    """Gradient, sampling between steps, checkpoint, one more step, and back: all that a stage asks of `fsdp_utils`."""
    fsdp_utils.seed_everything(0)
    policy, tokenizer = fsdp_utils.load_sharded(model_path, CPU, **how)
    optimizer = torch.optim.AdamW(policy.trained(), lr=1e-3, fused=True)
    state = fsdp_utils.TrainingState(folder / "state", policy, optimizer)
    assert state.load() is None
    held = sum(local(parameter).numel() for parameter in policy.parameters())
    results = {"samples_before": samples_of(policy), "held": held}
    gradient, results["norm"] = one_step(policy, optimizer, examples, weights)
    results["samples_after"] = samples_of(policy)
    state.save(1, {"note": [1, "x"]})
    random_number = torch.rand(1).item()
    one_step(policy, optimizer, examples, weights)
    fsdp_utils.save_hf(policy, tokenizer, folder / "second", base=model_path)
    fsdp_utils.save_hf(policy, tokenizer, folder / "half", torch.bfloat16)

    results["extra"] = state.load()  # back to step 1, and the second step once more
    results["noise_repeats"] = torch.rand(1).item() == random_number
    one_step(policy, optimizer, examples, weights)
    fsdp_utils.save_hf(policy, tokenizer, folder / "again")
    return gradient, results


def main():
    case = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(case["folder"])
    fsdp_utils.join_processes()
    rank, world = fsdp_utils.rank(), fsdp_utils.world_size()
    assert stages.listening(os.getpid()) == {stages.LOOPBACK}
    assert world == 2 and fsdp_utils.gather_objects({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert fsdp_utils.reduce_over_ranks([1.0, rank], "sum", CPU) == [2.0, 1.0]
    assert fsdp_utils.reduce_over_ranks([1.0, rank], "max", CPU) == [1.0, 1.0]

    # Uneven on purpose: one rank has more micro-batches, and in the third case the other has none at all.
    weights = [0.5, -2.0, 1.0, 0.25, -1.0]
    every_other, all_or_none = slice(rank, None, 2), slice(0, None if rank == 0 else 0)
    for name, mine, how in (
        ("tied", every_other, {}),
        ("untied", every_other, {"gradient_checkpointing": True}),
        ("one-idle", all_or_none, {}),
        ("replicas", every_other, {"shard_over": 1}),  # HSDP: a mesh of two rows
        ("offloaded", every_other, {"cpu_offload": True}),
        ("adapters", every_other, {"adapters": ADAPTERS}),
    ):
        out = folder / name
        gradient, results = training(case[name], out, EXAMPLES[mine], weights[mine], **how)
        if rank == 0:
            torch.save(gradient, out / "gradient.pt")
            (out / "results.json").write_text(json.dumps(results))
        fsdp_utils.barrier()
    # The stages share one process group: a second one would find the first one's addresses in the launcher's store.
    fsdp_utils.leave_processes = fsdp_utils.barrier
    for stage, flags in case["stages"]:
        call_main({"sft": sft, "grpo": grpo}[stage], *flags)
    stop_one(case["stopped"])
    lose_one(case["lost"], folder)


def stop_one(flags):
    """SIGTERM to one rank alone, in the first of its steps: both save and leave. Then the same command again."""
    train_step = sft.train_step

    def stopped_step(*args):
        if fsdp_utils.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args)

    sft.train_step = stopped_step
    try:
        call_main(sft, *flags)
        raise AssertionError("it did not stop")
    except SystemExit as stopped:
        assert stopped.code == 143
    sft.train_step = train_step
    call_main(sft, *flags)


def lose_one(flags, folder):
    """One rank dies in the middle of a step; what the other has to say. Nothing can follow this."""
    rollout = grpo.rollout

    def die(*args):
        if fsdp_utils.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return rollout(*args)

    grpo.rollout = die
    try:
        call_main(grpo, *flags)
    except UserError as error:
        (folder / "survivor.txt").write_text(str(error))
        sys.exit(1)
