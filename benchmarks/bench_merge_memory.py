"""Merging folders of eight experts: how much more memory than one model it takes, and how long.

Every measurement is a process of its own, by the most memory that it ever held, as Linux tells it, beyond what it held
when everything was imported. Reading one model is what merging is judged by.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cases import Case
from transformers import BertConfig, BertModel
from work import Work

import wemoe
from wemoe.merged_folders import write_merged
from wemoe.merging import RULES
from wemoe.merging.rules import open_sources
from wemoe.weights import open_weights

T = 8
CONFIG = BertConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=2, num_attention_heads=12, vocab_size=12_000
)
LOADING = "one model read"
MERGING = "merged"

# Beyond the merged model: a quarter of a megabyte of rows for each of nine models and each step of their merging, TIES'
# counts of magnitudes (half a megabyte an expert, twice), and what the allocator keeps. Whatever the models' size, it
# does not grow with it; two models in memory would be twice as much here.
AT_MOST = 48e6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base and T experts of it, 100 MB each, random."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    base = BertModel(CONFIG)
    base.save_pretrained(root / "base")
    for t in range(T):
        with torch.no_grad():
            for parameter in base.parameters():
                parameter += 1e-3 * torch.randn_like(parameter)
        base.save_pretrained(root / f"expert{t}")
    return root


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_merging_folders_takes_the_memory_of_one_model(method, folders, record, benchmark):
    size = (folders / "base" / "model.safetensors").stat().st_size
    times, allocated = {}, {}
    for name, task in ((LOADING, "load"), (MERGING, method)):
        found = json.loads(subprocess.check_output([sys.executable, __file__, str(folders), task]))
        times[name], allocated[name] = [found["seconds"]], found["bytes"]
    check(folders / method, folders, method)
    assert allocated[MERGING] < size + AT_MOST
    case = Case(
        f"extra MB of {method}, T={T} folders of {size / 1e6:.0f} MB",
        Work(operations=2 * T * size / 4, bytes=(T + 2) * size),
        other_work={LOADING: Work(operations=0, bytes=2 * size)},
        ours=MERGING,
        over=LOADING,
        judged="extra_megabytes",
        at_most=AT_MOST / 1e6,
        in_baseline=False,
    )
    if benchmark.enabled:
        record(case, times, allocated)


def check(merged: Path, folders: Path, method: str) -> None:
    """One tensor of the result, by the same method over all of the models' tensors of that name."""
    found = BertModel.from_pretrained(merged).pooler.dense.weight
    models = [BertModel.from_pretrained(folders / name) for name in ("base", *(f"expert{t}" for t in range(T)))]
    expected = getattr(wemoe, method)(models[0], models[1:]).pooler.dense.weight
    assert torch.equal(found, expected)


def memory(key: str) -> int:
    """Bytes that this process holds (VmRSS), or the most that it ever held (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def measure(folders: Path, task: str) -> None:
    """Load one model, or merge all of them, and print what it took."""
    torch.set_num_threads(1)
    before, start = memory("VmRSS"), time.perf_counter()
    if task == "load":
        with open_weights(folders / "base", "base_model") as weights:
            held = [weights.read(name) for name in weights.contents]
        assert sum(tensor.nbytes for tensor in held) > 90e6
    else:
        experts = {f"expert{t}": folders / f"expert{t}" for t in range(T)}
        with open_sources(folders / "base", experts) as sources:
            write_merged(folders / task, sources, RULES[task](sources), recipe={"merge_method": task})
    print(json.dumps({"seconds": time.perf_counter() - start, "bytes": memory("VmHWM") - before}))


if __name__ == "__main__":
    measure(Path(sys.argv[1]), sys.argv[2])
