"""One configuration file through mergekit (version 0.1.5) and through `wemoe.merge` gives the same weights."""

import importlib.util
import warnings

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import wemoe
from models import experts_of, tiny_bert
from tiny_families import LLAMA

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the peer's own code
    pytest.mark.skipif(importlib.util.find_spec("mergekit") is None, reason="mergekit is not installed"),
]

MODELS = {
    # mergekit 0.1.5 knows the weights of a BERT with a head; it fails at those of a bare BertModel
    "bert": lambda: BertForSequenceClassification(tiny_bert().config),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
}
WEIGHTS = (1.0, 0.6, -0.3)
SEEDS, SIZE = 200, 4096


def entry(model, **parameters):
    return {"model": model, "parameters": parameters}


def experts(**parameters):
    """A list of three experts; a list of values gives each its own."""
    chosen = [{name: v[t] if isinstance(v, tuple) else v for name, v in parameters.items()} for t in range(3)]
    return [entry(f"task{t}", **chosen[t]) for t in range(3)]


FILES = {
    "linear": {"models": experts(weight=WEIGHTS)},
    "linear, sum": {"models": experts(weight=WEIGHTS), "parameters": {"normalize": False}},
    "linear, base": {"models": [entry("base", weight=2.0), *experts(weight=1.0)], "base_model": "base"},
    "task_arithmetic": {"models": experts(weight=WEIGHTS), "parameters": {"lambda": 0.4}},
    "task_arithmetic, mean": {"models": experts(weight=WEIGHTS), "parameters": {"normalize": True}},
    "task_arithmetic, base": {"models": [{"model": "base"}, *experts(weight=0.3)]},
    "ties, 0.2": {"models": experts(weight=1.0, density=0.2)},
    "ties, 0.5": {"models": experts(), "parameters": {"weight": 1.0, "density": 0.5, "lambda": 0.7}},
    "ties, own": {"models": experts(weight=(1.0, 0.6, 0.3), density=(0.2, 0.5, 1.0))},
    "ties, sum": {
        "models": experts(weight=(1.0, 0.6, 0.3), density=(0.2, 0.5, 1.0)),
        "parameters": {"normalize": False, "int8_mask": True},
    },
    "ties, rescale": {"models": experts(weight=1.0, density=0.5), "parameters": {"rescale": True}},
    "ties, text": {"models": experts(weight="5e-1", density="2e-1")},
    "dare_ties": {"models": experts(weight=(1.0, 0.6, 0.3), density=1.0)},
    "dare_ties, mean": {"models": experts(weight=(1.0, 0.6, 0.3)), "parameters": {"normalize": True}},
    "dare_linear": {"models": experts(weight=WEIGHTS, density=1)},
}


@pytest.fixture(scope="module")
def mergekit():
    """Merges as the command `mergekit-yaml` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn, which is not ours to judge
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

    def run(file, output):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            configuration = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
            run_merge(
                configuration, str(output), MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
            )

    return run


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    """A folder of a base and three experts, each saved."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    base = MODELS[request.param]().eval()
    for name, model in {"base": base, **experts_of(base)}.items():
        model.save_pretrained(path / name)
    return path


def in_folder(content, folder):
    """A file's content with absolute paths: mergekit's are relative to the current folder, ours to the file's."""
    models = [each | {"model": str(folder / each["model"])} for each in content["models"]]
    base = {"base_model": str(folder / content["base_model"])} if "base_model" in content else {}
    return content | {"models": models} | base


@pytest.mark.parametrize("name", FILES)
def test_one_file_gives_the_same_weights(mergekit, folder, tmp_path, name):
    content = {"merge_method": name.partition(",")[0], "dtype": "float32", **FILES[name]}
    if content["merge_method"] != "linear":
        content["base_model"] = "base"
    file = tmp_path / "merge.yaml"
    file.write_text(yaml.safe_dump(in_folder(content, folder)))

    mergekit(file, tmp_path / "theirs")
    wemoe.merge(file, tmp_path / "ours", progress=False)

    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    base = load_file(folder / "base" / "model.safetensors")
    assert ours.keys() == theirs.keys() == base.keys()
    for key, expected in theirs.items():
        # sums of four terms below 4 in fp32 whose order differs: each of a few roundings is below 2^-23 * 4 = 5e-7
        torch.testing.assert_close(ours[key], expected, atol=2e-6, rtol=0)
    assert any(not torch.allclose(ours[key], base[key], atol=1e-2) for key in base)


@pytest.mark.parametrize("normalize", [False, True])
def test_dare_ties_below_density_1_agrees_in_expectation(mergekit, normalize):
    from mergekit.merge_methods.api import merge_tensors

    base, *tuned = torch.randn(4, SIZE)
    weights, density = [1.0, 0.6, 0.3], [0.5, 0.7, 0.3]
    settings = {"weight": weights, "density": density, "normalize": normalize}

    def theirs(seed):
        torch.manual_seed(seed)
        return merge_tensors([base, *tuned], "dare_ties", parameters=settings, base_index=0)

    def ours(seed, density=density):
        rows = [{"row": row} for row in tuned]
        options = {"density": density, "weights": weights, "normalize": normalize, "per": "tensor", "scaling": 1.0}
        return wemoe.dare_ties({"row": base}, rows, seed=seed, **options)["row"]

    # Where expectations are equal, deviations in standard errors are nearly normal: their squares have mean 1 and
    # variance 2, so that the mean of 4,096 of them lies within 5 * (2 / 4096)^0.5 = 0.11 of 1, and none is above 6.
    # mergekit rescales to the norm of the tensor, we by the density: the same up to 1 / 4096 of a change.
    expected = draws(theirs)
    found = deviations(draws(ours), expected)
    assert abs(found.square().mean() - 1) < 0.11
    assert found.abs().max() < 6
    # which tells densities of 0.65 and 0.7 apart
    other = deviations(draws(lambda seed: ours(seed, [0.5, 0.65, 0.3])), expected)
    assert other.square().mean() > 1.11
    assert other.abs().max() > 6


def draws(method):
    """What a method gives for each seed, [SEEDS, SIZE]."""
    return torch.stack([method(seed) for seed in range(SEEDS)]).double()


def deviations(ours, theirs):
    """Differences of the means over the seeds, in standard errors of that difference, [SIZE]."""
    return (ours.mean(dim=0) - theirs.mean(dim=0)) / ((ours.var(dim=0) + theirs.var(dim=0)) / SEEDS).sqrt()
