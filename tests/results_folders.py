"""Folders of results as `compare`, `evaluate` and its experiments write them, of made-up numbers."""

import json
import random

TASKS = ("mnist", "fashion", "pendigits", "optdigits", "landsat", "radical", "emoji", "texture")
CLASSES = (10, 10, 10, 10, 6, 40, 30, 24)
CORRUPTIONS = (
    "motion_blur",
    "impulse_noise",
    "gaussian_noise",
    "pixelate",
    "spatter",
    "contrast",
    "jpeg_compression",
)
ROWS = {  # label, kind, objective, level of accuracy, parameters
    "pretrained": ("pre-trained", "reference", None, 0.60, 2.7e6),
    "individual": ("individual experts", "reference", None, 0.88, 21.7e6),
    "average": ("simple average", "static", None, 0.68, 2.7e6),
    "fisher": ("Fisher", "static", None, 0.70, 2.7e6),
    "regmean": ("RegMean", "static", None, 0.79, 2.7e6),
    "task_arithmetic": ("task arithmetic", "static", None, 0.70, 2.7e6),
    "ties": ("TIES", "static", None, 0.71, 2.7e6),
    "dare_ties": ("DARE, TIES", "static", None, 0.70, 2.7e6),
    "adamerging_task_match": ("AdaMerging, task-wise", "learned", "match", 0.72, 2.7e6),
    "adamerging_task_entropy": ("AdaMerging, task-wise", "learned", "entropy", 0.69, 2.7e6),
    "adamerging_match": ("AdaMerging, layer-wise", "learned", "match", 0.80, 2.7e6),
    "adamerging_entropy": ("AdaMerging, layer-wise", "learned", "entropy", 0.73, 2.7e6),
    "adamerging_pp_match": ("AdaMerging++, layer-wise", "learned", "match", 0.80, 2.7e6),
    "wemoe_depth0_match": ("WEMoE, depth 0", "learned", "match", 0.76, 16.9e6),
    "wemoe_depth1_match": ("WEMoE, depth 1", "learned", "match", 0.86, 16.9e6),
    "wemoe_match": ("WEMoE", "learned", "match", 0.865, 17.2e6),
    "wemoe_entropy": ("WEMoE", "learned", "entropy", 0.66, 17.2e6),
    "wemoe_infomax": ("WEMoE", "learned", "infomax", 0.78, 17.2e6),
    "e_wemoe_match": ("E-WEMoE", "learned", "match", 0.85, 4.9e6),
    "e_wemoe_entropy": ("E-WEMoE", "learned", "entropy", 0.67, 4.9e6),
}
ORIGIN = {"suite": {"name": "vision8", "tasks": None}, "dtype": None}
ENVIRONMENT = {
    "wemoe": "0.1.0",
    "python": "3.12.4",
    "platform": "Linux x86_64",
    "packages": {"torch": "2.13.0", "transformers": "5.20.0"},
    "build": {"cuda": False, "compiler": "GCC 12.2"},
    "cpu": {"model": "A processor", "cores": 2, "threads": 2},
    "cuda": {"available": False, "devices": []},
}


def comparison(tasks=TASKS, rows=tuple(ROWS), seed=0):
    draw = random.Random(seed)
    classes = dict(zip(tasks, CLASSES, strict=False))
    made = {name: _row(name, tasks, classes, draw) for name in rows}
    for row in made.values():
        row["normalised"] = sum(row["accuracy"][t] / made["individual"]["accuracy"][t] for t in tasks) / len(tasks)
    return {
        "origin": ORIGIN,
        "seed": seed,
        "steps": 100,
        "tasks": list(tasks),
        "classes": classes,
        "environment": ENVIRONMENT,
        "timings": dict.fromkeys(rows, 12.5),
        "geometry": geometry(tasks, draw),
        "rows": made,
    }


def _row(name, tasks, classes, draw):
    label, kind, objective, level, parameters = ROWS[name]
    accuracy = {task: round(min(0.99, level + draw.uniform(-0.08, 0.08)), 4) for task in tasks}
    learned, routed = kind == "learned", "WEMoE" in label
    options = {"steps": 100, "objective": objective, "learning_rate": 0.005} if learned else {}
    searched = name in ("regmean", "task_arithmetic", "ties", "dare_ties")
    return {
        "label": label,
        "kind": kind,
        "objective": objective,
        "settings": {"scaling": [0.1, 0.3]} if searched else options,
        "options": {"scaling": 0.3} if searched else options,
        "search": [{"scaling": 0.1, "validation": 0.6}, {"scaling": 0.3, "validation": 0.7}] if searched else [],
        "accuracy": accuracy,
        "average": sum(accuracy.values()) / len(tasks),
        "normalised": None,
        "parameters": int(parameters),
        "trained_parameters": 24_000 if learned else 0,
        "peak_memory": 91_200_000,
        "seconds": {"making": 31.25, "search": 30.0 if searched else 0.0, "scoring": 5.0},
        "inference_cost": 1.07 if routed else 1.0,
        "adaptation": {"loss": [0.5, 0.2], "entropy": {}, "collapsed": []} if learned else None,
        "predictions": {task: histogram(classes[task], draw) for task in tasks},
        "modes": modes(tasks, accuracy, draw) if routed else None,
        "routing": routing(tasks, draw, constant="depth 0" in label) if routed else None,
    }


def histogram(classes, draw, samples=500, collapsed=False):
    weights = [draw.uniform(0.6, 1.4) for _ in range(classes)]
    if collapsed:
        weights = [30 if number == 2 else 0.3 * (number % 3) for number in range(classes)]
    chosen = draw.choices(range(classes), weights, k=samples)
    return [chosen.count(number) for number in range(classes)]


def modes(tasks, accuracy, draw):
    lower = {task: accuracy[task] - draw.uniform(0.1, 0.2) for task in tasks}
    return {
        "per_sample": {"single": accuracy, "mixed": dict(accuracy)},
        "batch_averaged": {"single": {task: value + 0.003 for task, value in accuracy.items()}, "mixed": lower},
        "changed": {"per_sample": 0, "batch_averaged": 1234},
        "samples": 500 * len(tasks),
    }


def routing(tasks, draw, layers=6, constant=False):
    mean, first = {}, {}
    shared = [[draw.uniform(0.15, 0.4) for _ in tasks] for _ in range(layers)]
    for number, task in enumerate(tasks):
        mean[task], first[task] = {}, {}
        for layer in range(layers):
            own = 0.0 if constant else 0.12 * layer
            weights = list(shared[layer]) if constant else [draw.uniform(0.05, 0.3) for _ in tasks]
            weights[number] += own
            shares = [0.0] * len(tasks)
            shares[weights.index(max(weights))] = 0.7
            shares[number] += 0.3
            path = f"encoder.layers.{layer}.mlp"
            mean[task][path] = dict(zip(tasks, weights, strict=True))
            first[task][path] = dict(zip(tasks, shares, strict=True))
    return {"samples": dict.fromkeys(tasks, 500), "mean": mean, "first_choice": first}


def geometry(tasks, draw):
    blocks = [f"encoder.layers.{i}.{part}" for i in range(6) for part in ("self_attn", "layer_norm1", "mlp")]
    modules = ["embeddings", *blocks, "post_layernorm"]
    return {
        "modules": modules,
        "l2": {task: [draw.uniform(0.2, 2.0) for _ in modules] for task in tasks},
        "cosine": {
            f"{tasks[t]}|{tasks[u]}": [draw.uniform(-0.15, 0.35) for _ in modules]
            for t in range(len(tasks))
            for u in range(t + 1, len(tasks))
        },
    }


def evaluation(tasks=TASKS, rows=tuple(ROWS), seeds=(0, 1, 2)):
    draw = random.Random(7)

    def figure(value):
        return {"mean": value, "spread": draw.uniform(0.001, 0.01) if len(seeds) > 1 else None}

    def averaged(row):
        accuracy = {task: figure(value) for task, value in row["accuracy"].items()}
        mean = figure(row["average"])
        return {
            "label": row["label"],
            "kind": row["kind"],
            "objective": row["objective"],
            "mean": mean["mean"],
            "spread": mean["spread"],
            "normalised": figure(row["normalised"]),
            "accuracy": accuracy,
            "modes": None
            if row["modes"] is None
            else {
                "per_sample": {batches: figure(row["average"]) for batches in ("single", "mixed")},
                "batch_averaged": {"single": figure(row["average"] + 0.003), "mixed": figure(row["average"] - 0.15)},
                "changed": {"per_sample": 0.0, "batch_averaged": 1234.5},
                "samples": row["modes"]["samples"],
            },
        }

    return {
        "suite": "vision8",
        "seeds": list(seeds),
        "tasks": list(tasks),
        "steps": 100,
        "environment": ENVIRONMENT,
        "runs": {str(seed): f"seed{seed}/comparison.json" for seed in seeds},
        "rows": {name: averaged(row) for name, row in comparison(tasks, rows)["rows"].items()},
    }


SHIFT_ROWS = ("pretrained", "individual", "regmean", "adamerging_match", "wemoe_match", "wemoe_entropy")


def unseen(tasks=TASKS):
    draw = random.Random(11)
    pairs = [_pair(tasks, [tasks[n], tasks[(n + 3) % len(tasks)]], draw) for n in range(3)]
    mean = {
        row: {
            part: sum(pair["rows"][row][f"{part}_mean"] for pair in pairs) / len(pairs) for part in ("seen", "unseen")
        }
        for row in SHIFT_ROWS
    }
    return {
        "origin": ORIGIN,
        "tasks": list(tasks),
        "seed": 0,
        "steps": 100,
        "pairs": pairs,
        "mean": mean,
        "environment": ENVIRONMENT,
    }


def _pair(tasks, names, draw):
    rows = {}
    for row in SHIFT_ROWS:
        level = ROWS[row][3]
        seen = {task: level + draw.uniform(-0.05, 0.05) for task in tasks if task not in names}
        apart = {task: (level if row == "individual" else 0.55) + draw.uniform(-0.05, 0.05) for task in names}
        rows[row] = {
            "seen": seen,
            "unseen": apart,
            "seen_mean": sum(seen.values()) / len(seen),
            "unseen_mean": sum(apart.values()) / len(apart),
            "predictions": {task: histogram(10, draw) for task in tasks},
        }
    return {"unseen": names, "rows": rows}


def corruptions(tasks=TASKS, names=CORRUPTIONS):
    draw = random.Random(13)
    classes = dict(zip(tasks, CLASSES, strict=False))
    found = {}
    labels = {task: histogram(classes[task], draw) for task in tasks}
    for number, name in enumerate(("clean", *names)):
        rows = {}
        for row in SHIFT_ROWS:
            level = ROWS[row][3] - 0.03 * number
            lost = list(tasks[number % len(tasks) :][:2]) if row == "wemoe_entropy" and number else []
            accuracy = {task: 0.15 if task in lost else level + draw.uniform(-0.02, 0.02) for task in tasks}
            rows[row] = {
                "accuracy": accuracy,
                "average": sum(accuracy.values()) / len(tasks),
                "predictions": {task: histogram(classes[task], draw, collapsed=task in lost) for task in tasks},
                "collapsed": lost,
            }
        found[name] = {"reference": "regmean", "rows": rows}
    return {
        "severity": 2,
        "library": "imagecorruptions 1.1.2",
        "origin": ORIGIN,
        "tasks": list(tasks),
        "seed": 0,
        "steps": 100,
        "samples": dict.fromkeys(tasks, 500),
        "classes": classes,
        "labels": labels,
        "corruptions": found,
        "collapses": {row: sum(len(found[name]["rows"][row]["collapsed"]) for name in names) for row in SHIFT_ROWS},
        "threshold": 0.03,
        "environment": ENVIRONMENT,
    }


def write(folder, **files):
    """Write results into a folder, by the names of their files without the ending."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, results in files.items():
        (folder / f"{name}.json").write_text(json.dumps(results))
    return folder


def write_whole(folder):
    """Write all that an evaluation leaves behind."""
    write(folder / "seed0", comparison=comparison())
    return write(folder, evaluation=evaluation(), unseen=unseen(), corruptions=corruptions())
