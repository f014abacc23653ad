"""What lies where in a warp's registers: how answers of the fragment program are read, kept and compared."""

from collections import Counter

import pytest
import torch

from gpu_check import fragments


def sums_of(answer, places_of_b):
    """The sums from which `read_products` reads this answer."""
    sums = fragments.SUMS_STEP * torch.arange(1.0, len(answer) + 1).repeat(places_of_b, 1)
    for place, pairs in enumerate(answer):
        for a, b in pairs:
            sums[b, place] += a + 1
    return sums


@pytest.mark.parametrize("name", fragments.PLACES_OF_B)
def test_products_are_read_from_sums(name):
    expected = fragments.documented()[name]
    assert fragments.read_products(name, sums_of(expected, fragments.PLACES_OF_B[name])) == expected


@pytest.mark.parametrize(("name", "depth"), [("multiply_bfloat16", 16), ("multiply_tf32", 8)])
def test_documented_layouts_use_every_place_as_often_as_a_product_does(name, depth):
    """A number of A meets 8 columns of B, a number of B 16 rows of A, and a sum has as many products as A is deep."""
    answer = fragments.documented()[name]
    assert {len(pairs) for pairs in answer} == {depth}
    used_a, used_b = (Counter(pair[i] for pairs in answer for pair in pairs) for i in range(2))
    assert sorted(used_a) == list(range(16 * depth))
    assert sorted(used_b) == list(range(8 * depth))
    assert set(used_a.values()) == {8}
    assert set(used_b.values()) == {16}


@pytest.mark.parametrize("wrong", [0.5, -1.0, 300.0, float("nan")])
def test_sums_that_no_layout_gives_are_refused(wrong):
    sums = sums_of(fragments.documented()["multiply_tf32"], fragments.PLACES_OF_B["multiply_tf32"])
    sums[3, 6] = fragments.SUMS_STEP * 7 + wrong
    with pytest.raises(RuntimeError, match="multiply_tf32: the sum of lane 1, register 2 must be 7168 and a number"):
        fragments.read_products("multiply_tf32", sums)


def test_golden_answers_come_back_and_differences_are_named(tmp_path):
    answers = fragments.documented()
    path = tmp_path / "golden.json"
    fragments.write_golden(path, {"name": "A GPU"}, answers)
    golden = fragments.read_golden(path)
    assert golden["gpu"] == {"name": "A GPU"}
    assert fragments.differences(answers, golden) == []
    golden["load_matrices"][5][0] += 1
    golden["multiply_float16"][9][0][1] += 1
    golden["round_to_tf32"][0] += 1
    named = [line.partition(":")[0] for line in fragments.differences(answers, golden)]
    assert named == [
        "load_matrices, lane 5",
        "multiply_float16, lane 2, sum 1",
        f"round_to_tf32, {fragments.ROUNDED[0]!r}",
    ]


def test_rounding_to_tf32_takes_ties_away_from_zero():
    bits = dict(zip(fragments.ROUNDED, fragments.documented()["round_to_tf32"], strict=True))
    values = {number: torch.tensor(b, dtype=torch.int32).view(torch.float32).item() for number, b in bits.items()}
    assert values[1 + 2**-11] == 1 + 2**-10
    assert values[-1 - 2**-11] == -1 - 2**-10
    assert values[1 + 2**-11 - 2**-23] == 1
    assert values[1 + 3 * 2**-11] == 1 + 2**-9
    assert values[2 - 2**-23] == 2
    assert values[float("-inf")] == float("-inf")


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"needs nvcc\. Found none on PATH"):
        fragments.compile_program(tmp_path, [80])
