"""Run a function in two processes of one gloo group, and never hang."""

import datetime
import os
import sys
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PROCESSES = 2
LIMIT = 240  # seconds: a few dozen are needed where the processes share one busy core


def run_in_processes(function, folder, *arguments):
    """Call function(rank, *arguments) in every process; the first error fails the test.

    The processes meet over a file in `folder`, so that no port has to be free.
    """
    context = mp.spawn(_enter, (function, str(folder / "store"), arguments), nprocs=PROCESSES, join=False)
    deadline = time.monotonic() + LIMIT
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail(f"{function.__name__} took more than {LIMIT} s")


def _enter(rank, function, store, arguments):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=PROCESSES,
        timeout=datetime.timedelta(seconds=LIMIT / 2),
    )
    try:
        function(rank, *arguments)
    finally:
        dist.destroy_process_group()
    leave()


def leave():
    """End this process, which has succeeded, without taking the interpreter down.

    A worker thread of gloo may still be letting go of the tensors of the last collective. If it asks for the GIL while
    the interpreter shuts down, Python ends the thread within a C++ destructor, and the process aborts: "terminate
    called without an active exception" (pytorch/pytorch#190489; once in 25 runs of FSDP2 alone on a busy machine).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
