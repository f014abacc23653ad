"""Routing per sample and averaged over the batch, in batches of one task and of all tasks mixed."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import wemoe
from headed import backbone, headed_experts, inputs_for
from models import fine_tuned, randomised
from tiny_images import tiny_image_suite
from tiny_suite import tiny_suite
from wemoe.comparison.making import Made
from wemoe.comparison.scoring import modes_of, score_once
from wemoe.data.batches import Chosen, Task, Texts
from wemoe.data.images import Pixels
from wemoe.data.mixed import MixedBatch, mixed_batches
from wemoe.evaluation.mixed import predict_mixed, read_mixed
from wemoe.evaluation.routing_modes import InBothBatches, predict_in_modes, summarise_modes
from wemoe.heads import task_head
from wemoe.layers import RoutedMLP
from wemoe.routing_scope import BatchReduce
from wemoe.suites import Suite

SUITES = {"texts": tiny_suite, "images": tiny_image_suite}


def routed(suite, **options):
    """A routed model whose routers tell samples apart by far: weights of some tens, of task vectors that are small."""
    model = randomised(wemoe.upcycle(suite.base, suite.experts, progress=False, **options))
    for layer in routed_layers(model):
        layer.router.fc2.weight.data *= 100
    return model


def averaged(model):
    """The same weights in layers that were made to average over the batch."""
    twin = copy.deepcopy(model)
    for layer in routed_layers(twin):
        layer.batch_reduce = True
    return twin


def routed_layers(model):
    return [module for module in model.modules() if isinstance(module, RoutedMLP)]


@pytest.fixture(params=SUITES)
def suite(request):
    return SUITES[request.param]()


def logits_of(suite, model, read):
    """Logits of all test samples by task in the samples' order, read in mixed batches or in those of one task."""
    found = {
        task: torch.full((len(data.test.labels), data.num_labels), torch.nan) for task, data in suite.tasks.items()
    }
    with torch.inference_mode():
        for rows, logits in read(suite, model):
            for task, each in logits.items():
                found[task][rows[task]] = each
    return found


def mixed(suite, model):
    for batch in mixed_batches({task: data.test.samples for task, data in suite.tasks.items()}, 16, seed=0):
        yield batch.rows, read_mixed(suite, model, batch)


def single(suite, model):
    for task, batches in suite.batches().items():
        for batch, _ in batches:
            yield {task: batch.rows}, {task: suite.predict(model, batch, task)}


# --- the mode -------------------------------------------------------------------------------------------------------


def test_a_context_decides_the_mode_and_leaves_the_model_as_it_is(suite):
    model = routed(suite)
    averaging = averaged(model)
    before = [layer.batch_reduce for layer in routed_layers(model)]
    task = next(iter(suite.tasks))
    batch, _ = next(iter(suite.batches([task])[task]))

    def read(model):
        return suite.predict(model, batch, task)

    with torch.inference_mode():
        plain = read(model)
        assert not torch.allclose(plain, read(averaging), rtol=0.1)
        with BatchReduce(True):
            assert torch.equal(read(model), read(averaging))
        with BatchReduce(False):
            assert torch.equal(read(averaging), plain)
        with pytest.raises(KeyError), BatchReduce(True):
            raise KeyError
        assert torch.equal(read(model), plain)
    assert [layer.batch_reduce for layer in routed_layers(model)] == before == [False, False]


def test_what_is_recorded_is_what_the_mode_assembles_with():
    suite = tiny_suite()
    model = routed(suite)
    batch, _ = next(iter(suite.batches(["colours"])["colours"]))
    with torch.inference_mode(), wemoe.record_routing(model) as own:
        model(**batch.inputs)
    with torch.inference_mode(), wemoe.record_routing(model) as over_batch, BatchReduce(True):
        model(**batch.inputs)
    first = next(iter(own))  # its input does not depend on any routing
    assert torch.equal(over_batch[first][0], own[first][0].mean(dim=0).expand(len(batch.rows), -1))
    assert not torch.equal(over_batch[first][0], own[first][0])


# --- mixed batches --------------------------------------------------------------------------------------------------


def drawn(suite, seed):
    """The mixed batches of ten test samples, and by batch which samples of which task it holds."""
    batches = list(mixed_batches({task: data.test.samples for task, data in suite.tasks.items()}, 10, seed))
    return batches, [{task: rows.tolist() for task, rows in batch.rows.items()} for batch in batches]


def test_mixed_batches_hold_every_sample_once_and_several_tasks_at_a_time(suite):
    batches, rows = drawn(suite, seed=1)
    held = [sum(map(len, each.values())) for each in rows]
    total = sum(len(data.test.labels) for data in suite.tasks.values())
    assert held == [min(10, total - start) for start in range(0, total, 10)]
    for batch, count in zip(batches, held, strict=True):
        assert {len(tensor) for tensor in batch.inputs.values()} == {count}
    assert all(each.keys() == suite.tasks.keys() for each in rows[:-1])
    for task, data in suite.tasks.items():
        assert sorted(row for each in rows for row in each.get(task, [])) == list(range(len(data.test.labels)))


def test_the_seed_decides_the_order(suite):
    assert drawn(suite, seed=1)[1] == drawn(suite, seed=1)[1] != drawn(suite, seed=2)[1]


def texts(*lengths, start, pad, side="right"):
    tokens = [
        {"input_ids": torch.arange(start, start + length), "attention_mask": torch.ones(length, dtype=torch.long)}
        for length in lengths
    ]
    return Texts(tokens, {"input_ids": pad}, side)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_filled_up_as_their_own_task_is(side):
    samples = {
        "short": texts(1, 2, start=10, pad=7, side=side),
        "long": Chosen(texts(9, 4, start=50, pad=8, side=side), [1]),
    }
    (batch,) = mixed_batches(samples, 3, seed=0)
    expected = {
        "left": [[7, 7, 7, 10], [7, 7, 10, 11], [50, 51, 52, 53]],
        "right": [[10, 7, 7, 7], [10, 11, 7, 7], [50, 51, 52, 53]],
    }[side]
    assert batch.inputs["input_ids"].tolist() == expected
    assert batch.inputs["attention_mask"].tolist() == [[int(i not in (7, 8)) for i in row] for row in expected]
    assert {task: rows.tolist() for task, rows in batch.rows.items()} == {"short": [0, 1], "long": [0]}


def test_images_of_two_sizes_share_no_batch():
    images = {name: Pixels(np.zeros((2, side, side, 3), np.uint8)) for name, side in (("small", 8), ("large", 16))}
    with pytest.raises(ValueError, match=r"same inputs, of the same shapes; found .*'small': .*\(3, 8, 8\)"):
        list(mixed_batches(images, 4, seed=0))


# --- per sample, company does not matter ----------------------------------------------------------------------------


def test_per_sample_a_samples_logits_do_not_depend_on_its_batch(suite):
    """Sums of some tens of fp32 numbers in another order: a relative error of 1e-6 or so; ten times that is allowed."""
    model = routed(suite)
    alone, in_company = (logits_of(suite, model, read) for read in (single, mixed))
    for task in suite.tasks:
        torch.testing.assert_close(in_company[task], alone[task], rtol=1e-5, atol=1e-5)
    with BatchReduce(True):
        alone, in_company = (logits_of(suite, model, read) for read in (single, mixed))
    for task in suite.tasks:
        assert (in_company[task] - alone[task]).abs().max() > 0.01  # a thousand times as much


def test_predictions_in_mixed_batches_are_in_the_samples_order(suite):
    model = routed(suite).train()
    expected = suite.predictions(model)
    found = predict_mixed(suite, model)
    assert model.training
    assert list(found) == list(suite.tasks)
    for task, each in found.items():
        assert torch.equal(each.classes, expected[task].classes)
        assert torch.equal(each.labels, expected[task].labels)
        assert each.counts == expected[task].counts
    assert len({tuple(each.classes.tolist()) for each in found.values()}) > 1


def test_samples_whose_class_changes_are_counted_in_both_modes(suite):
    model = routed(suite)
    found = predict_in_modes(suite, model)
    assert found["per_sample"].changed == 0
    assert found["batch_averaged"].changed > 0
    averaging = averaged(model)
    summary = summarise_modes(found)
    assert summary["per_sample"]["single"] == suite.score(model)
    assert summary["batch_averaged"]["single"] == suite.score(averaging)
    assert summary["samples"] == sum(len(task.test.labels) for task in suite.tasks.values())


def test_changed_classes_are_counted_by_hand():
    def predicted(*classes):
        return wemoe.evaluation.Predicted(torch.tensor(classes), torch.zeros(len(classes)), 3)

    both = InBothBatches({"a": predicted(0, 1, 2), "b": predicted(1)}, {"a": predicted(0, 2, 1), "b": predicted(0)})
    assert both.changed == 3


# --- heads ----------------------------------------------------------------------------------------------------------


def test_linear_and_zero_shot_heads_share_one_run_of_the_model_a_batch():
    suite = tiny_image_suite()
    classes = nn.functional.normalize(torch.randn(3, 16), dim=-1)
    suite = replace(suite, heads={**suite.heads, "hues": wemoe.ZeroShotHead(classes, torch.tensor(100.0))})
    runs = []
    model = copy.deepcopy(suite.base)
    model.register_forward_hook(lambda *_: runs.append(1))
    found = predict_mixed(suite, model)
    samples = sum(len(task.test.labels) for task in suite.tasks.values())
    assert len({task.pooling for task in suite.tasks.values()}) == 1
    assert len(runs) == math.ceil(samples / min(task.batch_size for task in suite.tasks.values())) > 1
    expected = suite.predictions(model)
    assert all(torch.equal(found[task].classes, expected[task].classes) for task in suite.tasks)
    assert len(set(found["hues"].classes.tolist())) > 1


def test_ways_of_pooling_have_a_run_each():
    suite = tiny_image_suite()
    tasks = suite.tasks | {"hues": replace(suite.tasks["hues"], pooling="pooler")}
    pooled = replace(suite, tasks=tasks)
    found, expected = predict_mixed(pooled, suite.base), pooled.predictions(suite.base)
    assert all(torch.equal(found[task].classes, expected[task].classes) for task in tasks)
    assert not torch.equal(found["hues"].classes, suite.predictions(suite.base)["hues"].classes)


def test_heads_of_headed_models_read_their_own_rows():
    models = headed_experts("bert")
    base = fine_tuned(backbone(models["three"]), seed=3)
    experts = {task: backbone(model) for task, model in models.items()}
    heads = {task: task_head(model, base, task) for task, model in models.items()}
    suite = Suite(base, experts, heads, {task: Task(3) for task in models})
    inputs = inputs_for(models["three"])
    first, second = models
    batch = MixedBatch(inputs, {first: torch.tensor([4]), second: torch.tensor([0, 1])})
    model = routed(suite)
    with torch.inference_mode():
        found = read_mixed(suite, model, batch)
        expected = {task: wemoe.with_head(model, head)(**inputs).logits for task, head in heads.items()}
    assert torch.equal(found[first], expected[first][:1])
    assert torch.equal(found[second], expected[second][1:])


# --- what a row of a comparison tells -------------------------------------------------------------------------------


def test_a_pass_over_test_data_tells_classes_and_routing(suite):
    model = routed(suite)
    scored = score_once(suite, Made(dict.fromkeys(suite.tasks, model)))
    assert scored.accuracies == suite.score(model)
    for task, batches in suite.batches().items():
        with torch.inference_mode(), wemoe.record_routing(model) as routing:
            for batch, _ in batches:
                suite.predict(model, batch, task)
        for layer, weights in routing.items():
            assert torch.equal(scored.routing.weights[task][layer], torch.cat(weights))
    assert scored.routing.experts == tuple(suite.experts)


def test_plain_models_have_classes_alone():
    suite = tiny_image_suite()
    made = Made(suite.experts)
    scored = score_once(suite, made)
    assert scored.accuracies == {task: suite.score(expert, [task])[task] for task, expert in suite.experts.items()}
    labels = {name: task.num_labels for name, task in suite.tasks.items()}
    assert {task: len(counts) for task, counts in scored.counts.items()} == labels
    assert scored.routing is None
    assert modes_of(suite, made, scored) is None
