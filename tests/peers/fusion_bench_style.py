"""What a user of FusionBench's layer writes: upcycle a CLIP, adapt its routers on unlabeled images, evaluate it.

Run by test_fusion_bench.py, once as it stands and once with another import; `averaged`, `per_sample` and `routers` are
what it leaves to be compared.
"""

import copy

import torch
from fusion_bench.models.we_moe import WeightEnsemblingMoE
from transformers import CLIPVisionConfig, CLIPVisionModel

TASKS, CLASSES = 3, 5
WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}

torch.manual_seed(0)
base = CLIPVisionModel(CLIPVisionConfig(image_size=16, patch_size=8, **WIDTHS)).eval()
experts = [copy.deepcopy(base) for _ in range(TASKS)]
for expert in experts:
    for parameter in expert.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
head = torch.nn.Linear(32, CLASSES).requires_grad_(False)
images = torch.randn(TASKS, 4, 3, 16, 16)  # a batch for each task

model = copy.deepcopy(base).requires_grad_(False)
for index, block in enumerate(model.encoder.layers):
    block.mlp = WeightEnsemblingMoE(
        hidden_size=base.config.hidden_size,
        base_model=base.encoder.layers[index].mlp,
        expert_models=[expert.encoder.layers[index].mlp for expert in experts],
        init_lambda=0.3,
        batch_first=True,
        router_hidden_layers=2,
        batch_reduce=True,
    )
layers = [module for module in model.modules() if isinstance(module, WeightEnsemblingMoE)]
torch.manual_seed(1)
for layer in layers:
    assert (layer.num_experts, layer.hidden_size) == (TASKS, 32)
    for parameter in layer.gate.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.2)


def logits_of(batch):
    return head(model(batch).pooler_output)


def entropy(logits):
    probabilities = logits.softmax(dim=-1)
    return -(probabilities * (probabilities + 1e-8).log()).sum(dim=-1).mean()


trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
initial_routers = [parameter.detach().clone() for parameter in trained]
optimizer = torch.optim.Adam(trained, lr=1e-3)
model.train()
for _ in range(2):
    for batch in images:
        entropy(logits_of(batch)).backward(retain_graph=True)
    optimizer.step()
    optimizer.zero_grad()
model.eval()

with torch.no_grad():
    averaged = logits_of(images.flatten(0, 1))
    for layer in layers:
        layer.batch_reduce = False
    per_sample = logits_of(images.flatten(0, 1))
routers = [parameter.detach() for parameter in trained]
