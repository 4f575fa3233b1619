"""The stage that measures the found subnets on the test split: superclass by superclass, on unions, and where none is known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynnas_jax import confidence
from dynnas_jax.job import Job, supernet_variables
from dynnas_jax.search import superclass_answers
from dynnas_jax.stages import superclass_generator, superclass_train
from dynnas_jax.stages.superclass_generator import OWN
from dynnas_jax.stages.superclass_search import described
from dynnas_jax.workdir import read_json, write_json

MOST_UNIONS = 12  # that the generator has not seen


def run(job: Job, folder: Path, *, calibration_images: int = 1024) -> tuple[str, ...]:
    """Every method's subnets by the logits of their superclass alone; leaves `evaluation.json`.

    Args:
      calibration_images: for the statistics of the subnets.
    """
    found = read_json(job.workdir.folder("search") / "found.json")
    calibration = job.calibration(calibration_images)
    logits = superclass_answers.Logits(job.supernet, supernet_variables(job), calibration, job.images.test)
    labels, groups = np.asarray(job.images.test.labels), job.superclasses
    rows = []
    for method, told in found["methods"].items():
        for net in told["nets"]:
            classes = groups.classes(groups.members([net["superclass"]]))
            correct = superclass_answers.right(logits(_genome(job, net)), labels, classes)
            entry = {"method": method, "superclass": net["superclass"], "budget": net["budget"]}
            rows.append(entry | {"macs": net["macs"], "cost": net["cost"], "accuracy": float(correct.mean())})
    told = {"split": "test", "images": len(labels), "unit": found["unit"], "nets": rows}
    told["superclass_dropout"] = job.workdir.config["train"].get("superclass_dropout", superclass_train.DROPOUT)
    told["images_of"] = {
        name: int((groups.of_class[labels] == number).sum()) for number, name in enumerate(groups.names)
    }
    np.savez(folder / "outputs.npz", **_outputs(job, found, logits, labels))
    told |= {"unions": _unions(job, found, logits, labels), "unknown": _unknown(job, found, logits, labels)}
    write_json(folder / "evaluation.json", told)
    return "evaluation.json", "outputs.npz"


def _genome(job: Job, told: dict) -> np.ndarray:
    return job.supernet.space.from_json(told["genome"])


def _outputs(job: Job, found: dict, logits: superclass_answers.Logits, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What its superclass's subnet at the middle budget says of every test image, by the logits of the superclass."""
    groups, budget = job.superclasses, found["budgets"][len(found["budgets"]) // 2]
    prediction, score = np.zeros((len(labels), 1), np.int32), np.zeros((len(labels), 1), np.float32)
    for net in found["methods"]["eas"]["nets"]:
        if net["budget"] == budget:
            classes = groups.classes(groups.members([net["superclass"]]))
            mine = np.isin(labels, classes)
            own = logits(_genome(job, net))[mine][:, classes]
            prediction[mine, 0], score[mine, 0] = classes[own.argmax(axis=1)], confidence.max_softmax(own)
    told = {"score": score, "prediction": prediction, "correct": prediction == labels[:, None], "label": labels}
    return told | {"choice": np.zeros(len(labels), np.int32), "image_id": job.images.test.image_id}


def _unions(job: Job, found: dict, logits: superclass_answers.Logits, labels: np.ndarray) -> list[dict[str, Any]]:
    """Unions that the generator was not trained on: its subnet at the middle budget, and OFA-V's of that budget."""
    groups, budget = job.superclasses, found["budgets"][len(found["budgets"]) // 2]
    pairs = itertools.combinations(groups.names, 2)
    unseen = [pair for pair in pairs if groups.title(groups.members(pair)) not in found["tasks"]][:MOST_UNIONS]
    if not unseen:
        return []
    trained = superclass_generator.load(job.workdir.path, job.supernet, job.target)
    answer = trained.answerer(job.supernet, OWN, found["samples"])
    members = np.stack([groups.members(pair) for pair in unseen])
    answered = jax.device_get(answer(members, np.full(len(unseen), budget, np.float32), job.key(10)))
    (general,) = {
        str(net["genome"]): net for net in found["methods"]["ofa_v"]["nets"] if net["budget"] == budget
    }.values()
    rows = []
    for row in range(len(unseen)):
        own = described(job.supernet, trained.table, answered.chosen[row])
        classes = groups.classes(members[row])
        entry = {"union": groups.title(members[row]), "budget": budget, "repaired": bool(answered.repaired[row])}
        for name, net in (("eas", own), ("ofa_v", general)):
            correct = superclass_answers.right(logits(_genome(job, net)), labels, classes)
            entry[name] = {"macs": net["macs"], "cost": net["cost"], "accuracy": float(correct.mean())}
        rows.append(entry | {"images": len(correct)})
    return rows


def _unknown(job: Job, found: dict, logits: superclass_answers.Logits, labels: np.ndarray) -> dict[str, Any]:
    """No superclass is told: the smallest net tells it, then that superclass's own subnet answers; and one general subnet."""
    groups, told = job.superclasses, found["unknown"]
    own = [net for net in found["methods"]["eas"]["nets"] if net["budget"] == told["budget"]]
    first, general = (logits(_genome(job, told[name])) for name in ("first", "general"))
    specialised = [logits(_genome(job, net)) for net in own]
    correct, chosen = superclass_answers.right_unknown(first, specialised, labels, groups.of_class)
    costs = {unit: np.asarray([net[unit] for net in own])[chosen] + told["first"][unit] for unit in ("macs", "cost")}
    truth = groups.of_class[labels]
    return {
        "budget": told["budget"],
        "superclass_accuracy": float((chosen == truth).mean()),
        "first_macs": told["first"]["macs"],
        "two_steps": {"accuracy": float(correct.mean()), **{unit: float(cost.mean()) for unit, cost in costs.items()}},
        "general": {
            "accuracy": float((general.argmax(axis=1) == labels).mean()),
            **{unit: float(told["general"][unit]) for unit in ("macs", "cost")},
        },
        "first_alone": {"accuracy": float((first.argmax(axis=1) == labels).mean()), "macs": told["first"]["macs"]},
    }
