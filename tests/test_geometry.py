"""Lengths of task vectors and cosines between them, against what is computed from the parameters directly."""

import json
import math
from itertools import combinations

import pytest
import torch
from PIL import Image

from tiny_suite import tiny_suite
from wemoe.geometry import task_vector_geometry
from wemoe.geometry_plot import plot_geometry
from wemoe.geometry_tables import joined_cosines, kind_of, module_of, modules_by_kind

BASE = {
    "embed.weight": torch.zeros(3, 2),
    "blocks.0.mlp.up.weight": torch.ones(4, 2),
    "blocks.0.mlp.up.bias": torch.ones(4),
    "blocks.1.mlp.up.weight": torch.ones(4, 2),
    "scale": torch.ones(()),
    "steps": torch.ones((), dtype=torch.int64),
}


def moved(seed, *names):
    """The base with random steps in some of its tensors, in all by default."""
    random = torch.Generator().manual_seed(seed)
    chosen = names or [name for name, tensor in BASE.items() if tensor.is_floating_point()]
    return {
        name: tensor + torch.randn(tensor.shape, generator=random) if name in chosen else tensor.clone()
        for name, tensor in BASE.items()
    }


def direct(experts, prefix):
    """The task vectors of one module in fp64, as one row each."""
    names = [name for name in BASE if name == prefix or name.startswith(f"{prefix}.")]
    return {
        task: torch.cat([(expert[name].double() - BASE[name].double()).flatten() for name in names])
        for task, expert in experts.items()
    }


def test_every_module_is_measured_as_if_its_parameters_were_one_vector():
    experts = {task: moved(seed) for seed, task in enumerate("abc")}
    found = task_vector_geometry(BASE, experts)
    assert found["modules"] == ["embed", "blocks.0.mlp", "blocks.1.mlp", "scale"]
    assert list(found["cosine"]) == ["a|b", "a|c", "b|c"]
    for index, module in enumerate(found["modules"]):
        vectors = direct(experts, module)
        for task, vector in vectors.items():
            assert found["l2"][task][index] == pytest.approx(vector.norm().item(), rel=1e-12)  # sums of fp64
        for first, second in combinations("abc", 2):
            cosine = torch.nn.functional.cosine_similarity(vectors[first], vectors[second], dim=0).item()
            assert found["cosine"][f"{first}|{second}"][index] == pytest.approx(cosine, abs=1e-12)


def test_equal_vectors_have_cosine_1_opposite_ones_minus_1_and_orthogonal_ones_0():
    first = moved(0)
    away = {name: 2 * BASE[name] - tensor for name, tensor in first.items()}
    experts = {"first": first, "equal": first, "opposite": away}
    found = task_vector_geometry(BASE, experts)
    assert found["cosine"]["first|equal"] == [1.0] * 4
    assert found["cosine"]["first|opposite"] == pytest.approx([-1.0] * 4, abs=1e-6)  # `away` is rounded to fp32
    left, right = ({"w": torch.tensor(row)} for row in ([1.0, 0.0], [0.0, 3.0]))
    found = task_vector_geometry({"w": torch.zeros(2)}, {"left": left, "right": right})
    assert found == {"modules": ["w"], "l2": {"left": [1.0], "right": [3.0]}, "cosine": {"left|right": [0.0]}}


def test_what_did_not_move_has_no_cosine():
    found = task_vector_geometry(BASE, {"a": moved(0), "b": moved(1, "embed.weight")})
    assert [cosine is None for cosine in found["cosine"]["a|b"]] == [False, True, True, True]
    assert found["l2"]["b"][1:] == [0.0, 0.0, 0.0]
    assert json.loads(json.dumps(found)) == found


def test_the_order_of_tasks_changes_the_order_of_the_table_alone():
    experts = {task: moved(seed) for seed, task in enumerate("abc")}
    found, turned = (task_vector_geometry(BASE, {task: experts[task] for task in order}) for order in ("abc", "cab"))
    assert turned["l2"] == found["l2"]
    assert turned["cosine"]["a|b"] == found["cosine"]["a|b"]
    assert turned["cosine"]["c|a"] == pytest.approx(found["cosine"]["a|c"], abs=1e-15)  # one product of equal factors


def test_small_differences_of_large_weights_are_not_rounded_away():
    base = {"w": torch.full((1000,), 1e4, dtype=torch.bfloat16)}
    expert = {"w": torch.full((1000,), 1e4, dtype=torch.float32) + 1}
    start = base["w"][0].double().item()
    (length,) = task_vector_geometry(base, {"a": expert})["l2"]["a"]
    assert length == pytest.approx((1e4 + 1 - start) * math.sqrt(1000), rel=1e-12)


def test_models_are_measured_as_their_state_dicts_are():
    suite = tiny_suite()
    found = task_vector_geometry(suite.base, suite.experts)
    states = {task: dict(expert.named_parameters()) for task, expert in suite.experts.items()}
    assert found == task_vector_geometry(dict(suite.base.named_parameters()), states)
    assert {"encoder.layer.0.attention", "encoder.layer.1.output", "embeddings.LayerNorm"} <= set(found["modules"])
    assert all(-1 <= cosine <= 1 for cosine in found["cosine"]["colours|animals"] if cosine is not None)


def test_modules_joined_are_measured_as_one():
    experts = {task: moved(seed) for seed, task in enumerate("abc")}
    found = task_vector_geometry(BASE, experts)
    table = joined_cosines(found, [1, 2])
    vectors = torch.stack(list(direct(experts, "blocks").values()))
    expected = torch.nn.functional.normalize(vectors) @ torch.nn.functional.normalize(vectors).T
    assert table == [pytest.approx(row, abs=1e-12) for row in expected.tolist()]
    assert modules_by_kind(found) == {"all modules": [0, 1, 2, 3], "blocks.*.mlp": [1, 2], "the rest": [0, 3]}
    still = joined_cosines(task_vector_geometry(BASE, {"a": BASE, "b": moved(1)}), [1, 2])
    assert still == [[None, None], [None, 1.0]]


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("encoder.layers.3.mlp.fc1.weight", "encoder.layers.3.mlp", "encoder.layers.*.mlp"),
        ("encoder.layers.3.layer_norm1.bias", "encoder.layers.3.layer_norm1", "encoder.layers.*.layer_norm1"),
        ("encoder.layer.0.attention.self.query.weight", "encoder.layer.0.attention", "encoder.layer.*.attention"),
        ("encoder.block.0.layer.1.DenseReluDense.wi.weight", "encoder.block.0.layer.1.DenseReluDense", None),
        ("embeddings.class_embedding", "embeddings", "embeddings"),
        ("embeddings.patch_embedding.weight", "embeddings.patch_embedding", "embeddings.patch_embedding"),
        ("layers.0.weight", "layers.0", "layers.*"),
        ("logit_scale", "logit_scale", "logit_scale"),
    ],
)
def test_parameters_are_counted_to_the_children_of_blocks(name, module, kind):
    assert module_of(name) == module
    assert kind_of(module) == (kind or "encoder.block.*.layer.*.DenseReluDense")


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must have the shapes of base_model"):
        task_vector_geometry(BASE, {"a": BASE | {"scale": torch.ones(2)}})


def test_geometry_is_drawn_with_a_panel_for_each_kind(tmp_path):
    plot_geometry(task_vector_geometry(BASE, {"a": BASE, "b": moved(1)}), tmp_path / "geometry.png")
    with Image.open(tmp_path / "geometry.png") as image:
        image.verify()
    assert [path.name for path in tmp_path.iterdir()] == ["geometry.png"]
