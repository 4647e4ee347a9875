"""Records steps as CUDA graphs. All that needs a GPU to run at all stands here."""

from __future__ import annotations

import torch
from torch import Tensor

from tandem_serve.engine.decode_graphs import Step

_BYTES_OF_A_GRAPH = 4 * 2**20  # its kernels and their arguments: assumed, generously


class CudaRecorder:
    """A `Recorder`. All graphs share one pool of memory: only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, step: Step) -> Step:
        """See `Recorder`. The step runs once before, so that libraries set themselves up outside of the graph."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        # The outer block puts the stream back also when a recording fails half-way.
        with torch.cuda.stream(self._stream):
            step()
            # Work of other threads, which hand KV over, must not make this thread's recording fail.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                logits = step()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay

    def bytes_for(self, step: Step, *, count: int) -> int:
        """See `Recorder`: measured on the largest step."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        logits = step()
        torch.cuda.synchronize(self._device)
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.empty_cache()  # so that what it used counts as free
        return peak - before + count * (logits.nbytes + _BYTES_OF_A_GRAPH)


def recorder_for(device: torch.device) -> CudaRecorder | None:
    """The recorder of a device; None where there are no such graphs."""
    return CudaRecorder(device) if device.type == "cuda" else None
