"""Parameter counts of PWEMoE: those of the paper's code, and each part of them by hand."""

import pytest

import wemoe
from known_architectures import OF_TRANSFORMERS, build
from wemoe.counting import Counts, count

# Trainable parameters with two-layer routers, 4 T^2 + 3 T each, as the paper's code has them: a router for each of
# 12 or 24 MLPs.
MLPS = {
    ("openclip-vit-b-32", 2): 264,
    ("openclip-vit-b-32", 3): 540,
    ("openclip-vit-b-32", 8): 3_360,
    ("openclip-vit-l-14", 2): 528,
    ("openclip-vit-l-14", 8): 6_720,
    ("gpt2", 7): 2_604,
}


@pytest.mark.parametrize(("architecture", "tasks"), MLPS)
@pytest.mark.parametrize("published", [False, True])
def test_published_counts_with_mlps_routed(architecture, tasks, published):
    counts = count(architecture, tasks, method="pwemoe", published=published)
    assert counts.trainable == MLPS[architecture, tasks]


@pytest.mark.parametrize(("tasks", "trainable"), [(2, 1_430), (8, 18_200)])
def test_published_counts_with_all_modules_routed(tasks, trainable):
    counts = count("openclip-vit-b-32", tasks, method="pwemoe", modules="all", published=True)
    # 3 + 12 * 5 + 2 routers, those of 12 identities, of the text's embeddings and of its norm among them
    assert (counts.routed_modules, counts.trainable) == (65, trainable)


@pytest.mark.parametrize(("tasks", "trainable"), [(2, 1_122), (8, 14_280)])
@pytest.mark.parametrize("architecture", ["openclip-vit-b-32", "hf-clip-vit-b-32"])
def test_modules_that_never_touch_the_output_are_not_routed_unless_published_counts_are_asked_for(
    architecture, tasks, trainable
):
    counts = count(architecture, tasks, method="pwemoe", modules="all")
    assert (counts.routed_modules, counts.trainable) == (51, trainable)


@pytest.mark.parametrize("architecture", OF_TRANSFORMERS)
@pytest.mark.parametrize("modules", ["mlp", "mlp+attention", "all"])
def test_counts_are_those_of_the_model_that_upcycling_makes(architecture, modules):
    base, plan = build(architecture), {"method": "pwemoe", "modules": modules}
    for T, layers in ((2, 2), (8, 2), (3, 1)):
        counts = count(architecture, T, layers, **plan)
        memory = wemoe.estimate_memory(base, T, router_hidden_layers=layers, **plan)
        assert memory.routers == 4 * counts.routers  # bytes in fp32
        assert memory.task_vectors == 4 * counts.task_vectors


@pytest.mark.parametrize("architecture", OF_TRANSFORMERS)
@pytest.mark.parametrize("modules", ["mlp", "mlp+attention", "all"])
def test_models_of_transformers_have_no_module_that_never_touches_the_output(architecture, modules):
    plain, published = (count(architecture, 3, method="pwemoe", modules=modules, published=p) for p in (False, True))
    assert plain == published


@pytest.mark.parametrize(
    ("architecture", "modules", "routed"),
    [
        ("hf-clip-vit-b-32", "mlp", 12),
        ("hf-clip-vit-b-32", "mlp+attention", 24),
        ("hf-clip-vit-b-32", "all", 3 + 12 * 4),
        ("openclip-vit-l-14", "mlp+attention", 48),
        ("openclip-vit-l-14", "all", 3 + 24 * 4),
        ("bert-base-uncased", "all", 1 + 12 * 4),
        ("minilm-l6", "all", 1 + 6 * 4),
        ("gpt2", "mlp+attention", 24),
        ("gpt2", "all", 1 + 12 * 4),
    ],
)
@pytest.mark.parametrize(("layers", "router"), [(1, 7 * 7 + 7), (2, 4 * 7 * 7 + 3 * 7)])
def test_every_routed_module_has_a_router_of_its_own(architecture, modules, routed, layers, router):
    counts = count(architecture, 7, layers, method="pwemoe", modules=modules)
    assert (counts.routed_modules, counts.routers, counts.trainable) == (routed, routed * router, routed * router)


# Parameters of what is routed, by hand: of one block of width D = 768 the MLP 8 D^2 + 5 D, the attention 4 D^2 + 4 D,
# two norms 4 D; around the blocks of CLIP two norms, 4 D, and patches of 32 * 32 * 3; text's leftovers 49,408 * 512
# and 2 * 512.
D = 768
MLP, ATTENTION, NORM = 8 * D * D + 5 * D, 4 * D * D + 4 * D, 2 * D
CLIP_ALL = 12 * (MLP + ATTENTION + 2 * NORM) + 2 * NORM + 32 * 32 * 3 * D
ROUTED = {
    ("openclip-vit-b-32", "mlp", False): 12 * MLP,
    ("openclip-vit-b-32", "mlp+attention", True): 12 * (MLP + ATTENTION),
    ("openclip-vit-b-32", "all", False): CLIP_ALL,
    ("openclip-vit-b-32", "all", True): CLIP_ALL + 49_408 * 512 + 2 * 512,
    ("hf-clip-vit-b-32", "all", False): CLIP_ALL,
    ("bert-base-uncased", "all", False): 12 * (MLP + ATTENTION + 2 * NORM) + NORM,
    ("gpt2", "mlp+attention", False): 12 * (MLP + ATTENTION),
    ("gpt2", "all", False): 12 * (MLP + ATTENTION + 2 * NORM) + NORM,
}
MODELS = {
    "openclip-vit-b-32": 113_448_705,
    "hf-clip-vit-b-32": 87_456_000,
    "bert-base-uncased": 109_482_240,
    "gpt2": 124_439_808,
}


@pytest.mark.parametrize(("architecture", "modules", "published"), ROUTED)
def test_every_routed_module_has_its_base_and_one_task_vector_a_task(architecture, modules, published):
    counts = count(architecture, 2, method="pwemoe", modules=modules, published=published)
    routed, model = ROUTED[architecture, modules, published], MODELS[architecture]
    assert (counts.routed_base, counts.static, counts.individual) == (routed, model - routed, 2 * model)
    assert counts.task_vectors == counts.kept == 2 * routed
    assert counts.total == counts.kept_total == model + 2 * routed + counts.routed_modules * 22
    assert counts.saved == model - 2 * routed - counts.routed_modules * 22


def test_mlps_of_a_preference_weigh_what_those_of_hidden_states_do():
    preference, states = (count("gpt2", 7, method=method) for method in ("pwemoe", "wemoe"))
    parts = ("static", "routed_base", "task_vectors", "routed_modules")
    assert [getattr(preference, name) for name in parts] == [getattr(states, name) for name in parts]
    assert states.trainable == 12 * (D * D + D + 7 * D + 7)


def test_all_of_minilm_to_the_last_parameter():
    D, T = 384, 3
    routed = 6 * (12 * D * D + 9 * D + 4 * D) + 2 * D
    counts = count("minilm-l6", T, 1, method="pwemoe", modules="all")
    assert counts == Counts(
        tasks=T,
        routed_modules=25,
        static=(30_522 + 512 + 2) * D + D * D + D,  # embeddings and pooler
        routed_base=routed,
        task_vectors=T * routed,
        kept=T * routed,
        routers=25 * (T * T + T),
    )


@pytest.mark.parametrize(
    ("layers", "choices", "message"),
    [
        (0, {"method": "pwemoe"}, "must be 1 or 2.*; found 0"),
        (3, {"method": "pwemoe"}, "must be 1 or 2.*; found 3"),
        (2, {"method": "pwemoe", "modules": "attention"}, "modules must be one of mlp, mlp.attention, all; found 'att"),
        (2, {"method": "wemoe", "modules": "all"}, "modules must be 'mlp' .*; found 'all'"),
        (2, {"method": "e_wemoe", "modules": "mlp+attention"}, "modules must be 'mlp' .*; found 'mlp.attention'"),
        (2, {"method": "pwemoe", "prune_ratio": 0.9}, "not of method pwemoe's; found False, 0.9, False"),
        (2, {"method": "pwemoe", "share_router": True}, "not of method pwemoe's; found True, 0.0, False"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(layers, choices, message):
    with pytest.raises(ValueError, match=message):
        count("hf-clip-vit-b-32", 8, layers, **choices)
