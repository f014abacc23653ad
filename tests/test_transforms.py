"""Transforms of task vectors: exact counts, whatever the size, the dtype and the ties; dropping by a seed."""

import pytest
import torch

from wemoe.merging.transforms import drop, keep_largest, prune, seeded_generator, trim

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def kept(task_vector):
    return sum(int((tensor != 0).sum()) for tensor in task_vector.values())


def test_trimming_takes_the_largest_of_the_whole_task_vector():
    task_vector = {"a": torch.tensor([[1.0, -5.0], [0.5, 2.0]]), "b": torch.tensor([-4.0, 0.1])}
    trimmed = trim(task_vector, 0.5)
    assert trimmed["a"].tolist() == [[0.0, -5.0], [0.0, 2.0]]
    assert trimmed["b"].tolist() == [-4.0, 0.0]


def test_pruning_takes_each_tensor_for_itself():
    assert prune(torch.tensor([1.0, -5.0, 0.5, 2.0]), 0.5).tolist() == [0.0, -5.0, 0.0, 2.0]


# The counts of E-WEMoE at a ratio of 0.9: the MLP tensors of ViT-B/32, and more than torch.quantile takes.
@pytest.mark.parametrize(
    ("size", "expected"), [(1, 0), (2, 1), (768, 77), (3072, 308), (2_359_296, 235_930), (2**24 + 5, 1_677_722)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pruning_keeps_exactly_what_was_published(size, expected, dtype):
    tensor = torch.randn(size).to(dtype)
    pruned = prune(tensor, 0.9)
    assert int((pruned != 0).sum()) == expected
    assert pruned.dtype == dtype
    kept = pruned != 0
    assert torch.equal(pruned[kept], tensor[kept])
    if expected:
        assert pruned[kept].abs().min() >= tensor[~kept].abs().max()  # equal ones are kept in order, to the count


def test_pruning_agrees_with_the_published_quantile():
    for size in (2, 3, 10, 101, 1000):
        tensor = torch.randn(size, dtype=torch.float64)
        for ratio in (0.05, 0.5, 0.77, 0.9):
            threshold = tensor.abs().quantile(ratio)
            assert torch.equal(prune(tensor, ratio), torch.where(tensor.abs() > threshold, tensor, 0.0))


def test_a_ratio_of_0_prunes_nothing():
    tensor = torch.randn(101)  # the published code would drop the smallest entry
    assert torch.equal(prune(tensor, 0.0), tensor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.01, 0.2, 0.29, 0.5, 0.999, 1.0])
def test_the_count_is_exact_and_what_is_kept_is_no_smaller_than_what_is_not(dtype, density):
    task_vector = {
        "a": torch.randn(31, 20).to(dtype),
        "b": torch.tensor(0.5, dtype=dtype),
        "c": torch.randn(379).to(dtype),
    }
    trimmed = trim(task_vector, density)
    assert kept(trimmed) == round(1000 * density)  # 1000 entries, none of which is zero
    smallest = min(t.abs()[t != 0].min().item() for t in trimmed.values() if (t != 0).any())
    for name, tensor in task_vector.items():
        assert trimmed[name].dtype == dtype
        dropped = trimmed[name] == 0
        assert torch.equal(trimmed[name][~dropped], tensor[~dropped])
        assert (tensor[dropped].abs() <= smallest).all()


def test_a_share_is_that_of_the_decimal_number():
    assert 0.29 * 100 < 29  # in binary
    assert kept(trim({"a": torch.randn(100)}, 0.29)) == 29
    assert int((prune(torch.randn(100), 0.71) != 0).sum()) == 29


def test_tensors_of_different_dtypes_are_compared_exactly():
    a, b = torch.tensor([1.0, 3.0]).bfloat16(), torch.tensor([1.0 + 1e-12, 2.0], dtype=torch.float64)
    assert [t.tolist() for t in keep_largest([a, b], 3)] == [[0.0, 3.0], [1.0 + 1e-12, 2.0]]


def test_equal_magnitudes_are_kept_in_order_until_the_count_is_reached():
    task_vector = {"a": torch.tensor([1.0, -1.0]), "b": torch.tensor([1.0, 7.0, -1.0, 1.0])}
    trimmed = trim(task_vector, 0.7)  # 4 of 6
    assert [t.tolist() for t in trimmed.values()] == [[1.0, -1.0], [1.0, 7.0, 0.0, 0.0]]


def test_a_task_vector_of_zeros_stays_one():
    assert kept(trim({"a": torch.zeros(5), "b": torch.zeros(0)}, 0.4)) == 0


def test_trimming_has_no_limit_of_size():
    size = (1 << 24) + 5  # where torch.quantile stops
    tensor = torch.arange(size, dtype=torch.int32).view(torch.float32)  # denormal, in ascending order
    (trimmed,) = keep_largest([tensor], 3)
    assert trimmed.nonzero().flatten().tolist() == [size - 3, size - 2, size - 1]


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, torch.nan])
def test_a_density_out_of_range_is_refused(density):
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]; found"):
        trim({"a": torch.ones(2)}, density)
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]; found"):
        drop(torch.ones(2), density, torch.Generator())


@pytest.mark.parametrize("ratio", [1.0, -0.1, torch.nan])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=r"prune_ratio must be in \[0, 1\); found"):
        prune(torch.ones(2), ratio)


def test_what_is_not_dropped_is_rescaled():
    thinned = drop(torch.full((1000,), 3.0), 0.25, torch.Generator().manual_seed(0))
    assert set(thinned.tolist()) == {0.0, 12.0}
    # 250 expected; the standard deviation is sqrt(1000 * 0.25 * 0.75) = 13.7, six of which never happen by chance
    assert abs(int((thinned != 0).sum()) - 250) < 6 * 13.7


def test_density_1_drops_nothing():
    tensor = torch.randn(100)
    assert torch.equal(drop(tensor, 1.0, torch.Generator().manual_seed(0)), tensor)


def test_seeded_generators_differ_by_every_name():
    first = {
        torch.rand(1, generator=seeded_generator(*key)).item() for key in [(0, "a"), (1, "a"), (0, "b"), (0, "a", "b")]
    }
    assert len(first) == 4
    assert torch.equal(*(torch.rand(3, generator=seeded_generator(7, "a")) for _ in range(2)))
