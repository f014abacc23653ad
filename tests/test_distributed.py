"""Several processes: data parallel routers, sharded weights, `accelerate launch`."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel

import wemoe
from models import experts_of, inputs_of, randomised, tiny_bert
from processes import PROCESSES, run_in_processes
from test_upcycling import output
from wemoe.routed_methods import ROUTED_METHODS

pytestmark = pytest.mark.slow  # every process imports torch and transformers

BATCH = 4
FULL = StateDictOptions(full_state_dict=True)


def routed_bert(batch_reduce=False, dtype=torch.float32, method="wemoe", **changes):
    """The same model in every process."""
    torch.manual_seed(0)
    base = tiny_bert(**changes)
    experts = {task: expert.to(dtype) for task, expert in experts_of(base).items()}
    return randomised(wemoe.upcycle(base.to(dtype), experts, method=method, batch_reduce=batch_reduce))


def global_batch(model):
    torch.manual_seed(1)
    return inputs_of(model, BATCH)


def part_of(batch, rank):
    size = BATCH // PROCESSES
    return {name: values[rank * size : (rank + 1) * size] for name, values in batch.items()}


def gradients(model, batch):
    """Router gradients of a loss that is a mean over samples."""
    model.zero_grad()
    output(model, batch).square().mean().backward()
    return {name: whole(p.grad) for name, p in model.named_parameters() if p.requires_grad}


def whole(tensor):
    """A tensor gathered from all processes, where it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # fp32: the mean of two means of half the batch against one mean, relative to the largest entry
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            found[name], gradient, atol=1e-5 * scale, rtol=1e-5, msg=lambda t, n=name: f"{n}: {t}"
        )


def test_data_parallel_gradients_are_those_of_the_global_batch(tmp_path):
    run_in_processes(data_parallel, tmp_path)


def data_parallel(rank):
    for method in ROUTED_METHODS:
        model = routed_bert(method=method)
        batch = global_batch(model)
        expected = gradients(copy.deepcopy(model), batch)
        parallel = DistributedDataParallel(model)
        gradients(parallel, part_of(batch, rank))
        found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert_same_gradients(found, expected)


def test_batch_averaged_routing_averages_over_each_processs_own_part(tmp_path):
    run_in_processes(batch_averaged, tmp_path)


def batch_averaged(rank):
    model = routed_bert(batch_reduce=True)
    batch = global_batch(model)
    alone = copy.deepcopy(model)
    halves = [gradients(alone, part_of(batch, each)) for each in range(PROCESSES)]
    expected = {name: sum(half[name] for half in halves) / PROCESSES for name in halves[0]}
    parallel = DistributedDataParallel(model)
    gradients(parallel, part_of(batch, rank))
    assert_same_gradients({name: p.grad for name, p in model.named_parameters() if p.requires_grad}, expected)

    mine = output(parallel, part_of(batch, rank))
    assert torch.equal(mine, output(alone, part_of(batch, rank)))
    together = output(alone, batch)[rank * len(mine) : (rank + 1) * len(mine)]
    assert not torch.allclose(mine, together, atol=1e-4)  # the global batch has another mean


EVEN = {"hidden_size": 32, "intermediate_size": 64}  # packed, with lines that two processes share evenly
UNEVEN = {"hidden_size": 16, "intermediate_size": 48}  # packed; `up` has three lines and `down` has one
PLAIN = {"hidden_size": 24, "intermediate_size": 40}  # no multiples of 16: not packed, sharded by task


def by_output(parameter):
    """Shard plain task vectors [T, F, D] by F."""
    return Shard(1) if parameter.dim() == 3 else None


CASES = {
    "even": (EVEN, torch.float32, None),
    "bf16 beside fp32 routers": (EVEN, torch.bfloat16, None),
    "uneven": (UNEVEN, torch.float32, None),
    "plain": (PLAIN, torch.float32, None),
    "plain, by output": (PLAIN, torch.float32, by_output),
    "sparse, even": (EVEN, torch.float32, None, "e_wemoe"),
    "sparse, bf16 beside fp32 routers": (EVEN, torch.bfloat16, None, "e_wemoe"),
    "sparse, uneven": (UNEVEN, torch.float32, None, "e_wemoe"),
    "sparse, lines filled up": (PLAIN, torch.float32, None, "e_wemoe"),
}


def test_sharded_weights_give_the_outputs_and_gradients_of_whole_ones(tmp_path):
    """One pair of processes for all cases: starting them takes longer than anything that they do."""
    run_in_processes(all_sharded, tmp_path, str(tmp_path / "merged"))


def all_sharded(rank, folder):
    for name, case in CASES.items():
        try:
            sharded(rank, *case, f"{folder} {name}")
        except Exception as error:
            error.add_note(f"in the case {name!r}")
            raise


def sharded(rank, sizes, dtype, placement, *method_and_folder):
    *method, folder = method_and_folder
    plain = routed_bert(False, dtype, *method, **sizes)
    batch = global_batch(plain)
    model = sharded_copy(plain, placement)
    if sizes == EVEN and not method:
        assert_half_of_the_bytes(model, plain)

    assert torch.equal(output(model, part_of(batch, rank)), output(plain, part_of(batch, rank)))
    found, halves = gradients(model, part_of(batch, rank)), [gradients(plain, part_of(batch, r)) for r in range(2)]
    assert_same_gradients(found, {name: (halves[0][name] + halves[1][name]) / 2 for name in found})

    for parameter, name in ((p, n) for n, p in plain.named_parameters() if p.requires_grad):
        parameter.grad = found[name]
    for each in (model, plain):
        torch.optim.AdamW([p for p in each.parameters() if p.requires_grad], lr=0.1).step()
    assert torch.equal(output(model, batch), output(plain, batch))

    with pytest.raises(ValueError, match=r"state_dict must hold whole tensors; '.*' is sharded. Gather it in every"):
        model.save_pretrained(folder)
    state = get_model_state_dict(model, options=FULL)
    assert_same_state(state, plain.state_dict())
    model.save_pretrained(folder, is_main_process=rank == 0, state_dict=state)
    torch.distributed.barrier()
    assert torch.equal(output(wemoe.from_pretrained(folder), batch), output(plain, batch))

    other = sharded_copy(routed_bert(False, dtype, *method, **sizes), placement)
    load_gathered(other, state)
    assert_same_state(get_model_state_dict(other, options=FULL), plain.state_dict())
    assert torch.equal(output(other, batch), output(plain, batch))


def load_gathered(model, state):
    """Torch shards what it loads under the first name of each parameter, and cannot take a shared router's others."""
    first = dict(model.named_parameters()).keys()
    once = {name: tensor for name, tensor in state.items() if name in first}
    options = StateDictOptions(full_state_dict=True, strict=len(once) == len(state))
    set_model_state_dict(model, once, options=options)


def sharded_copy(model, placement=None):
    mesh = init_device_mesh("cpu", (PROCESSES,))
    model = copy.deepcopy(model)
    for router in {block.output.dense.router for block in model.encoder.layer}:
        fully_shard(router, mesh=mesh)  # first, for one that blocks share can belong to none of them
    for block in model.encoder.layer:
        fully_shard(block, mesh=mesh, shard_placement_fn=placement)
    return fully_shard(model, mesh=mesh, shard_placement_fn=placement)


def assert_half_of_the_bytes(model, plain):
    """The lines of base weights and task vectors divide evenly; the tables of positions and types are small."""
    for (name, part), (_, parameter) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        if name.endswith((".up.weight", ".down.weight", ".task_vectors")):
            assert part.to_local().nbytes * PROCESSES == parameter.nbytes, name
    local, whole = sum(p.to_local().nbytes for p in model.parameters()), sum(p.nbytes for p in plain.parameters())
    assert local <= 0.51 * whole


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_model_is_sharded_before_it_has_memory(tmp_path):
    run_in_processes(sharded_on_meta, tmp_path)


def sharded_on_meta(rank):
    for method in ROUTED_METHODS:
        sharded_on_meta_of(method)


def sharded_on_meta_of(method):
    plain = routed_bert(method=method, **EVEN)
    batch = global_batch(plain)
    model = sharded_copy(copy.deepcopy(plain).to("meta")).to_empty(device="cpu")
    load_gathered(model, plain.state_dict())
    for name, buffer in plain.named_buffers():  # those that no state dict has
        model.get_buffer(name).copy_(buffer)
    assert_same_state(get_model_state_dict(model, options=FULL), plain.state_dict())
    # unpacked on a device without kernels of ours, sharded so, and multiplied in another order than packed weights
    torch.testing.assert_close(output(model, batch), output(plain, batch), atol=1e-5, rtol=1e-5)


TRAINING_SCRIPT = """
import sys
import torch
from accelerate import Accelerator
import wemoe
from processes import leave

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
model = wemoe.from_pretrained(sys.argv[1])
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
data = torch.utils.data.DataLoader(torch.arange(1, 33).reshape(8, 4), batch_size=2)
parallel, optimizer, data = accelerator.prepare(model, torch.optim.SGD(trained, lr=0.1), data)
for ids in data:
    optimizer.zero_grad()
    accelerator.backward(parallel(input_ids=ids).last_hidden_state.square().mean())
    optimizer.step()
accelerator.unwrap_model(parallel).save_pretrained(sys.argv[2], is_main_process=accelerator.is_main_process)
accelerator.end_training()
leave()
"""


def test_accelerate_launch_trains_the_routers(tmp_path):
    model = routed_bert()
    model.save_pretrained(tmp_path / "before")
    (tmp_path / "train.py").write_text(TRAINING_SCRIPT)
    # `--multi_gpu` starts processes of one machine; `--cpu` would start them through MPI, or a single one without it
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    folders = [str(tmp_path / "before"), str(tmp_path / "after")]
    subprocess.run(
        [*launch, "--main_process_port", "0", str(tmp_path / "train.py"), *folders],
        check=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(__file__)},
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for ids in torch.arange(1, 33).reshape(8, 4).split(4):  # two processes of two samples: four a step
        gradients(model, {"input_ids": ids})
        optimizer.step()
    after = wemoe.from_pretrained(tmp_path / "after").state_dict()
    for name, tensor in model.state_dict().items():
        # two steps of averaged fp32 gradients, summed in another order
        torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=1e-5, msg=lambda t, n=name: f"{n}: {t}")
