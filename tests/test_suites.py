"""Suites: one way to read every model of a set of tasks, plain or routed, from folders and files."""

import copy
import gc
import weakref
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2Model,
    ViTModel,
)

import wemoe
from headed import backbone, headed_experts, inputs_for, with_labels
from models import fine_tuned, randomised, tiny_bert, tiny_vit
from task_folders import LABELS, image_folders, image_settings, text_folders, text_settings, write_jsonl
from tiny_texts import tiny_base, tiny_tasks
from wemoe.built_in import Foundation
from wemoe.data import minilm, text6
from wemoe.data.batches import Batch, Labelled, Task, Texts, tokenize_task
from wemoe.data.tables import read_rows
from wemoe.heads import task_head, write_heads
from wemoe.merge_config import parse_config
from wemoe.model_folders import load_model
from wemoe.stopwatch import Stopwatch
from wemoe.stored_weights import open_stored
from wemoe.suite_config import FineTuning
from wemoe.suites import Suite, fine_tuned_suite, load_suite


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_folders(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def suite(folder):
    return load_suite(parse_config(text_settings(folder), folder))


def merged(suite):
    return wemoe.average(suite.base, suite.experts)


def routed(suite):
    return randomised(wemoe.upcycle(suite.base, suite.experts, progress=False))


# --- from folders and files -----------------------------------------------------------------------------------------


def test_a_suite_is_loaded_from_folders_and_files(folder, suite):
    assert list(suite.experts) == list(suite.tasks) == list(LABELS)
    assert {type(model) for model in (suite.base, *suite.experts.values())} == {BertModel}
    for task, names in LABELS.items():
        classifier = BertForSequenceClassification.from_pretrained(folder / task)
        state = suite.experts[task].state_dict()
        assert all(torch.equal(state[name], value) for name, value in classifier.bert.state_dict().items())
        assert torch.equal(suite.heads[task].tensors["classifier.weight"], classifier.classifier.weight)
        assert suite.tasks[task].num_labels == len(names)
        assert suite.tasks[task].unlabeled is suite.tasks[task].train.samples


def accuracy_by_hand(model, folder, task, part):
    """With transformers alone: one text at a time, without padding."""
    (file,) = folder.glob(f"{task}-{part}.*")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    rows = read_rows([file])
    right = 0
    for row in rows:
        logits = model(**tokenizer(row.values["text"], return_tensors="pt")).logits
        right += model.config.id2label[logits.argmax().item()] == row.values["label"]
    return right / len(rows)


def test_a_suites_score_is_the_accuracy_computed_by_hand(folder, suite):
    for task, expert in suite.experts.items():
        model = BertForSequenceClassification.from_pretrained(folder / task).eval()
        for part in ("validation", "test"):
            found = suite.score(expert, [task], part)
            assert found == {task: accuracy_by_hand(model, folder, task, part)}
    scores = [suite.score(expert, part=part) for expert in suite.experts.values() for part in ("train", "test")]
    assert len({share for score in scores for share in score.values()}) > 2  # or the test could not fail


def test_a_headed_plain_merge_is_the_classifier_that_transformers_loads(folder, suite, tmp_path):
    model = merged(suite)
    for task, head in suite.heads.items():
        headed = wemoe.with_head(model, head)
        headed.save_pretrained(tmp_path / task)
        again = BertForSequenceClassification.from_pretrained(tmp_path / task).eval()
        assert again.config.id2label == dict(enumerate(LABELS[task]))
        for batch, _ in suite.batches([task])[task]:
            expected = again(**batch.inputs).logits
            assert torch.equal(headed(**batch.inputs).logits, expected)
            assert torch.equal(suite.predict(model, batch, task), expected)


def test_base_experts_merges_and_routed_models_are_read_alike(suite):
    for model in (suite.base, *suite.experts.values(), merged(suite), routed(suite)):
        for task in suite.tasks:
            batch, _ = next(iter(suite.batches([task])[task]))
            expected = wemoe.with_head(model, suite.heads[task])(**batch.inputs).logits
            assert torch.equal(suite.predict(model, batch, task), expected)


def test_a_suite_is_adapted_on_and_merged_with(suite):
    model = wemoe.upcycle(suite.base, suite.experts, progress=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wemoe.adapt(
        model,
        suite.streams(4, seed=0),
        suite.predict,
        experts=suite.experts,
        steps=2,
        learning_rate=0.1,
        progress=False,
    )
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all("router" in name for name in moved)
    inputs = suite.inputs("validation", 4, seed=0)
    for merge in (wemoe.fisher, wemoe.regmean):
        plain = merge(suite.base, suite.experts, inputs, suite.predict, examples=4)
        assert suite.score(plain).keys() == suite.tasks.keys()


@pytest.mark.parametrize("kind", ["bert", "clip", "gpt2", "vit"])
def test_coefficients_are_learned_through_every_kind_of_head(kind):
    """In training, AdaMerging's parameters are functions of its coefficients; heads read them as they are."""
    models = headed_experts(kind)
    base = fine_tuned(backbone(models["three"]), seed=3)
    experts = {task: backbone(model) for task, model in models.items()}
    heads = {task: task_head(model, base, task) for task, model in models.items()}
    suite = Suite(base, experts, heads, {task: Task(3) for task in models})
    batch = Batch(inputs_for(models["three"]), torch.arange(3))
    streams = {task: [batch] for task in models}
    options = {"steps": 2, "learning_rate": 0.1, "progress": False}
    learned = wemoe.adamerging(base, experts, streams, suite.predict, **options)
    start = wemoe.task_arithmetic(base, experts, scaling=0.3)
    for task in models:
        assert not torch.equal(suite.predict(learned, batch, task), suite.predict(start, batch, task))
        headed = wemoe.with_head(learned, heads[task])
        assert torch.equal(suite.predict(learned, batch, task), headed(**batch.inputs).logits)


def test_streams_are_the_inputs_in_seeded_order(suite):
    for batches in (suite.streams(4, seed=1), suite.inputs("unlabeled", 4, seed=1), suite.inputs("train", 4, seed=1)):
        assert list(batches) == list(suite.tasks)
        for task, found in batches.items():
            expected = suite.streams(4, seed=1)[task]
            assert [batch.rows.tolist() for batch in found] == [batch.rows.tolist() for batch in expected]
            assert sorted(row for batch in found for row in batch.rows.tolist()) == list(range(20))


def test_labelled_streams_are_the_same_order_with_each_samples_own_label(suite):
    pairs = suite.labelled_streams(3, seed=1)
    assert list(pairs) == list(suite.tasks)
    for task, stream in pairs.items():
        train = suite.tasks[task].train
        expected = suite.inputs("train", 3, seed=1)[task]
        for _ in range(2):  # a new order each time
            found = list(stream)
            assert [batch.rows.tolist() for batch, _ in found] == [batch.rows.tolist() for batch in expected]
            assert all(torch.equal(labels, train.labels[batch.rows]) for batch, labels in found)
        assert len(stream) == len(found) == 7  # 20 samples by 3


def test_a_part_of_at_most_so_many_samples_is_the_same_each_time(suite):
    train = suite.tasks["colours"].train
    few = train.at_most(6)
    assert len(few.samples) == len(few.labels) == 6
    assert torch.equal(few.labels, train.at_most(6).labels)
    assert few.samples.rows == sorted(set(few.samples.rows))
    assert few.samples.rows != list(range(6))  # drawn: a file may be sorted by label
    for position, row in enumerate(few.samples.rows):
        found, expected = few.samples.inputs([position]), train.samples.inputs([row])
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert few.labels[position] == train.labels[row]
    assert few.samples.lengths() == [train.samples.lengths()[row] for row in few.samples.rows]
    assert train.at_most(20) is train.at_most(None) is train
    with pytest.raises(ValueError, match="number of samples must be at least 1; found 0"):
        train.at_most(0)


def test_a_suites_loss_is_transformers_own(folder, suite):
    for task in suite.tasks:
        model = BertForSequenceClassification.from_pretrained(folder / task).eval()
        batch, labels = next(iter(suite.labelled_streams(4, seed=0)[task]))
        expected = model(**batch.inputs, labels=labels).loss
        assert torch.equal(suite.loss(suite.experts[task], (batch, labels), task), expected)


def test_what_is_measured_is_the_validation_loss_and_the_test_accuracy(suite, monkeypatch):
    expert = suite.experts["colours"]
    read = []
    predict = Suite.predict

    def counting(self, model, batch, task):
        read.append((task, len(batch.rows)))
        return predict(self, model, batch, task)

    monkeypatch.setattr(Suite, "predict", counting)
    measured = suite.measure(expert)
    assert sum(samples for _, samples in read) == sum(
        len(part.samples) for task in suite.tasks.values() for part in (task.validation, task.test)
    )
    assert measured.accuracies == suite.score(expert)
    for task, data in suite.tasks.items():
        whole = data.validation.samples.batch(list(range(len(data.validation.samples))))
        expected = suite.loss(expert, (whole, data.validation.labels), task).item()
        assert measured.losses[task] == pytest.approx(expected, rel=1e-5)  # fp32, means of other batches


def test_what_is_measured_of_few_samples_is_of_the_same_few(suite):
    read = []
    for model in (suite.base, suite.experts["animals"]):
        batches = {part: suite.batches(part=part, samples=4) for part in ("validation", "test")}
        losses, accuracies = suite.measure(model, samples=4).losses, suite.measure(model, samples=4).accuracies
        assert accuracies == wemoe.evaluate(model, batches["test"], suite.predict)
        read.append([batch.inputs["input_ids"] for batch, _ in batches["validation"]["colours"]])
        assert losses != suite.measure(model).losses
    assert all(torch.equal(*pair) for pair in zip(*read, strict=True))


def test_a_suite_of_some_of_the_tasks_shares_what_it_has(suite):
    pair = suite.only(["animals"])
    assert list(pair.tasks) == list(pair.experts) == list(pair.heads) == ["animals"]
    assert pair.experts["animals"] is suite.experts["animals"]
    assert pair.score(pair.base) == suite.score(suite.base, ["animals"])
    assert list(suite.only(["animals", "colours"]).tasks) == ["animals", "colours"]
    with pytest.raises(ValueError, match=r"tasks must be among the suite's, \['colours', 'animals'\]; found \['icd'\]"):
        suite.only(["icd"])


# --- heads, made once -----------------------------------------------------------------------------------------------


def counted(monkeypatch):
    made = []

    def with_head(model, head):
        made.append((model, head))
        return wemoe.with_head(model, head)

    monkeypatch.setattr("wemoe.head_shells.with_head", with_head)
    return made


def test_a_headed_model_is_made_once_for_each_model_and_task(suite, monkeypatch):
    suite, made = replace(suite), counted(monkeypatch)
    models = (merged(suite), routed(suite))
    for _ in range(2):
        for model in models:
            suite.score(model)
    assert len(made) == 4


def test_a_suite_keeps_no_model_alive_and_leaves_nothing_on_it(suite):
    for make in (merged, routed):
        model = make(suite)
        before = {path: set(vars(module)) for path, module in model.named_modules()}
        suite.score(model)
        assert {path: set(vars(module)) for path, module in model.named_modules()} == before
        gone = weakref.ref(model)
        del model
        gc.collect()
        assert gone() is None


def test_a_model_that_changes_is_read_as_it_is(suite):
    model = merged(suite)
    batch, _ = next(iter(suite.batches(["colours"])["colours"]))
    first = suite.predict(model, batch, "colours")
    model.load_state_dict(suite.experts["animals"].state_dict())
    second = suite.predict(model, batch, "colours")
    assert not torch.equal(first, second)
    assert torch.equal(second, suite.predict(suite.experts["animals"], batch, "colours"))
    model.double()
    exact = suite.predict(model, batch, "colours")
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), second, rtol=1e-4, atol=1e-5)  # fp32 through two blocks of width 16


def test_a_model_in_training_mode_stays_so(suite):
    model = merged(suite).train()
    batch, _ = next(iter(suite.batches(["colours"])["colours"]))
    suite.predict(model, batch, "colours")
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("kind", ["bert", "clip", "gpt2", "vit"])
def test_every_kind_of_head_reads_a_plain_backbone(kind):
    """Also where the backbone has a pooler and the headed class has none (ViT)."""
    experts = headed_experts(kind)
    base = tiny_vit() if kind == "vit" else fine_tuned(backbone(experts["three"]), seed=3)
    for task, expert in experts.items():
        by_hand = copy.deepcopy(expert)
        wanted = backbone(by_hand).state_dict()
        backbone(by_hand).load_state_dict({name: base.state_dict()[name] for name in wanted})
        inputs = inputs_for(expert)
        expected = by_hand(**inputs).logits
        headed = wemoe.with_head(base, expert)
        assert type(headed) is type(expert)
        assert torch.equal(headed(**inputs).logits, expected)
        suite = Suite(base, {}, {task: task_head(expert, base, task)}, {task: Task(3)})
        for _ in range(2):
            assert torch.equal(suite.predict(base, Batch(inputs, torch.arange(3)), task), expected)


def test_a_plain_head_shares_the_backbones_parameters():
    experts = headed_experts("bert")
    base = fine_tuned(backbone(experts["three"]), seed=3)
    first, second = (wemoe.with_head(base, expert) for expert in experts.values())
    shared = {id(parameter) for parameter in base.parameters()}
    for headed in (first, second):
        assert shared <= {id(parameter) for parameter in headed.parameters()}
        assert not headed.classifier.weight.requires_grad


@pytest.mark.parametrize("layers", [1, 3])
def test_a_head_over_another_number_of_blocks_is_refused(layers):
    head = BertForSequenceClassification(tiny_bert(num_hidden_layers=layers).config)
    with pytest.raises(ValueError, match=f"as many blocks as the model; found {layers}, in the model 2"):
        wemoe.with_head(tiny_bert(), head)


# --- linear heads ---------------------------------------------------------------------------------------------------


def linear_suite(model, pooling, inputs):
    head = nn.Linear(16, 3).requires_grad_(False)
    return Suite(model, {}, {"task": head}, {"task": Task(3, pooling=pooling)}), head, Batch(inputs, torch.arange(2))


PADDED = {
    "right": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
    "left": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
}


@pytest.mark.parametrize("side", PADDED)
def test_linear_heads_read_pooled_features(side):
    model = tiny_bert()
    inputs = {"input_ids": torch.randint(1, 50, (2, 5)), "attention_mask": PADDED[side]}
    output = model(**inputs)
    first = {"right": [0, 0], "left": [2, 0]}[side]
    kept = [row[mask.bool()] for row, mask in zip(output.last_hidden_state, PADDED[side], strict=True)]
    features = {
        "mean": torch.stack([row.mean(dim=0) for row in kept]),
        "cls": output.last_hidden_state[[0, 1], first],
        "pooler": output.pooler_output,
    }
    for pooling, expected in features.items():
        suite, head, batch = linear_suite(model, pooling, inputs)
        # sums of at most 5 tokens in another order
        torch.testing.assert_close(suite.predict(model, batch, "task"), head(expected), rtol=1e-5, atol=1e-6)


def test_images_have_no_padding():
    model = tiny_vit()
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8)}
    hidden = model(**inputs).last_hidden_state
    for pooling, expected in {"mean": hidden.mean(dim=1), "cls": hidden[:, 0]}.items():
        suite, head, batch = linear_suite(model, pooling, inputs)
        assert torch.equal(suite.predict(model, batch, "task"), head(expected))


def test_a_model_without_pooler_is_refused():
    model = ViTModel(tiny_vit().config, add_pooling_layer=False).eval()
    suite, _, batch = linear_suite(model, "pooler", {"pixel_values": torch.randn(2, 3, 8, 8)})
    with pytest.raises(ValueError, match="pooling 'pooler' needs a model with a pooler; ViTModel gave no pooled"):
        suite.predict(model, batch, "task")


def test_a_linear_head_reads_a_model_in_half_precision():
    model = tiny_bert().bfloat16()
    suite, _, batch = linear_suite(model, "mean", {"input_ids": torch.ones(2, 5).long()})
    assert suite.predict(model, batch, "task").dtype == torch.float32


# --- decoders and images --------------------------------------------------------------------------------------------


def decoder_folders(folder, pad):
    """GPT-2 with a tokenizer that has an end token and no padding."""
    _, tokenizer = tiny_base()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=16, pad_token_id=pad)
    base = GPT2Model(config).eval()
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    expert = GPT2ForSequenceClassification(with_labels(config, 3)).eval()
    expert.transformer.load_state_dict(fine_tuned(base, seed=1).state_dict())
    expert.save_pretrained(folder / "expert")
    texts = ["the red dog", "owl", "fox is blue", "the duck is pink"]
    write_jsonl(folder / "test.jsonl", [{"text": text, "label": row % 3} for row, text in enumerate(texts)])
    return expert, tokenizer, texts


@pytest.mark.parametrize("pad", [None, 0])
def test_a_decoder_reads_each_texts_last_token(tmp_path, pad):
    expert, tokenizer, texts = decoder_folders(tmp_path, pad)
    settings = {
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "expert"), "task": "words"}],
        "tasks": {"words": {"test": "test.jsonl"}},
    }
    if pad is None:
        with pytest.warns(UserWarning, match=r"its end token '\[SEP\]' pads texts"):
            suite = load_suite(parse_config(settings, tmp_path))
    else:
        suite = load_suite(parse_config(settings, tmp_path))
    ((batch, _),) = suite.batches()["words"]
    assert batch.inputs["input_ids"].shape == (4, 4)
    logits = suite.predict(suite.experts["words"], batch, "words")
    for row, found in zip(batch.rows, logits, strict=True):  # alone, without padding
        alone = expert(**tokenizer(texts[row], return_tensors="pt")).logits[0]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)  # fp32, attention over more masked tokens


def test_a_suite_of_images(tmp_path):
    suite = load_suite(parse_config(image_settings(image_folders(tmp_path)), tmp_path))
    ((batch, labels),) = suite.batches()["colours"]
    assert batch.inputs["pixel_values"].shape == (3, 3, 8, 8)
    logits = suite.predict(suite.experts["colours"], batch, "colours")
    assert torch.equal(logits, load_model(str(tmp_path / "expert"), "x")(**batch.inputs).logits)
    right = (logits.argmax(dim=1) == labels).float().mean().item()
    assert suite.score(suite.experts["colours"]) == {"colours": pytest.approx(right)}
    assert len(suite.streams(2, seed=0)["colours"]) == 2


# --- heads that are named -------------------------------------------------------------------------------------------


def bare_settings(folder, tmp_path, head):
    """An expert that is a backbone alone, and a head beside it."""
    load_model(str(folder / "colours"), "x").bert.save_pretrained(tmp_path / "bare")
    settings = text_settings(folder)
    settings["models"] = [{"model": str(tmp_path / "bare"), "task": "colours"}]
    settings["tasks"] = {"colours": settings["tasks"]["colours"] | ({"head": str(head)} if head else {})}
    return settings


def head_file(folder, *tasks):
    folder.mkdir()
    write_heads({task: nn.Linear(16, 2) for task in tasks}, folder)
    return folder


@pytest.mark.parametrize("kind", ["folder", "file", "another task's", "classifier"])
def test_a_head_may_be_named(folder, tmp_path, kind):
    heads = head_file(tmp_path / "heads", *(["other"] if kind == "another task's" else ["colours", "other"]))
    head = {"file": heads / "heads.safetensors", "classifier": folder / "colours"}.get(kind, heads)
    settings = bare_settings(folder, tmp_path, head)
    settings["tasks"]["colours"]["labels"] = LABELS["colours"]
    suite = load_suite(parse_config(settings, folder))
    found = suite.heads["colours"]
    if kind == "classifier":
        expected = load_file(folder / "colours" / "model.safetensors")["classifier.weight"]
        assert torch.equal(found.tensors["classifier.weight"], expected)
    else:
        name = "other" if kind == "another task's" else "colours"
        assert torch.equal(found.weight, load_file(heads / "heads.safetensors")[f"{name}/weight"])
        assert not found.weight.requires_grad
    assert suite.score(suite.base).keys() == {"colours"}


def test_a_head_that_is_not_there_is_refused(folder, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"tasks.colours.head must name a head \(or zero_shot make one\): no model that was given has one",
    ):
        load_suite(parse_config(bare_settings(folder, tmp_path, None), folder))
    with pytest.raises(FileNotFoundError, match=r"tasks.colours.head must be a folder or a file of heads; found none"):
        load_suite(parse_config(bare_settings(folder, tmp_path, tmp_path / "none"), folder))
    heads = head_file(tmp_path / "heads", "one", "other")
    with pytest.raises(ValueError, match=r"tasks.colours.head must hold a head of this task; .* \['one', 'other'\]"):
        load_suite(parse_config(bare_settings(folder, tmp_path, heads), folder))


# --- models of other kinds --------------------------------------------------------------------------------------------


def test_an_adapter_is_loaded_as_the_model_that_it_makes_of_the_base(folder, tmp_path, monkeypatch):
    """Merging it is peft's work (`tests/peers`); what comes out lies in a folder for as long as it is open."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    opened = []

    @contextmanager
    def open_adapter(path, base, label):
        opened.append((path, str(base), label))
        with open_stored(folder / "colours", label) as weights:
            yield weights

    monkeypatch.setattr("wemoe.adapters.open_adapter", open_adapter)
    settings = text_settings(folder)
    settings["models"][0]["model"] = str(tmp_path / "adapter")
    suite = load_suite(parse_config(settings, folder))
    assert opened == [(tmp_path / "adapter", str(folder / "base"), "the model of task 'colours'")]
    expected = load_file(folder / "colours" / "model.safetensors")
    assert all(
        torch.equal(value, expected[f"bert.{name}"]) for name, value in suite.experts["colours"].state_dict().items()
    )
    assert suite.experts["colours"].config.name_or_path == str(tmp_path / "adapter")


def test_models_come_in_the_dtype_that_is_asked_for(folder):
    suite = load_suite(parse_config(text_settings(folder) | {"dtype": "bfloat16"}, folder))
    assert {model.dtype for model in (suite.base, *suite.experts.values())} == {torch.bfloat16}
    assert suite.score(suite.experts["colours"]).keys() == suite.tasks.keys()


# --- what is asked for and is not there -----------------------------------------------------------------------------


def test_a_part_that_is_missing_is_named(suite):
    tasks = {"colours": replace(suite.tasks["colours"], test=None, unlabeled=None)}
    lacking = replace(suite, tasks=tasks)
    with pytest.raises(ValueError, match="task 'colours' must have labelled test data; found none"):
        lacking.score(suite.base)
    with pytest.raises(ValueError, match=r"task 'colours' must have samples to adapt on: .* adapt_on: test; found"):
        lacking.streams(4, seed=0)
    with pytest.raises(ValueError, match=r"tasks must be among the suite's, \['colours'\]; found \['icd'\]"):
        lacking.score(suite.base, ["icd"])


class Described:
    """A configuration that lacks what the language asks for; a program may make one."""

    suite, tasks, dtype, seed = None, {}, None, 0

    def __init__(self, base_model, experts):
        self.base_model, self.experts = base_model, experts


def test_a_suite_needs_a_base_and_experts(folder):
    with pytest.raises(ValueError, match="base_model must be given"):
        load_suite(Described(None, {"colours": str(folder / "colours")}))
    with pytest.raises(ValueError, match="models must list at least one fine-tuned model; found none"):
        load_suite(Described(str(folder / "base"), {}))


def test_loading_tells_what_it_does(folder):
    lines = []
    load_suite(parse_config(text_settings(folder), folder), watch=Stopwatch(lines.append))
    told = [line.partition("] ")[2] for line in lines]
    assert told == [
        "load expert: colours",
        "load base",
        "load expert: animals",
        "load task: colours",
        "load task: animals",
    ]


# --- the built-in suite ---------------------------------------------------------------------------------------------


def test_the_built_in_suite_has_experts_that_are_made_once(tmp_path, monkeypatch):
    base, tokenizer = tiny_base()
    monkeypatch.setenv("WEMOE_CACHE", str(tmp_path))
    monkeypatch.setattr(minilm, "load", lambda: (base, tokenizer))
    monkeypatch.setattr(text6, "load", tiny_tasks)
    config = parse_config({"suite": {"name": "text6", "max_length": 12, "fine_tuning": {"epochs": 1}}, "seed": 3})
    suite = load_suite(config)
    tasks = {name: tokenize_task(task, tokenizer, 12) for name, task in tiny_tasks().items()}
    again = fine_tuned_suite(Foundation(base, tasks), FineTuning(epochs=1), 3, Stopwatch(lambda _: None))
    assert {file.name.partition("-")[2][:5] for file in (tmp_path / "experts").iterdir()} == {"seed3"}
    assert len(list((tmp_path / "experts").iterdir())) == 2
    for task in suite.tasks:
        states = [each.experts[task].state_dict() for each in (suite, again)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert torch.equal(suite.heads[task].weight, again.heads[task].weight)
    assert suite.score(suite.base) == again.score(base)


def test_a_task_without_training_data_makes_no_expert():
    base, _ = tiny_base()
    test = Labelled(Texts([{"input_ids": torch.tensor([2, 3])}]), torch.tensor([0]))
    with pytest.raises(ValueError, match="an expert is made of a task's training samples; found a task without any"):
        fine_tuned_suite(Foundation(base, {"a": Task(2, test=test)}), FineTuning(), 0, Stopwatch(lambda _: None))
