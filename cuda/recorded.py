"""Decoding steps recorded as CUDA graphs: hundreds of launches become one.

On a GPU a decoding step is hundreds of small kernels, and launching them takes longer than running them. A step that is
recorded once can be replayed as a whole. A recording has fixed shapes and addresses, so a recorded step

    asks the device nothing: no operation of it depends, on the host, on a value that was computed
    has one of few shapes: its rows are padded to a `bucket`, and it sees caches at full length (`decode.row_attention`
        reads of them what each row has)
    reads and writes tensors that stay where they are between steps, and between calls
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cuda import decode


def bucket(number: int, limit: int) -> int:
    """The smallest of 8, 12, 16, 24, 32, 48, ... that holds `number`, at most `limit`: few sizes, a third of waste."""
    size = 8
    while size < number:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return min(size, limit)


def new_recordings(model: nn.Module) -> Recordings | None:
    """None where steps are not recorded: on the CPU, or without Triton, since torch operations ask the device."""
    return Recordings(model) if decode.serve(next(model.parameters())) else None


class Recordings:
    """Decoding steps recorded as CUDA graphs, by the number of rows and the sampling parameters.

    An optimiser step changes weights in place, so recordings stay valid. FSDP gathers weights anew for each rollout
    phase, perhaps to other addresses; then they are recorded anew, about ten steps out of thousands.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.forget()

    def forget(self) -> None:
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}
        # One pool of memory for all of them: they never run together. It ends with the last graph that uses it.
        self.pool = torch.cuda.graph_pool_handle()
        self.addresses = self._weights()

    def _weights(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self.model.parameters()]

    def forget_if_moved(self) -> None:
        """To be called before the first step after anything may have touched the weights."""
        if self.addresses != self._weights():
            self.forget()

    def run(self, step: Callable[..., Tensor], key: tuple) -> Tensor:
        """`step(*key)`: as it stands the first time, which compiles its kernels; then recorded; then replayed."""
        if key not in self.graphs:
            self.graphs[key] = None
            return step(*key)
        if self.graphs[key] is None:
            graph = torch.cuda.CUDAGraph()
            # Records without running. What other threads do meanwhile (NCCL's watchdog asks for events) is allowed.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                status = step(*key)
            self.graphs[key] = graph, status
        graph, status = self.graphs[key]
        graph.replay()
        return status
