import pytest

from emulation import Library, build


@pytest.fixture(scope="session")
def kernels() -> Library:
    """All kernels of csrc/cuda, emulated."""
    return build()


@pytest.fixture(scope="session")
def checked_kernels() -> Library:
    """The same, with every access checked and counted."""
    return build(checked=True)
