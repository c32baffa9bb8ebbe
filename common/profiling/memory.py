"""Peak memory of one call, on the CPU and on accelerators alike: above what was allocated before it."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# Where PyTorch is built for CUDA and no GPU is there, the profiler's back end would print an error line of its own.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def peak_memory(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Return the most bytes that tensors occupy during ``function()``, above what they occupied before it.

    Parameters and inputs that exist before the call are thus left out; activations, gradients that the call makes,
    temporary buffers and the result are in.

    On CUDA this is the allocator's own statistic. On the CPU it is the running sum of the allocations and releases
    that PyTorch's profiler records, at its highest: exact to the byte and repeatable, where the process's resident
    memory is neither. What a library allocates past PyTorch's allocator (threads' scratch buffers) is not seen.

    Args:
        function: called once; warm it up first if it builds caches.
        device: where it runs.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise NotImplementedError(f"peak memory on {device.type} is not measured")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        function()
    assert recorded.profiler is not None
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    occupied = highest = 0
    for _, change in changes:
        occupied += change
        highest = max(highest, occupied)
    return highest
