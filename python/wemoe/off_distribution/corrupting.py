"""Corrupting an image: noise, blur and the like, as Hendrycks and Dietterich's benchmark has them (arXiv 1903.12261).

The corruptions are those of the library `imagecorruptions-imaug`, with its constants, which were chosen for photos of
224 x 224 pixels. Nothing is rescaled here, so what counts pixels weighs more on a small image. At severity 2:

| corruption | constant | on 32 x 32 pixels |
|---|---|---|
| motion_blur | one-sided Gaussian of sigma 5 pixels, from -45 to 45 degrees | smears over a sixth of the side |
| impulse_noise | 6 % of all values are 0 or 255, each channel for itself | one pixel in six is hit |
| gaussian_noise | standard deviation 0.12 of the range | as on any size |
| pixelate | half the side | 16 x 16 pixels |
| spatter | water where noise, blurred by sigma 3, exceeds 0.68 | a few large drops |
| contrast | 0.3 of the distance to the mean | as on any size |
| jpeg_compression | quality 18 | 16 blocks of brightness, 4 of colour |
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from types import ModuleType

import numpy as np

from wemoe.config_sections import nearest
from wemoe.data.images import Colours

CORRUPTIONS = (
    "motion_blur",
    "impulse_noise",
    "gaussian_noise",
    "pixelate",
    "spatter",
    "contrast",
    "jpeg_compression",
)
SEVERITIES = range(1, 6)
LEAST_SIDE = 32  # of what the library takes
PACKAGE = "imagecorruptions-imaug"
DRAWS = 20  # of one image: on 32 x 32 pixels at severity 1, spatter throws no drop in 1 of 60


@dataclass(frozen=True)
class Corruption:
    """A corruption of one kind and strength: calling it corrupts one image.

    What is drawn for an image depends on `seed`, `name` and the image's row alone. numpy's global state, which the
    library draws from, is put back.

    Attributes:
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of what is drawn.

    Raises:
        ValueError: the name, the severity or the seed is not what it must be.
    """

    name: str
    severity: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            raise ValueError(f"no corruption is called {self.name!r}{nearest(self.name, CORRUPTIONS)}")
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity must be a whole number from 1 to 5; found {self.severity!r}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative; found {self.seed}")

    def __call__(self, image: Colours, row: int) -> Colours:
        """Corrupt one image.

        Args:
            image: [H, W, 3]; it is not changed.
            row: the image's number among its samples.

        Returns:
            The corrupted image, of the same size [H, W, 3].

        Raises:
            ImportError: the library is not installed.
            ValueError: the image is too small.
        """
        if min(image.shape[:2]) < LEAST_SIDE:
            raise ValueError(
                f"an image must have {LEAST_SIDE} x {LEAST_SIDE} pixels or more to be corrupted; "
                f"found {image.shape[0]} x {image.shape[1]}"
            )
        library = _library()
        entropy = [self.seed, zlib.crc32(self.name.encode()), row]
        for drawn in np.random.SeedSequence(entropy).generate_state(DRAWS):
            # Where no drop of spatter falls, the library divides nothing by nothing: it is thrown again.
            with suppress(FloatingPointError), np.errstate(invalid="raise"), _seeded(int(drawn)):
                corrupted: Colours = library.corrupt(image, self.severity, self.name, **self._seed(int(drawn)))
                return corrupted
        raise ValueError(f"{self.name} must give finite colours; found none in {DRAWS} draws for row {row}")

    def _seed(self, drawn: int) -> dict[str, int]:
        """Impulse noise alone has a generator of its own, and does not look at numpy's global one."""
        return {"seed": drawn} if self.name == "impulse_noise" else {}


def library() -> str:
    """Tell the library and its version: `imagecorruptions-imaug 1.1.5`.

    Raises:
        ImportError: it is not installed.
    """
    _library()
    return f"{PACKAGE} {version(PACKAGE)}"


@cache
def _library() -> ModuleType:
    try:
        version(PACKAGE)  # an older package has a module of the same name, which cannot be seeded
        return importlib.import_module("imagecorruptions")
    except ImportError as error:
        raise ImportError(
            f"corrupting images needs {PACKAGE}, pip install 'wemoe[corruptions]', which can't be imported: {error}"
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator for the time of a block."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
