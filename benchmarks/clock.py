"""The exported pair of a run against its big net alone, on the clock: python benchmarks/clock.py WORKDIR [--rounds=5].

The whole test split goes through the runtime of the run's own export, image by image, one thread, batch 1: the dynamic network,
and big alone as an export of its own with the same runtime. For every image one runs right behind the other, in turns, and the
time of an image is the median of the rounds, so that what else runs on the machine moves nothing; a first round warms up.
Prints one JSON object, for each precision:

`speed_up` is big's time over dynamic's for the whole split, with the least and the most of what is found without one round.
What could be had at this exit rate: `by_macs` is big's MACs over the average MACs of an image, `by_litert` the same with LiteRT's
own median times of the nets in the place of MACs. What is lacking between `by_litert` and `speed_up` the runtime takes: a second
call, the score, what is passed on.
"""

import argparse
import tempfile
import time
from pathlib import Path

import exported
import numpy as np
import result

from dynnas_jax.export import flatbuffer, runtime

TIMED = 2000  # calls of each net alone


def big_alone(classifier: runtime.DynamicClassifier, folder: Path) -> runtime.DynamicClassifier:
    """The same file, with metadata that say that big answers every image."""
    told, file = classifier.metadata, classifier.files["big"]
    cost, files = [told["macs"]["big"]], {"big": file.name}
    alone = {**told, "steps": ["big"], "whole": [], "files": files, "cost": cost, "thresholds": []}
    (folder / file.name).write_bytes(flatbuffer.pack_metadata(file, alone))
    return runtime.DynamicClassifier(folder / file.name)


def in_turns(calls: list, images: np.ndarray) -> tuple[np.ndarray, list]:
    """(seconds float[calls, images], the answers of each call), one image by all of them before the next."""
    spent, answers = np.empty((len(calls), len(images))), [[] for _ in calls]
    for number, image in enumerate(images):
        for place in np.roll(np.arange(len(calls)), number):
            start = time.perf_counter()
            answer = calls[place](image)
            spent[place, number] = time.perf_counter() - start
            answers[place].append(answer)
    return spent, answers


def mean_ms(rounds: list[np.ndarray]) -> np.ndarray:
    """float[calls]: of an image on average, each the median of its rounds."""
    return np.median(rounds, axis=0).mean(axis=-1) * 1e3


def by_litert_ms(classifier: runtime.DynamicClassifier, images: np.ndarray) -> dict[str, float]:
    """Median milliseconds of LiteRT alone, without the runtime, of the steps and of big; in turns too."""
    nets = {model.name: model for model in (*classifier.steps, *classifier.whole.values())}
    given = [
        {name: {key: model.store(key, value) for key, value in classifier.inputs_of(name, image).items()}}
        for image in images[:20]
        for name, model in nets.items()
    ]
    seconds = {name: [] for name in nets}
    for _ in range(TIMED // 20):
        for row in given:
            for name, values in row.items():
                start = time.perf_counter()
                nets[name].invoke(values)
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(own) * 1e3) for name, own in seconds.items()}


def compared(folder: Path, precision: str, images: np.ndarray, labels: np.ndarray, rounds: int) -> dict:
    """The figures of one precision."""
    dynamic = runtime.DynamicClassifier(folder, precision)
    with tempfile.TemporaryDirectory() as scratch:
        alone = big_alone(dynamic, Path(scratch))
        runs = [in_turns([dynamic.predict, alone.predict], images) for _ in range(1 + rounds)][1:]
    spent, answers = [seconds for seconds, _ in runs], runs[0][1]
    dynamic_ms, big_ms = mean_ms(spent).tolist()
    without = [mean_ms(spent[:skip] + spent[skip + 1 :]) for skip in range(rounds)] if rounds > 1 else [mean_ms(spent)]
    ratios = [float(big / own) for own, big in without]
    accuracy = [float(np.mean([a.class_index for a in own] == labels)) for own in answers]
    passed = float(np.mean([answer.choice for answer in answers[0]]))
    little, behind = (model.name for model in dynamic.steps)
    litert, macs = by_litert_ms(dynamic, images), dynamic.metadata["macs"]
    could = {
        name: cost["big"] / (cost[little] + passed * cost[behind])
        for name, cost in (("by_macs", macs), ("by_litert", litert))
    }
    return {
        "accuracy": dict(zip(("dynamic", "big"), accuracy, strict=True)),
        "passed_on": passed,
        "mean_ms": {"dynamic": dynamic_ms, "big": big_ms},
        "speed_up": big_ms / dynamic_ms,
        "speed_up_range": [min(ratios), max(ratios)],
        **could,
        "litert_ms": litert,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="over the whole test split, behind one that warms up")
    parser.add_argument("--images", type=int, help="of the test split; all by default")
    known = parser.parse_args()
    folder, precisions, test = exported.read(known.workdir, images=known.images)
    figures = {p: compared(folder, p, test.images, test.labels, known.rounds) for p in precisions}
    what = f"the exported pair of {known.workdir} against its big net alone"
    result.show(what, {"images": len(test), "n": known.rounds, **figures}, packages=("ai-edge-litert",))


if __name__ == "__main__":
    main()
