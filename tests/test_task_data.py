"""Tasks from files: what is read, which labels there are, and what every bad row is told."""

import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from transformers import GPT2Config, ViTImageProcessorPil

from task_folders import write_csv, write_jsonl
from tiny_texts import tiny_base
from wemoe.data.batches import ShuffledBatches, Texts, sorted_batches
from wemoe.data.images import Images
from wemoe.data.labels import distinct_names
from wemoe.data.readers import ImageReader, TextReader, load_reader
from wemoe.data.tables import READERS, read_rows
from wemoe.data.task_files import load_task
from wemoe.task_config import SUFFIXES, TaskConfig

BASE, TOKENIZER = tiny_base()
ROWS = [{"text": "the red dog", "label": "b"}, {"text": "the owl", "label": "a"}, {"text": "fox", "label": "b"}]


def reader(columns=("text",), max_length=12):
    return TextReader(TOKENIZER, columns, max_length, 0)


def words(samples, row):
    first, *words, last = TOKENIZER.convert_ids_to_tokens(samples.inputs([row])["input_ids"][0])
    assert (first, last) == ("[CLS]", "[SEP]")
    return " ".join(words)


def task(folder, rows=None, num_labels=2, head_names=(), **settings):
    """The task of one file of test data."""
    config = TaskConfig(**{"test": write_jsonl(folder / "test.jsonl", rows or ROWS), "labels": ("a", "b")} | settings)
    return load_task("movies", config, reader(config.columns), num_labels, head_names)


@pytest.mark.parametrize(("suffix", "write"), [("jsonl", write_jsonl), ("csv", write_csv), ("tsv", None)])
def test_the_three_kinds_of_files_give_the_same_task(tmp_path, suffix, write):
    file = tmp_path / f"test.{suffix}"
    if write is None:
        write_csv(file, ROWS, delimiter="\t")
    else:
        write(file, ROWS)
    test = load_task("movies", TaskConfig(test=file, labels=("a", "b")), reader(), 2).test
    assert [words(test.samples, row) for row in range(3)] == [row["text"] for row in ROWS]
    assert test.labels.tolist() == [1, 0, 1]


def test_every_suffix_has_a_reader():
    assert tuple(READERS) == SUFFIXES


def test_csv_is_quoted_and_tsv_is_not(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"red, ""blue""\ndog",1\n', encoding="utf-8")
    (tmp_path / "a.tsv").write_text('text\tlabel\n"red, blue\t1\n\n', encoding="utf-8-sig")
    quoted, plain = read_rows([tmp_path / "a.csv", tmp_path / "a.tsv"])
    assert (quoted.values, quoted.line) == ({"text": 'red, "blue"\ndog', "label": "1"}, 3)
    assert (plain.values, plain.line) == ({"text": '"red, blue', "label": "1"}, 2)


def test_a_part_may_be_of_several_files_and_parts_may_be_missing(tmp_path):
    files = [write_jsonl(tmp_path / f"{i}.jsonl", [row]) for i, row in enumerate(ROWS)]
    found = load_task("movies", TaskConfig(validation=files, labels=("a", "b")), reader(), 2)
    assert found.validation.labels.tolist() == [1, 0, 1]
    assert found.train is found.test is None


def test_only_the_parts_that_are_asked_for_are_read(tmp_path):
    test = write_jsonl(tmp_path / "test.jsonl", ROWS)
    config = TaskConfig(train=tmp_path / "none.jsonl", test=test, labels=("a", "b"))
    found = load_task("movies", config, reader(), 2, parts=["test"])
    assert found.train is found.unlabeled is None
    assert len(found.test.samples) == 3
    with pytest.raises(FileNotFoundError, match=r"must be a file; found none at '.*none.jsonl'"):
        load_task("movies", config, reader(), 2)


def test_pairs_of_texts_are_read_together(tmp_path):
    rows = [{"premise": "red dog", "hypothesis": "the owl", "label": 0}]
    samples = task(tmp_path, rows, text=("premise", "hypothesis")).test.samples
    expected = TOKENIZER("red dog", "the owl", return_tensors="pt")
    inputs = samples.inputs([0])
    assert all(torch.equal(inputs[name], expected[name]) for name in ("input_ids", "token_type_ids", "attention_mask"))


def test_texts_are_cut(tmp_path):
    file = write_jsonl(tmp_path / "test.jsonl", ROWS)
    config = TaskConfig(test=file, labels=("a", "b"))
    assert load_task("movies", config, reader(max_length=4), 2).test.samples.lengths() == [4, 4, 3]


# --- what is adapted on ---------------------------------------------------------------------------------------------


PARTS = ("train", "validation", "unlabeled", "test")


def texts_by_part(folder):
    return {part: write_jsonl(folder / f"{part}.jsonl", [{"text": "red " * (i + 1), "label": 0}])
            for i, part in enumerate(PARTS)}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "adapt_on", "taken"),
    [
        (PARTS, None, "unlabeled"),
        (("train", "validation", "test"), None, "train"),
        (("validation", "test"), None, "validation"),
        (("test",), None, None),
        (("test",), "test", "test"),
        (PARTS, "validation", "validation"),
    ],
)
def test_what_is_adapted_on(tmp_path, given, adapt_on, taken):
    """Unlabeled data if there are any, then inputs of labelled ones, but of test data only where they are named."""
    files = {part: file for part, file in texts_by_part(tmp_path).items() if part in given}
    found = load_task("movies", TaskConfig(**files, adapt_on=adapt_on), reader(), 2).unlabeled
    if taken is None:
        assert found is None
    else:
        assert found.lengths() == [2 + 1 + PARTS.index(taken)]


def test_unlabeled_data_need_no_labels(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "red"}])
    assert len(load_task("movies", TaskConfig(unlabeled=file), reader(), 2).unlabeled) == 1


# --- labels ---------------------------------------------------------------------------------------------------------


def test_labels_are_names_in_the_order_that_is_given(tmp_path):
    assert task(tmp_path, labels=("b", "a")).test.labels.tolist() == [0, 1, 0]


def test_labels_go_before_the_heads_names_and_these_before_the_data(tmp_path):
    assert task(tmp_path, labels=None, head_names=("b", "a")).test.labels.tolist() == [0, 1, 0]
    assert task(tmp_path, labels=("a", "b"), head_names=("b", "a")).test.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("head_names", [(), ("LABEL_0", "LABEL_1")])
def test_names_that_nobody_has_ordered_are_sorted_with_a_warning(tmp_path, head_names):
    with pytest.warns(UserWarning, match=r"the sorted one is taken, a, b. Name them under tasks.movies.labels"):
        assert task(tmp_path, labels=None, head_names=head_names).test.labels.tolist() == [1, 0, 1]


def test_names_are_found_in_all_labelled_parts(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", [{"text": "red", "label": "a0"}])
    with pytest.warns(UserWarning, match="a, a0, b"):
        assert task(tmp_path, labels=None, train=train, num_labels=3).test.labels.tolist() == [2, 0, 2]


def test_names_that_nobody_has_ordered_must_be_as_many_as_the_head_has(tmp_path):
    with pytest.raises(ValueError, match=r"tasks.movies.labels must name the head's 3 labels .* the data have 2: a, b"):
        task(tmp_path, labels=None, num_labels=3)


@pytest.mark.parametrize(("suffix", "write"), [("jsonl", write_jsonl), ("csv", write_csv)])
def test_labels_are_numbers(tmp_path, suffix, write):
    file = write(tmp_path / f"a.{suffix}", [{"text": "red", "label": number} for number in (2, 0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_task("movies", TaskConfig(test=file), reader(), 3).test.labels.tolist() == [2, 0]


def test_a_name_goes_before_a_number(tmp_path):
    rows = [{"text": "red", "label": label} for label in ("1", 1, "0")]
    assert task(tmp_path, rows, labels=("1", "0")).test.labels.tolist() == [0, 1, 1]


def test_numbers_are_no_names(tmp_path):
    rows = read_rows([write_jsonl(tmp_path / "a.jsonl", [{"y": "7"}, {"y": 3}, {"y": "b"}, {"y": "a"}])])
    assert distinct_names(rows, "y") == ("a", "b")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("aa", r"a label's name \('a', 'b'\) or a number from 0 to 1; found 'aa'; did you mean 'a'\?"),
        ("z", r"or a number from 0 to 1; found 'z'$"),
        (2, "a number from 0 to 1; found 2"),
        ("-1", "a number from 0 to 1; found '-1'"),
        (True, "a number from 0 to 1; found True"),
        (0.0, "a number from 0 to 1; found 0.0"),
        (None, "a number from 0 to 1; found None"),
    ],
)
def test_an_unknown_label_is_refused(tmp_path, label, message):
    with pytest.raises(ValueError, match=f"test.jsonl, line 2: column 'label' must be .*{message}"):
        task(tmp_path, [*ROWS[:1], {"text": "red", "label": label}])


def test_few_of_many_labels_are_shown(tmp_path):
    names = tuple(f"label {chr(ord('a') + i)}" for i in range(12))
    with pytest.raises(ValueError, match=r"'label j', \.\.\.\) or a number from 0 to 11; found 'x'"):
        task(tmp_path, [{"text": "red", "label": "x"}], labels=names, num_labels=12)


def test_labels_must_be_as_many_as_the_head_has(tmp_path):
    with pytest.raises(ValueError, match=r"tasks.movies.labels must be as many as the head has outputs, 3; found 2"):
        task(tmp_path, num_labels=3)


# --- bad files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl must hold at least one sample; found none"),
        ("a.csv", b"text,label\n", "a.csv must hold at least one sample; found none"),
        ("a.jsonl", b'{"text": "red", "label": 0}\n{"text"\n', "a.jsonl, line 2 must be JSON; found: "),
        ("a.jsonl", b'["red", 0]\n', "a.jsonl, line 1 must be a JSON object; found list"),
        ("a.jsonl", b'{"text": "\xff", "label": 0}\n', "a.jsonl must be UTF-8 text; found: "),
        ("a.csv", b"text,label\nred,0,1\n", "a.csv, line 2 must have as many columns as the first line, 2; found 3"),
        ("a.csv", b'text,label\n"red,0\n', "a.csv, line 2 must be well formed; found: "),
        ("a.tsv", b"text\ttext\nred\t0\n", r"a.tsv, line 1 must name columns that are distinct; found \['text', "),
        ("a.jsonl", b'{"text": 3, "label": 0}\n', "a.jsonl, line 1: column 'text' must be a text; found 3"),
        ("a.jsonl", b'{"text": null, "label": 0}\n', "a.jsonl, line 1: column 'text' must be a text; found None"),
        (
            "a.jsonl",
            b'\n{"sentence": "red", "label": 0}\n',
            r"a.jsonl, line 2: column 'text' must be there; found the columns \['sentence', 'label'\]",
        ),
        ("a.csv", b"text,y\nred,0\n", r"line 2: column 'label' must be there; found the columns \['text', 'y'\]"),
    ],
)
def test_a_bad_file_is_refused_with_file_line_and_column(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_task("movies", TaskConfig(test=tmp_path / name, labels=("a", "b")), reader(), 2)


def test_a_text_without_a_token_is_refused(tmp_path):
    """A decoder's tokenizer adds none of its own; a model cannot read nothing."""
    rows = read_rows([write_jsonl(tmp_path / "a.jsonl", [{"text": ""}])])

    class Plain:
        pad_token_id, pad_token_type_id, padding_side = 0, 0, "right"

        def __call__(self, texts, **_options):
            return {"input_ids": [[] for _ in texts], "attention_mask": [[] for _ in texts]}

    with pytest.raises(ValueError, match=r"a.jsonl, line 1: column 'text' must have at least one token; found ''"):
        TextReader(Plain(), ("text",), 12, 0).read(rows)


# --- batches --------------------------------------------------------------------------------------------------------


def test_texts_are_padded_as_the_tokenizer_says():
    tokens = [{"input_ids": torch.tensor(row), "attention_mask": torch.ones(len(row)).long()} for row in ([5, 6], [7])]
    right = Texts(tokens, {"input_ids": 9}).inputs([1, 0])
    assert right["input_ids"].tolist() == [[7, 9], [5, 6]]
    assert right["attention_mask"].tolist() == [[1, 0], [1, 1]]
    left = Texts(tokens, {"input_ids": 9}, "left").inputs([1, 0])
    assert left["input_ids"].tolist() == [[9, 7], [5, 6]]
    assert left["attention_mask"].tolist() == [[0, 1], [1, 1]]


# --- readers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    TOKENIZER.save_pretrained(folder)
    BASE.save_pretrained(folder)
    return str(folder)


TASK = TaskConfig(test=Path("a.jsonl"))


def test_texts_may_be_as_long_as_the_model_reads(base_folder):
    assert load_reader(base_folder, TASK, BASE.config, None).max_length == 16
    assert load_reader(base_folder, TASK, GPT2Config(n_positions=2000), None).max_length == 512
    assert load_reader(base_folder, TASK.model_copy(update={"max_length": 7}), BASE.config, None).max_length == 7
    with pytest.raises(ValueError, match="max_length must be at most what the model can read, 16; found 17"):
        load_reader(base_folder, TASK.model_copy(update={"max_length": 17}), BASE.config, None)


def test_the_head_decides_what_pads_and_then_the_tokenizer(base_folder):
    assert load_reader(base_folder, TASK, BASE.config, 5).pad_token_id == 5
    assert load_reader(base_folder, TASK, BASE.config, None).pad_token_id == 0


def without_padding(folder, end):
    _, tokenizer = tiny_base()
    tokenizer.pad_token = None
    tokenizer.eos_token = end
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    with pytest.warns(UserWarning, match=r"has no padding token; its end token '\[SEP\]' pads texts, and the"):
        assert load_reader(without_padding(tmp_path, "[SEP]"), TASK, BASE.config, None).pad_token_id == 3


def test_a_tokenizer_without_padding_and_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have a padding token or an end token; found neither"):
        load_reader(without_padding(tmp_path, None), TASK, BASE.config, None)


def test_a_folder_without_tokenizer_or_processor_is_refused(tmp_path):
    BASE.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have a tokenizer, to read texts; found"):
        load_reader(str(tmp_path), TASK, BASE.config, None)
    with pytest.raises(ValueError, match="must have an image processor, to read images; found"):
        load_reader(str(tmp_path), TASK.model_copy(update={"image": "image"}), BASE.config, None)


# --- images ---------------------------------------------------------------------------------------------------------


PROCESSOR = ViTImageProcessorPil(size={"height": 8, "width": 8})


def image_task(folder, path="red.png"):
    Image.new("L", (10, 9), 255).save(folder / "red.png")
    file = write_jsonl(folder / "a.jsonl", [{"image": path, "label": 1}, {"image": "red.png", "label": 0}])
    return load_task("colours", TaskConfig(test=file, image="image"), ImageReader(PROCESSOR, "image"), 2)


def test_images_are_prepared_by_the_models_own_processor(tmp_path):
    test = image_task(tmp_path).test
    ((batch, labels),) = test.sorted_batches(2)
    expected = PROCESSOR(images=Image.open(tmp_path / "red.png").convert("RGB"), return_tensors="pt")["pixel_values"]
    assert torch.equal(batch.inputs["pixel_values"], expected.expand(2, 3, 8, 8))
    assert labels.tolist() == [1, 0]


def test_images_come_in_the_seeds_order(tmp_path):
    samples = image_task(tmp_path).test.samples
    batches = ShuffledBatches(samples, 1, seed=0)
    assert sorted(batch.rows.item() for batch in batches) == [0, 1]
    assert [batch.rows.item() for batch in sorted_batches(samples, 1)] == [0, 1]


def test_a_missing_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: column 'image' must be the path of an image; found no"):
        image_task(tmp_path, path="blue.png")


def test_what_is_no_image_is_refused_when_it_is_read(tmp_path):
    task = image_task(tmp_path, path="a.jsonl")
    with pytest.raises(ValueError, match=r"a.jsonl' must be an image; found: "):
        next(iter(task.test.sorted_batches(2)))


def test_images_of_several_sizes_are_refused(tmp_path):
    Image.new("RGB", (10, 9)).save(tmp_path / "small.png")
    Image.new("RGB", (12, 9)).save(tmp_path / "large.png")
    images = Images([tmp_path / "small.png", tmp_path / "large.png"], ViTImageProcessorPil(do_resize=False))
    with pytest.raises(ValueError, match=r"must make all images of a batch one size; found \[\(3, 9, 10\), "):
        images.inputs([0, 1])


def test_images_are_pooled_by_the_model_and_texts_by_their_mean(tmp_path):
    assert image_task(tmp_path).pooling == "pooler"
    assert task(tmp_path).pooling == "mean"
    assert task(tmp_path, pooling="cls").pooling == "cls"


# --- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "must name data for at least one of train, validation, unlabeled, test; found none"),
        ({"test": "a.txt"}, "test must end in one of .jsonl, .csv, .tsv, or be a folder of images, .*; found 'a.txt'"),
        ({"test": []}, "at least 1 item"),
        ({"test": "a.csv", "text": "a", "image": "b"}, "either text or image; found both"),
        ({"test": "a.csv", "adapt_on": "train"}, r"adapt_on must name a part that the task has, \['test'\]; found 'tr"),
        ({"test": "a.csv", "labels": ["a", "a"]}, r"labels must be distinct; found \['a', 'a'\]"),
        ({"test": "a.csv", "labels": ["a"]}, "at least 2 items"),
        ({"test": "a.csv", "pooling": "max"}, "'mean', 'cls' or 'pooler'"),
        ({"test": "a.csv", "lable": "y"}, "Extra inputs are not permitted"),
        ({"test": "a.csv", "batch_size": 0}, "greater than or equal to 1"),
    ],
)
def test_a_task_that_is_described_badly_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TaskConfig.model_validate(settings)
