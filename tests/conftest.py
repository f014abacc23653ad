import pytest
import torch


@pytest.fixture(autouse=True)
def _reproducible():
    """The same results in every run and every order of tests.

    Deterministic mode also fills new memory with NaN: an output that an op leaves unwritten shows. What was compiled
    is dropped, since torch counts recompilations by code object, and transformers' models share theirs.
    """
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, 2))
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.compiler.reset()
