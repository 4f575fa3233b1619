"""A finished run's artifacts, made up by a seeded generator with the shapes and the noise of a real one."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from dynnas_jax import records
from dynnas_jax.dynamic import protocol
from dynnas_jax.reports import plots
from dynnas_jax.stages import evaluate

IMAGES, HELD_OUT, SUBNETS, CLASSES = 800, 300, 60, 10
LITTLE_MACS, BIG_MACS, STEM_MACS = 1_412_096, 6_203_520, 147_456
COST = (LITTLE_MACS, LITTLE_MACS + BIG_MACS - STEM_MACS)
THRESHOLD = 0.8
ARCHS = {
    "little": {"resolution": 32, "width": 1.0, "kernel": [[3, 3], [3, 5], [3]], "expand": [[3, 3], [3, 4], [3]]},
    "big": {
        "resolution": 32,
        "width": 1.0,
        "kernel": [[3, 5, 3], [7, 5, 5, 3], [3, 7, 5]],
        "expand": [[4, 4, 3], [6, 6, 4, 4], [6, 6, 6]],
    },
}


def outputs(rng) -> dict[str, np.ndarray]:
    """Scores and answers of a pair: the harder an image, the less sure and the oftener wrong each net is."""
    label = rng.integers(0, CLASSES, IMAGES).astype(np.int32)
    hardness = rng.beta(1, 4, IMAGES)
    correct = np.stack([rng.random(IMAGES) > 0.55 * hardness, rng.random(IMAGES) > 0.3 * hardness], axis=1)
    wrong = (label[:, None] + rng.integers(1, CLASSES, (IMAGES, 2))) % CLASSES
    prediction = np.where(correct, label[:, None], wrong).astype(np.int32)
    noise = rng.normal(0, 0.25, (IMAGES, 2))
    score = (1 - 10 ** -(0.2 + 3 * (1 - hardness[:, None]) ** 4 + np.abs(noise))).astype(np.float32)
    choice = np.where(score[:, 0] > np.float32(THRESHOLD), 0, 1).astype(np.int32)
    likely = {"probability": score, "among_likeliest": correct | (rng.random((IMAGES, 2)) < 0.7)}
    likely["label_log_odds"] = np.where(correct, 1, -1) * np.log(score / (1 - score))
    answered = dict(score=score, correct=correct, prediction=prediction, **likely)
    return dict(**answered, choice=choice, label=label, image_id=np.arange(IMAGES, dtype=np.int64))


def evaluation(arrays) -> dict:
    pair = {
        "little": {"macs": LITTLE_MACS, "params": 61_450},
        "big": {"macs": BIG_MACS, "params": 287_314},
        "params": 347_100,
        "thresholds": [THRESHOLD],
    }
    out = protocol.Outputs(*(arrays[name] for name in protocol.Outputs._fields))
    summary = evaluate.summary(evaluate.Tested(pair, COST, out, arrays["label"], CLASSES))
    summary["routers"] = [
        {
            "router": "confidence (max_softmax)",
            "macs": 0,
            "params": 0,
            "threshold": THRESHOLD,
            "auroc": 0.9371,
            "auroc_holdout": None,
            "routing_accuracy": 0.91,
            "accuracy": summary["dynamic"]["accuracy"],
            "exit_rate": summary["dynamic"]["exit_rate"][0],
            "average_macs": summary["dynamic"]["macs"],
        }
    ]
    return summary


def found(evaluated) -> dict:
    budgets = np.linspace(1.5e6, 6.5e6, 6)
    front = [
        {
            "budget": float(budget),
            "feasible": True,
            "genome": {"space": "ab12", "genes": {"depth": index}},
            "macs": int(budget * 0.97) if index else LITTLE_MACS,
            "params": int(budget / 22),
            "predicted_accuracy": 0.93 + 0.011 * index**0.6,
            "holdout_accuracy": 0.928 + 0.012 * index**0.6,
        }
        for index, budget in enumerate(budgets)
    ]
    pair = {
        "little": {"genome": front[0]["genome"], "arch": ARCHS["little"], "macs": LITTLE_MACS, "params": 61_450},
        "big": {"genome": {"genes": {"depth": 99}}, "arch": ARCHS["big"], "macs": BIG_MACS, "params": 287_314},
        "stem_macs": STEM_MACS,
        "cost": list(COST),
        "params": 347_100,
        "thresholds": [THRESHOLD],
        "score": "max_softmax",
        "target": {"max_macs": 3e6, "min_accuracy": None},
        "feasible": True,
        "holdout": {"accuracy": 0.951, "average_macs": 2.6e6, "exit_rate": evaluated["dynamic"]["exit_rate"]},
    }
    return {"space": "ab12", "smallest_macs": 9e5, "largest_macs": 7e6, "front": front, "pair": pair}


def metrics(rng) -> list[dict]:
    entries = []
    for step in range(10, 4001, 10):
        decay = 0.25 + 2.1 * np.exp(-step / 700)
        roles = {"largest": 0.9, "smallest": 1.25, "random": 1.05}
        losses = {f"loss_{name}": float(decay * scale * rng.lognormal(0, 0.12)) for name, scale in roles.items()}
        speed = {"images_per_s": float(rng.normal(900, 20)), "time_s": step * 0.14, "learning_rate": 1e-3}
        entries.append({"step": step, "loss": sum(losses.values()), **losses, "accuracy_largest": 0.9, **speed})
        if step % 400 == 0:
            reached = {"largest": 0.96 - 0.5 * np.exp(-step / 800), "smallest": 0.93 - 0.6 * np.exp(-step / 900)}
            entries.append({"step": step, **{f"holdout_accuracy_{name}": float(v) for name, v in reached.items()}})
    return entries


def export(rng, evaluated) -> dict:
    files = {}
    for precision, factor in (("fp32", 1.0), ("int8", 0.45)):
        for name, macs in (("little", LITTLE_MACS), ("big", BIG_MACS), ("big_after_stem", BIG_MACS - STEM_MACS)):
            latency = macs / 7e6 * factor
            accuracy = evaluated[name.split("_")[0]]["accuracy"] - (0.0025 if precision == "int8" else 0.0)
            files[f"{name}_{precision}"] = {
                "function": name,
                "precision": precision,
                "path": f"model_{precision}.tflite",
                "size_bytes": int(macs / 20 * (1 if precision == "fp32" else 0.3)),
                "macs": macs,
                "ops": {"CONV_2D": 14, "DEPTHWISE_CONV_2D": 5, "ADD": 3, "FULLY_CONNECTED": 1, "MEAN": 1},
                "max_logit_difference": 4.1e-6 if precision == "fp32" else None,
                "accuracy": accuracy,
                "accuracy_loss": 0.0025 if precision == "int8" else 0.0,
                "latency_ms": latency,
                "latency_mean_ms": 1.02 * latency,
                "latency_spread_ms": [0.95 * latency, 1.2 * latency],
            }
    cascade = {
        precision: {
            "accuracy": evaluated["dynamic"]["accuracy"],
            "agreement_with_jax": agreement,
            "exit_rate": evaluated["dynamic"]["exit_rate"],
            "latency_ms": 0.24 * factor,
            "latency_mean_ms": 0.43 * factor,
        }
        for precision, factor, agreement in (("fp32", 1.0, 1.0), ("int8", 0.45, 0.9925))
    }
    versions = {"ai_edge_litert": "2.1.0", "jax": "0.10.2"}
    about = {
        "threads": 1,
        "runs": 1000,
        "warm_up": 100,
        "machine": {"board": None, "cpu": "AMD EPYC <2 cores>"},
        "versions": versions,
    }
    return {"files": files, "cascade": cascade, **about}


@pytest.fixture
def drawn():
    """drawn(figure): the pixels of a figure, grey, after a check that it is not blank and nothing was cut off at its edge."""

    def check(figure):
        pixels = np.asarray(Image.open(io.BytesIO(plots.png(figure, dpi=50))).convert("L"))
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert edge.min() == 255, "something touches the edge of the figure"
        assert np.mean(pixels < 200) > 0.005, "blank"
        return pixels

    return check


@pytest.fixture
def images() -> np.ndarray:
    """uint8[n, 32, 32, 3], smooth blobs: the rows of outputs.npz."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (IMAGES, 4, 4, 3)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture
def workdir(tmp_path, images):
    """The folder of a finished run, without its records store (see `records_store`)."""
    rng = np.random.default_rng(7)
    arrays = outputs(rng)
    evaluated = evaluation(arrays)
    actual = 0.9 + 0.05 * rng.random(SUBNETS // 4)
    predicted = actual + rng.normal(0, 0.006, actual.shape)
    config = {"seed": 0, "train": {"steps": 4000, "schedule": {"peak": 1e-3}}, "data": {"name": "<digits> & more"}}
    files = {
        "config.json": config,
        "train/data.json": {"classes": [f"class_{i}" for i in range(CLASSES)]},
        "predict/predictor.json": {
            "kendall_tau": 0.812,
            "held_out": len(actual),
            "fitted": 45,
            "predicted": predicted.tolist(),
            "actual": actual.tolist(),
        },
        "collect/speed.json": {"subnets_per_s": 12.3456, "devices": 8, "width": 4},
        "search/found.json": found(evaluated),
        "evaluate/evaluation.json": evaluated,
        "export/x86/export.json": export(rng, evaluated),
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    lines = "".join(json.dumps(entry) + "\n" for entry in metrics(rng))
    (tmp_path / "train" / "metrics.jsonl").write_text(lines)
    (tmp_path / "train" / "times.jsonl").write_text('{"seconds": 10.5}\n{"seconds": 2.0}\n')
    np.savez(tmp_path / "evaluate" / "outputs.npz", **arrays)
    np.savez(tmp_path / "evaluate" / "samples.npz", row=np.arange(IMAGES), image=images)
    return tmp_path


@pytest.fixture
def records_store(workdir) -> tuple[np.ndarray, np.ndarray]:
    """Writes the records store of `workdir`, its last rows undone; `(macs[n], accuracy[n])` of the complete rows."""
    rng = np.random.default_rng(11)
    macs = np.exp(rng.uniform(np.log(1e6), np.log(7e6), SUBNETS)).round()
    ability = 0.96 - 0.08 * np.exp(-macs / 1.5e6) - np.abs(rng.normal(0, 0.006, SUBNETS))
    correct = rng.permuted(np.arange(HELD_OUT)[None] < (ability * HELD_OUT).round()[:, None], axis=1)
    store = records.create(workdir / "collect" / "records.zarr", "ab12", genes=4, image_id=np.arange(HELD_OUT))
    genome, score = rng.integers(0, 3, (SUBNETS, 4)), rng.random((SUBNETS, HELD_OUT, 1))
    store = store.write(0, genome=genome, score=score, correct=correct[..., None], cost=macs[:, None])
    store.arrays["done"][SUBNETS - 4 :].write(np.zeros(4, bool)).result()
    return macs[:-4], correct[:-4].mean(axis=1)
