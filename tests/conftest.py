import pytest
import torch


@pytest.fixture(autouse=True)
def _reproducible():
    """The same numbers in every run.

    Deterministic mode also fills new memory with NaN: an output that an op leaves unwritten shows.
    """
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, 2))
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
