"""Which of its two implementations routed_linear takes on CUDA, and why."""

import ctypes

import pytest

from emulation import Library, build
from launching import A100, H100, Device, array
from wemoe_ext.testing import Shape

pytestmark = pytest.mark.emulated

FUSED, CHUNKED, NEITHER = 0, 1, -1
HALF, TF32, FLOAT = range(3)
TURING = Device(75, 40, 64 * 1024, 4 * 2**20)
VIT_B_32 = Shape(R=16, M=50, D=768, F=3072, T=8)


@pytest.fixture(scope="module")
def library() -> Library:
    return build(only=["choice"])


def choose(library, word="auto", fits=True, shape=VIT_B_32, factors=HALF, device=H100):
    return library.functions.chosen_path(word.encode(), fits, array(shape), factors, array(device))


def predict(library, fused, shape, factors=HALF, device=H100):
    function = library.functions.predicted_cycles
    function.restype = ctypes.c_double
    return function(fused, array(shape), factors, array(device))


def broken_rule(library, shape, element_bytes=2, device=H100, fits=False):
    text = ctypes.create_string_buffer(500)
    library.functions.name_broken_rule(fits, array(shape), element_bytes, array(device), text, ctypes.c_int64(499))
    return text.value.decode()


def test_a_word_decides(library):
    assert choose(library, "fused") == FUSED
    assert choose(library, "chunked") == CHUNKED


@pytest.mark.parametrize("word", ["", "Fused", "fused ", "quick"])
def test_other_words_are_refused(library, word):
    assert choose(library, word) == NEITHER


def test_what_does_not_fit_is_chunked(library):
    assert choose(library, fits=False) == CHUNKED


@pytest.mark.parametrize("factors", [HALF, TF32, FLOAT])
@pytest.mark.parametrize("device", [H100, A100], ids=["H100", "A100"])
def test_the_shorter_prediction_is_taken(library, device, factors):
    taken = set()
    for R, M in ((1, 50), (2, 2048), (16, 50), (64, 257), (64, 1)):
        shape = VIT_B_32._replace(R=R, M=M)
        fused, chunked = (predict(library, path, shape, factors, device) for path in (True, False))
        assert choose(library, shape=shape, factors=factors, device=device) == (FUSED if fused <= chunked else CHUNKED)
        taken.add(fused <= chunked)
    assert True in taken  # many samples of few rows are what the fused kernels are for


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "chunked"])
def test_predictions_grow_with_the_work(library, fused):
    for factors in (HALF, TF32, FLOAT):
        least = predict(library, fused, VIT_B_32, factors)
        for change in ({"R": 160}, {"M": 500}, {"D": 7680}, {"F": 30720}, {"T": 80}):
            assert predict(library, fused, VIT_B_32._replace(**change), factors) > least
    half, tf32, whole = (predict(library, fused, VIT_B_32, factors) for factors in (HALF, TF32, FLOAT))
    assert half < tf32 < whole


def test_the_broken_rule_is_named(library):
    assert broken_rule(library, VIT_B_32, fits=True) == ""
    assert broken_rule(library, VIT_B_32, device=TURING) == "a GPU of compute capability 8.0 or later. Found 7.5"
    found = broken_rule(library, VIT_B_32._replace(D=12))
    assert found == "D and F that are multiples of 8, 16 bytes. Found D = 12, F = 3072"
    found = broken_rule(library, VIT_B_32._replace(F=6), element_bytes=4)
    assert found == "D and F that are multiples of 4, 16 bytes. Found D = 768, F = 6"
    found = broken_rule(library, VIT_B_32._replace(R=2**40))
    assert found.startswith("sizes that fit a launch and the shared memory of a block, 232448 bytes. Found R = 1099511")
