"""Memory: what a model takes is told before the work, and the work takes no more."""

import copy
import gc

import pytest
import torch

import wemoe
from models import experts_of, tiny_bert
from tiny_families import FAMILIES
from wemoe.footprint import readable
from wemoe.models import find_blocks
from wemoe.routed_methods import ROUTED_METHODS
from wemoe.skeletons import skeleton_of
from wemoe_ext.testing import peak_bytes

# What the estimates leave out: pieces of a quarter of a megabyte, and norms, which have memory before they are loaded.
MARGIN = 0.05

SIZES = {
    "packed": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4},
    "plain": {"hidden_size": 120, "intermediate_size": 488, "vocab_size": 20_000},  # no multiples of 16
    "mostly embeddings": {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 20_000},
}


@pytest.fixture(params=SIZES)
def base(request):
    return tiny_bert(**SIZES[request.param])


@pytest.fixture
def model():
    base = tiny_bert(**SIZES["packed"])
    return wemoe.upcycle(base, experts_of(base))


def peak(function):
    """The most memory that a call took at a time, and what it gave."""
    result = []
    gc.collect()  # what is freed during the call counts against it
    return peak_bytes(lambda: result.append(function())), result[0]


@pytest.mark.parametrize("tasks", [1, 4])
@pytest.mark.parametrize("options", [{}, {"task_vector_dtype": torch.bfloat16}, {"method": "e_wemoe"}])
def test_upcycling_takes_what_was_estimated(base, tasks, options):
    experts = experts_of(base, tasks)
    estimate = wemoe.estimate_memory(base, tasks, **options)
    found, model = peak(lambda: wemoe.upcycle(base, experts, **options))
    assert found == pytest.approx(estimate.peak, rel=MARGIN)
    assert wemoe.estimate_memory(model).total == estimate.total


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": torch.bfloat16}, {"task_vector_dtype": torch.float16}, {"dtype": torch.float64}],
)
@pytest.mark.parametrize("method", ROUTED_METHODS)
def test_loading_takes_what_was_estimated(base, method, options, tmp_path):
    wemoe.upcycle(base, experts_of(base), method=method).save_pretrained(tmp_path, max_shard_size="1MB")
    estimate = wemoe.estimate_memory(tmp_path, **options)
    found, model = peak(lambda: wemoe.from_pretrained(tmp_path, **options))
    assert found == pytest.approx(estimate.peak, rel=MARGIN)
    assert wemoe.estimate_memory(model) == estimate


def test_upcycling_holds_little_more_than_its_result(base):
    """Beside base and experts: one block of the result."""
    experts = experts_of(base)
    found, model = peak(lambda: wemoe.upcycle(base, experts))
    block = sum(parameter.nbytes for parameter in model.encoder.layer[0].parameters())
    assert found < wemoe.estimate_memory(model).total + block


def test_saving_holds_no_more_than_one_file(model, tmp_path):
    """A file's layers in their plain shapes, and one that is being unpacked."""
    found, _ = peak(lambda: model.save_pretrained(tmp_path, max_shard_size="2MB"))
    assert found < 2e6 + wemoe.estimate_memory(model).transient


def test_no_loaded_tensor_depends_on_the_file(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = wemoe.from_pretrained(tmp_path)
    before = copy.deepcopy(again.state_dict())
    file = tmp_path / "wemoe.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.write(b"\xff" * size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())
    with open("/proc/self/maps") as maps:
        assert str(file) not in maps.read()


def test_the_parts_are_those_of_the_model(model):
    found = wemoe.estimate_memory(model)
    sizes = {name: tensor.nbytes for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    assert found.task_vectors == sum(size for name, size in sizes.items() if ".task_" in name)
    assert found.routers == sum(size for name, size in sizes.items() if ".router." in name)
    assert found.total == found.base + found.task_vectors + found.routers == sum(sizes.values())
    assert found.peak == found.total + found.transient


def test_a_base_without_memory_is_enough_and_randomness_stays_as_it_was():
    base = tiny_bert(**SIZES["packed"])
    state = torch.get_rng_state()
    found, _ = peak(lambda: wemoe.estimate_memory(base, 3))
    assert found < 0.01 * sum(parameter.nbytes for parameter in base.parameters())
    assert wemoe.estimate_memory(skeleton_of(base), 3) == wemoe.estimate_memory(base, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.is_meta for parameter in base.parameters())


@pytest.mark.parametrize("method", ROUTED_METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_result_of_every_family_is_estimated_to_the_byte(name, method, tmp_path):
    base = FAMILIES[name].make()
    estimate = wemoe.estimate_memory(base, 2, method=method)
    model = wemoe.upcycle(base, experts_of(base, 2), method=method)
    assert estimate.total == wemoe.estimate_memory(model).total
    model.save_pretrained(tmp_path)
    skeleton = base if "openclip" in name else None
    assert wemoe.estimate_memory(tmp_path, base_model=skeleton) == wemoe.estimate_memory(model)


def test_without_weights_a_family_must_be_known_or_given():
    hollow = skeleton_of(FAMILIES["distilbert"].make())
    with pytest.raises(ValueError, match="source must have weights, since DistilBertModel is of no known family"):
        wemoe.estimate_memory(hollow, 2)
    (family,) = set(find_blocks(FAMILIES["distilbert"].make()).values())
    assert wemoe.estimate_memory(hollow, 2, family=family).total > 0


def test_routers_are_counted_by_their_depth():
    base = tiny_bert()
    found = [wemoe.estimate_memory(base, 3, router_hidden_layers=depth).routers for depth in (0, 1, 2)]
    assert found == [2 * 4 * size for size in (3, 16 * 3 + 3, 16 * 16 + 16 + 16 * 3 + 3)]


def test_a_shared_router_counts_once(model):
    layers = model.encoder.layer
    alone = wemoe.estimate_memory(model).routers
    for layer in layers:
        layer.output.dense.router = layers[0].output.dense.router
    assert wemoe.estimate_memory(model).routers == alone / len(layers)


@pytest.mark.parametrize("tasks", [None, 0])
def test_a_base_needs_a_number_of_tasks(tasks):
    with pytest.raises(ValueError, match=f"tasks must be the number of experts, at least 1; found {tasks}"):
        wemoe.estimate_memory(tiny_bert(), tasks)


def test_the_progress_bars_say_what_the_model_takes(model, tmp_path, capsys):
    base = tiny_bert(**SIZES["packed"])
    size = readable(wemoe.estimate_memory(base, 3).total)
    capsys.readouterr()
    wemoe.upcycle(base, experts_of(base)).save_pretrained(tmp_path)
    assert f"upcycle ({size}):" in capsys.readouterr().err
    wemoe.from_pretrained(tmp_path)
    assert f"load ({size}):" in capsys.readouterr().err
    wemoe.upcycle(base, experts_of(base), progress=False)
    wemoe.from_pretrained(tmp_path, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (1.94e9, "1.9 GB"), (2.5e12, "2.5 TB"), (3e15, "3000.0 TB")],
)
def test_sizes_are_written_as_people_read_them(size, text):
    assert readable(size) == text
