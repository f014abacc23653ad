"""Cut the small image pack of the tests, `tests/data/vision4.npz`: four tasks whose images may be passed on.

Run as ``python tools/cut_vision_pack.py [--packages DIR]``. It is the pack of `wemoe data vision8` with fewer images,
and comes out the same every time. `tests/data/LICENSES.md` tells sources and licences.
"""

import argparse
from pathlib import Path

from wemoe.data.vision8.fetching import cut_tasks
from wemoe.data.vision8.pack import ImageTask, Part, Sizes, save_pack

PACK = Path(__file__).resolve().parent.parent / "tests" / "data" / "vision4.npz"
TASKS = ("fashion", "radical", "emoji", "texture")
SIZES = Sizes(pretraining=100, train=240, validation=40, unlabeled=80, test=100)


def without(task: ImageTask, label: str) -> ImageTask:
    """Leave out the images of a label; the numbers of the others stay as they are."""
    number = task.label_names.index(label)
    kept = {part: content.labels != number for part, content in task.parts.items()}
    parts = {part: Part(content.images[kept[part]], content.labels[kept[part]]) for part, content in task.parts.items()}
    return ImageTask(task.label_names, parts)


def main() -> None:
    """Cut the pack and tell its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, help="folder with packages that are there; missing ones are fetched")
    tasks = cut_tasks(SIZES, TASKS, parser.parse_args().packages, print)
    tasks["texture"] = without(tasks["texture"], "moon")  # whose terms nobody states
    save_pack(tasks, PACK)
    print(f"{PACK}: {PACK.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
