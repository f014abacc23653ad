"""Parameter counts against the published ones. Those of PWEMoE are in `test_counting_pwemoe.py`."""

import math
from dataclasses import fields
from fractions import Fraction

import pytest

from wemoe.architectures import ARCHITECTURES
from wemoe.counting import Counts, count
from wemoe.routed_methods import kept_entries

# The parameter table of the WEMoE authors (OpenCLIP ViT-B/32, two-layer routers): millions of trainable
# parameters, percentage, millions in total, millions saved against k single models of 113.45 million. The
# percentage of k = 4 is printed there as 2.02: 7.12 / 347.25 is 2.05.
PUBLISHED = {
    1: (7.10, 4.00, 177.21, None),
    2: (7.11, 3.04, 233.89, -6.99),
    3: (7.11, 2.45, 290.57, 49.78),
    4: (7.12, 2.05, 347.25, 106.55),
    5: (7.13, 1.77, 403.93, 163.32),
    6: (7.14, 1.55, 460.61, 220.09),
    7: (7.15, 1.38, 517.28, 276.87),
    8: (7.16, 1.25, 573.96, 333.64),
}

# The same table to the last parameter, by hand: trainable 12 * (768^2 + 768 + 769 k), total
# 113,448,705 + 12 * 4,722,432 k + trainable.
EXACT = {
    1: (7_096_332, 177_214_221),
    2: (7_105_560, 233_892_633),
    3: (7_114_788, 290_571_045),
    4: (7_124_016, 347_249_457),
    5: (7_133_244, 403_927_869),
    6: (7_142_472, 460_606_281),
    7: (7_151_700, 517_284_693),
    8: (7_160_928, 573_963_105),
}

# WEMoE on transformers' CLIPVisionModel, by the same arithmetic: (trainable, total). B/16 with eight tasks is
# also printed among the result files of the E-WEMoE authors.
HF_CLIP = {
    ("hf-clip-vit-b-32", 2): (7_105_560, 207_899_928),
    ("hf-clip-vit-b-32", 4): (7_124_016, 321_256_752),
    ("hf-clip-vit-b-32", 6): (7_142_472, 434_613_576),
    ("hf-clip-vit-b-32", 8): (7_160_928, 547_970_400),
    ("hf-clip-vit-b-16", 2): (7_105_560, 206_243_352),
    ("hf-clip-vit-b-16", 4): (7_124_016, 319_600_176),
    ("hf-clip-vit-b-16", 6): (7_142_472, 432_957_000),
    ("hf-clip-vit-b-16", 8): (7_160_928, 546_313_824),
    ("hf-clip-vit-l-14", 2): (25_239_600, 731_318_320),
    ("hf-clip-vit-l-14", 4): (25_288_800, 1_134_266_464),
    ("hf-clip-vit-l-14", 6): (25_338_000, 1_537_214_608),
    ("hf-clip-vit-l-14", 8): (25_387_200, 1_940_162_752),
}


# E-WEMoE, pruned by 0.9, with a two-layer router that all MLPs share: (trainable, total, entries of task vectors that
# are kept, total of those). The first two are printed among the result files of its authors for B/32 with 4, 6 and 8
# tasks, for B/16 with 4 and 8, and for L/14 with 8.
E_WEMOE = {
    ("openclip-vit-b-32", 2): (592_130, 227_379_203, 11_333_880, 125_374_715),
    ("openclip-vit-b-32", 4): (593_668, 340_719_109, 22_667_760, 136_710_133),
    ("openclip-vit-b-32", 6): (595_206, 454_059_015, 34_001_640, 148_045_551),
    ("openclip-vit-b-32", 8): (596_744, 567_398_921, 45_335_520, 159_380_969),
    ("hf-clip-vit-b-32", 2): (592_130, 201_386_498, 11_333_880, 99_382_010),
    ("hf-clip-vit-b-32", 4): (593_668, 314_726_404, 22_667_760, 110_717_428),
    ("hf-clip-vit-b-32", 6): (595_206, 428_066_310, 34_001_640, 122_052_846),
    ("hf-clip-vit-b-32", 8): (596_744, 541_406_216, 45_335_520, 133_388_264),
    ("hf-clip-vit-b-16", 2): (592_130, 199_729_922, 11_333_880, 97_725_434),
    ("hf-clip-vit-b-16", 4): (593_668, 313_069_828, 22_667_760, 109_060_852),
    ("hf-clip-vit-b-16", 6): (595_206, 426_409_734, 34_001_640, 120_396_270),
    ("hf-clip-vit-b-16", 8): (596_744, 539_749_640, 45_335_520, 131_731_688),
    ("hf-clip-vit-l-14", 2): (1_051_650, 707_130_370, 40_290_000, 344_521_426),
    ("hf-clip-vit-l-14", 4): (1_053_700, 1_110_031_364, 80_580_000, 384_813_476),
    ("hf-clip-vit-l-14", 6): (1_055_750, 1_512_932_358, 120_870_000, 425_105_526),
    ("hf-clip-vit-l-14", 8): (1_057_800, 1_915_833_352, 161_160_000, 465_397_576),
}


def millions(number: int) -> float:
    return round(number / 1e6, 2)


@pytest.mark.parametrize("tasks", PUBLISHED)
def test_published_table(tasks):
    trainable, percentage, total, saved = PUBLISHED[tasks]
    counts = count("openclip-vit-b-32", tasks)
    assert millions(counts.trainable) == trainable
    assert round(counts.percentage, 2) == percentage
    assert millions(counts.total) == total
    # The last column was computed from the rounded ones.
    if saved is not None:
        single = count("openclip-vit-b-32", 1).individual
        assert round(tasks * millions(single) - millions(counts.total), 2) == saved
        assert counts.saved / 1e6 == pytest.approx(saved, abs=0.005 * (tasks + 1))


@pytest.mark.parametrize("tasks", EXACT)
def test_published_table_to_the_last_parameter(tasks):
    counts = count("openclip-vit-b-32", tasks)
    assert (counts.trainable, counts.total) == EXACT[tasks]


@pytest.mark.parametrize(("architecture", "tasks"), HF_CLIP)
def test_transformers_clip(architecture, tasks):
    counts = count(architecture, tasks)
    assert (counts.trainable, counts.total) == HF_CLIP[architecture, tasks]


@pytest.mark.parametrize(("architecture", "tasks"), E_WEMOE)
def test_e_wemoe(architecture, tasks):
    counts = count(architecture, tasks, method="e_wemoe")
    found = counts.trainable, counts.total, counts.kept, counts.kept_total
    assert found == E_WEMOE[architecture, tasks]


def test_e_wemoe_with_other_routers():
    one = count("hf-clip-vit-b-32", 8, router_layers=1, method="e_wemoe")
    assert (one.trainable, one.total) == (6_152, 540_815_624)  # printed by the authors
    assert count("hf-clip-vit-b-32", 8, router_layers=0, method="e_wemoe").trainable == 8
    wider = count("hf-clip-vit-b-32", 8, method="e_wemoe", position_encoding=True)
    assert wider.trainable == 776 * 776 + 776 + 776 * 8 + 8


def test_each_choice_of_e_wemoe_counts_for_itself():
    both, shared, pruned, neither = (
        count("hf-clip-vit-b-32", 8, method="e_wemoe", **choices)
        for choices in ({}, {"prune_ratio": 0}, {"share_router": False}, {"prune_ratio": 0, "share_router": False})
    )
    assert (shared.trainable, shared.kept_total) == (both.trainable, both.total)
    assert (pruned.trainable, pruned.kept) == (neither.trainable, both.kept)
    assert neither == count("hf-clip-vit-b-32", 8)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.29, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("size", [0, 1, 2, 10, 101, 768, 2_359_296])
def test_kept_entries_are_those_above_the_quantile(ratio, size):
    """Of the magnitudes 1, 2, ..., n those above their linearly interpolated quantile, in exact arithmetic."""
    quantile = 1 + Fraction(str(ratio)) * (size - 1)
    above = size - math.floor(quantile) if ratio and size else size
    assert kept_entries(size, ratio) == above


def test_router_depths():
    # The WEMoE authors print 73.8K (0.01 %) for one layer; without any there is a constant per MLP.
    one, zero = (count("openclip-vit-b-32", 8, router_layers=layers) for layers in (1, 0))
    assert (one.trainable, one.total, round(one.percentage, 2)) == (73_824, 566_876_001, 0.01)
    assert (zero.trainable, zero.total) == (96, 566_802_273)


def test_breakdown():
    assert count("openclip-vit-b-32", 2) == Counts(
        tasks=2,
        routed_modules=12,
        static=113_448_705 - 12 * 4_722_432,
        routed_base=12 * 4_722_432,
        task_vectors=2 * 12 * 4_722_432,
        kept=2 * 12 * 4_722_432,
        routers=7_105_560,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("router_layers", [0, 1, 2])
def test_the_parts_make_the_total(architecture, router_layers):
    counts = count(architecture, 3, router_layers)
    no_parts = ("tasks", "routed_modules", "kept")
    parts = sum(getattr(counts, field.name) for field in fields(counts) if field.name not in no_parts)
    assert counts.total == counts.kept_total == parts
    assert counts.saved == 3 * count(architecture, 1).individual - counts.total


# Sizes of single models: OpenCLIP as printed by the WEMoE authors (B/32), the others as their owners load.
@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("openclip-vit-b-32", 113_448_705),
        ("hf-clip-vit-b-32", 87_456_000),
        ("hf-clip-vit-b-16", 85_799_424),
        ("hf-clip-vit-l-14", 303_179_776),
        ("bert-base-uncased", 109_482_240),
        ("minilm-l6", 22_713_216),
        ("gpt2", 124_439_808),
    ],
)
def test_single_models(architecture, parameters):
    assert count(architecture, 1).individual == parameters


@pytest.mark.parametrize("size", ["b-32", "b-16", "l-14"])
def test_openclip_adds_the_projection_and_the_text_leftovers_to_the_same_encoder(size):
    width, text = (1024, 768) if size == "l-14" else (768, 512)
    openclip, transformers = (count(f"{family}-vit-{size}", 1).individual for family in ("openclip", "hf-clip"))
    leftovers = 49_408 * text + 77 * text + 2 * text + text * text + 1
    assert openclip - transformers == width * text + leftovers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet-50", 8), r"architecture must be one of openclip-vit-b-32, .*; found 'resnet-50'"),
        (("hf-clip-vit-b-32", 0), "tasks must be at least 1; found 0"),
        (("hf-clip-vit-b-32", 8, 3), "router_layers must be 0, 1 or 2; found 3"),
    ],
)
def test_errors_name_the_argument_the_rule_and_what_was_found(arguments, message):
    with pytest.raises(ValueError, match=message):
        count(*arguments)


@pytest.mark.parametrize(
    ("layers", "choices", "message"),
    [
        (2, {"method": "moe"}, "method must be one of wemoe, e_wemoe, pwemoe; found 'moe'"),
        (2, {"prune_ratio": 1.0}, r"prune_ratio must be in \[0, 1\); found 1.0"),
        (2, {"prune_ratio": math.nan}, r"prune_ratio must be in \[0, 1\); found nan"),
        (2, {"position_encoding": True}, "needs share_router=True and .*; found share_router=False, depth 2"),
        (0, {"method": "e_wemoe", "position_encoding": True}, "found share_router=True, depth 0"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(layers, choices, message):
    with pytest.raises(ValueError, match=message):
        count("hf-clip-vit-b-32", 8, layers, **choices)
