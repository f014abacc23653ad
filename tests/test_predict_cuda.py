"""What docs/cuda.md predicts: its tables are the script's, and the script divides work as the kernels do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_prediction import fused
from cuda_prediction.gpus import A100, GPUS, H100
from cuda_prediction.others import predict_merge, predict_plain
from cuda_prediction.tables import TABLES, predict_all
from cuda_prediction.work import LIMITERS, Cycles

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")

PLANS = """
#include <cstdio>
#include "cuda/routed_plan.h"
int main() {
  long R, M, N, T, multiprocessors, shared;
  while (std::scanf("%ld %ld %ld %ld %ld %ld", &R, &M, &N, &T, &multiprocessors, &shared) == 6) {
    const wemoe::cuda::Device device{80, static_cast<int>(multiprocessors), shared, 1 << 25};
    const auto p = wemoe::cuda::plan_routed_product({R, M, N, T, 2, 0}, device);
    std::printf("%d %d %ld %ld %ld %ld\\n", p.groups, p.tiles, p.unit_rows, p.route_units, p.blocks_along,
                p.blocks_across);
  }
}
"""


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_what_the_script_prints(name):
    (table,) = re.findall(rf"<!-- {name} -->\n(.*?)\n\n", TEXT, flags=re.DOTALL)
    assert table == TABLES[name](), f"run `python tools/predict_cuda.py` and put the table {name!r} into docs/cuda.md"


def test_no_table_stands_without_its_mark():
    assert len(re.findall(r"^\| (?:model|rows of a unit) \|", TEXT, flags=re.MULTILINE)) == len(TABLES)
    assert TEXT.count("**Prediction.**") == len(TABLES)


def test_products_are_divided_as_the_kernels_divide_them(tmp_path):
    source, program = tmp_path / "plans.cpp", tmp_path / "plans"
    source.write_text(PLANS)
    subprocess.run(["c++", "-std=c++20", f"-I{ROOT / 'csrc'}", "-o", program, source], check=True)
    works = [(R, M, N) for R in (1, 3, 16, 64) for M in (1, 50, 64, 65, 197, 257, 1000) for N in (768, 3072, 40)]
    lines = [f"{R} {M} {N} 8 {gpu.multiprocessors} {gpu.shared_bytes}" for gpu in GPUS for R, M, N in works]
    told = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True).stdout
    plans = [fused.plan_product(R, M, N, gpu) for gpu in GPUS for R, M, N in works]
    found = [f"{p.groups} {p.tiles} {p.unit_rows} {p.route_units} {p.blocks_along} {p.blocks_across}" for p in plans]
    assert found == told.splitlines()


def test_a_step_has_the_products_and_the_assembly_of_its_block():
    cycles = fused.step(fused.plan_groups(8, 64, 64, groups=2), R=8, T=8)
    assert cycles.mma * 16 * 8 * 16 == 512 * 64 * 16  # rows, outputs, inputs
    assert cycles.ffma * 32 == 8 * 9 * 64 * 16  # units, planes, outputs, inputs
    assert cycles.narrow * 32 * 2 == 8 * 64 * 16  # two numbers an instruction


def test_published_rates_come_out():
    assert A100.tensor_flops == pytest.approx(312e12, rel=0.01)
    assert H100.tensor_flops == pytest.approx(989e12, rel=0.01)
    assert Cycles(mma=1).seconds(A100)["tensor"] * A100.clock == 2  # 2048 FMA, 1024 a cycle


def test_what_is_bound_by_memory_takes_as_long_as_its_bytes():
    seconds, limits = predict_merge(1, 10**8, 8, A100)
    assert limits["dram"] == pytest.approx(10 * 2 * 10**8 / 2.039e12)  # nine planes in, one out
    assert seconds - limits["dram"] == pytest.approx(2e-6)
    assert predict_plain(1, 10**4, 10**4, A100) == pytest.approx(2e-6 + 2 * 10**8 / 2.039e12, rel=1e-3)


def test_predictions_are_written_as_the_benchmarks_name_cases(tmp_path):
    file = tmp_path / "predictions.json"
    script = ROOT / "tools" / "predict_cuda.py"
    printed = subprocess.run([sys.executable, script, "--json", file], capture_output=True, text=True, check=True)
    assert all(table() in printed.stdout for table in TABLES.values())
    entries = json.loads(file.read_text())
    assert entries == predict_all()
    forward = [e for e in entries if (e["gpu"], e["model"], e["B"], e["what"]) == ("H100", "ViT-B/32", 16, "forward")]
    assert [entry["method"] for entry in forward] == ["plain", "fused", "chunked"]
    assert all(entry["numbers"] == "bfloat16" for entry in entries)
    for entry in entries:
        assert entry["seconds"] >= max(entry.get("limiters", {"none": 0}).values())
        assert list(entry.get("limiters", LIMITERS)) == list(LIMITERS)
