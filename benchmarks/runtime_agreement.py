"""A copied export's own runtime against JAX: python benchmarks/runtime_agreement.py WORKDIR [--target=x86] [--images=N].

The export folder is copied, a fresh virtual environment gets what the copy's requirements.txt names and nothing else, and its
runtime.py decides about every test image there. Prints one JSON object, for each precision: `same_class` and `same_choice`, the
parts of the images where class and exit (or net) are JAX's in `evaluate/outputs.npz`, and both accuracies.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import exported
import numpy as np
import result

from dynnas_jax.workdir import read_arrays

# Runs in the copied folder, which has no package of ours.
DECIDING = """
import sys
sys.path.insert(0, ".")
import numpy, runtime
for precision in sys.argv[2:]:
    classifier = runtime.DynamicClassifier(".", precision)
    answers = [classifier.predict(image) for image in numpy.load(sys.argv[1])]
    told = numpy.asarray([(answer.class_index, answer.choice) for answer in answers])
    numpy.save(precision + ".npy", told)
"""


def decided(folder: Path, images: np.ndarray, precisions: list[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """By precision int[images, 2], the class and which step answered, as a copy of the folder has them by itself; with what."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / "export"))
        np.save(copy / "images.npy", images)
        subprocess.run([sys.executable, "-m", "venv", Path(scratch) / "env"], check=True)
        python = Path(scratch) / "env" / "bin" / "python"
        install = [python, "-m", "pip", "install", "--quiet", "--requirement", copy / "requirements.txt"]
        subprocess.run(install, check=True, stdout=sys.stderr, env=alone)
        listed = subprocess.run([*install[:3], "list", "--format=json"], check=True, stdout=subprocess.PIPE, env=alone)
        command = [python, "-I", "-c", DECIDING, "images.npy", *precisions]
        subprocess.run(command, check=True, cwd=copy)
        installed = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
        return {precision: np.load(copy / f"{precision}.npy") for precision in precisions}, installed


def compared(answers: np.ndarray, evaluated: dict[str, np.ndarray]) -> dict:
    """The figures of one precision, from `decided` and what JAX answered."""
    rows = np.arange(len(answers))
    prediction, choice, label = (evaluated[name][: len(rows)] for name in ("prediction", "choice", "label"))
    steps = prediction.shape[1] > 1  # gates run one path, whichever it is, and its answer is the only one
    jax_answers = prediction[rows, choice if steps else 0]
    figures = {"same_class": float(np.mean(answers[:, 0] == jax_answers))}
    if steps:
        figures["same_choice"] = float(np.mean(answers[:, 1] == choice))
    return figures | {
        "accuracy": float(np.mean(answers[:, 0] == label)),
        "accuracy_in_jax": float(np.mean(jax_answers == label)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--target", help="of an export in it; the run's own by default")
    parser.add_argument("--images", type=int, help="of the test split; all by default")
    known = parser.parse_args()
    folder, precisions, test = exported.read(known.workdir, known.target, images=known.images)
    answers, installed = decided(folder, test.images, precisions)
    evaluated = read_arrays(known.workdir / "evaluate" / "outputs.npz")
    figures = {precision: compared(answers[precision], evaluated) for precision in precisions}
    what = f"the runtime of {folder}, copied, in an environment of its requirements, against JAX"
    result.show(what, {"images": len(test), "installed": installed, **figures})


if __name__ == "__main__":
    main()
