"""Runs exported classifiers on the device: numpy, Pillow and ai-edge-litert (or onnxruntime), nothing else.

A copy of this module lies in every export folder. There:

    python runtime.py classify photo.jpg
    python runtime.py bench

    from runtime import DynamicClassifier
    print(DynamicClassifier(".").predict("photo_of_the_right_size.png"))
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np

if __package__:
    from dynnas_jax import confidence
    from dynnas_jax.export import bench_command, confined, engines, handover, metadata, photos
else:  # lying alone in an export folder
    import bench_command
    import confidence
    import confined
    import engines
    import handover
    import metadata
    import photos


class Prediction(NamedTuple):
    """The answer for one image."""

    label: str
    class_index: int
    probability: float  # of that class, by the step that answered
    score: float  # that step's confidence, in [0, 1]; where the highest score picks what follows, that one, of any size
    choice: int  # which step answered, from 0; where nets follow each other as they are scored, which way was taken
    step: str  # the name of the net that answered
    latency_ms: float  # the whole decision, from the image in memory to the answer
    scores: tuple[float, ...]  # of all steps that ran


class DynamicClassifier:
    """Nets that run one after the other until one is sure enough, or a single net."""

    def __init__(
        self, path: str | Path, precision: str | None = None, threads: int = 1, delegate: str | None = None
    ) -> None:
        """Opens an export.

        Args:
          path: an export folder, or any of its model files.
          precision: "fp32", "fp16", "dynamic_range" or "int8"; None: the file's, or the one that the target runs.
          threads: of LiteRT or onnxruntime, 1 to `confined.MOST_THREADS`.
          delegate: a delegate's library (libedgetpu.so.1), or an execution provider of onnxruntime.

        Raises: ValueError if a file is absent, damaged, without metadata, or does not fit the others.
        """
        self.metadata, self.files = metadata.find(path, precision, delegate)
        self.threads, self.delegate = threads, delegate
        self.labels = self.metadata["labels"]
        self.image_shape: tuple[int, ...] = tuple(self.metadata["image_shape"])
        self.cost: list[int] = self.metadata["cost"]  # all MACs spent, of each choice
        self._score = confidence.SCORES.get(self.metadata["policy"]["score"])
        self._opened: dict[Path, dict[str, engines.Model]] = {}
        routed = "router" in self.metadata
        self.router = self._open(self.metadata["router"]) if routed else None  # chooses a step before any has run
        if self.router is not None:
            handover.check_router(self.router)
        self.steps = [self._open(name) for name in self.metadata["steps"]]
        routes = metadata.routes(self.metadata)
        self._gates = handover.Gates(self.router, self.steps, routes) if routes else None
        self._choices = {way: number for number, way in enumerate(metadata.choices(self.metadata))}
        in_steps = [] if routes else self.steps
        before = [[self.router] if routed else self.steps[:place] for place in range(len(in_steps))]
        own = not routed and self._score is None
        self._plan = [handover.sources(net, given) for net, given in zip(in_steps, before)]  # noqa: B905
        handover.check_scores(self.steps[:-1] if own else [])
        self.thresholds = self.metadata["thresholds"]

    @property
    def in_turn(self) -> list[engines.Model]:
        """The router, where there is one, and the steps: each reads what ones before it leave."""
        return [self.router, *self.steps] if self.router else self.steps

    @property
    def whole(self) -> dict[str, engines.Model]:
        """The nets that answer alone, by name: what the steps are compared with. They need not be there, nor compiled."""
        return {name: self._open(name) for name in self.metadata.get("whole", []) if self.files[name].exists()}

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Step s answers where its score is strictly above thresholds[s]; may be changed between predictions."""
        return tuple(float(value) for value in self._thresholds)

    @thresholds.setter
    def thresholds(self, values: Sequence[float]) -> None:
        values = [values] if np.ndim(values) == 0 else list(values)
        wanted = 0 if self._gates else len(self.steps) - 1
        if len(values) != wanted:
            raise ValueError(f"{len(values)} thresholds: {len(self.steps)} steps need {wanted}")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
                raise ValueError(f"threshold {value}: give a number in [0, 1], as the scores are")
        self._thresholds = [np.float32(value) for value in values]  # scores are float32

    @property
    def threshold(self) -> float:
        """The one threshold of two steps; may be changed between predictions."""
        if len(self._thresholds) != 1:
            raise ValueError(f"{len(self.steps)} steps have {len(self._thresholds)} thresholds: use `thresholds`")
        return self.thresholds[0]

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.thresholds = [value]

    def predict(self, image: np.ndarray | str | Path) -> Prediction:
        """Classifies one image: uint8[height, width, channels] of the nets' size, or the path of such an image.

        Raises: ValueError for another size or type, or a file that does not decode.
        """
        image = self._checked(image)
        start = time.perf_counter()
        if self._gates is not None:
            logits, scores, way = self._gates.run(image)
            choice, step = self._choices[way], way[-1]
        else:
            logits, scores, choice = self._stepped(image)
            step = self.steps[choice].name
        class_index = int(logits.argmax())
        # A step's score is that probability already, where the policy's is.
        sure = self._score is confidence.max_softmax and self.router is None
        probability = scores[-1] if sure else float(confidence.max_softmax(logits))
        latency_ms = (time.perf_counter() - start) * 1e3
        label = self.labels[class_index]
        return Prediction(label, class_index, probability, scores[-1], choice, step, latency_ms, tuple(scores))

    def _stepped(self, image: np.ndarray) -> tuple[np.ndarray, list[float], int]:
        """(logits, scores of what ran, the step that answered): step after step, or the one that a router picks."""
        carried, scores, first = {}, [], 0
        if self.router is not None:
            carried = self.router.invoke({"image": self.router.store("image", image)})
            scores.append(float(self.router.real("score", carried["score"]).reshape(-1)[0]))
            first = 0 if scores[0] > self._thresholds[0] else 1
        for choice in range(first, len(self.steps)):
            model, sources = self.steps[choice], self._plan[choice]
            inputs = {name: pass_on(carried[name]) for name, pass_on in sources.items() if pass_on is not None}
            if "image" in model.inputs:
                inputs["image"] = model.store("image", image)
            outputs = model.invoke(inputs)
            logits = model.real("logits", outputs["logits"])[0]
            if self.router is not None:
                break
            carried.update(outputs)
            score = self._confidence(model, outputs, logits)
            scores.append(float(score))
            if choice == len(self.steps) - 1 or score > self._thresholds[choice]:
                break
        return logits, scores, choice

    def warm_up(self) -> None:
        """Runs every net once, on noise, so that the first answer does not pay for what is set up on first use."""
        known = {"image": np.random.default_rng(0).integers(0, 256, self.image_shape, np.uint8)}
        for model in self.in_turn:
            known.update(model.run({name: known[name] for name in model.inputs}))

    def inputs_of(self, name: str, image: np.ndarray) -> dict[str, np.ndarray]:
        """What a net, a step or a whole one, is given for an image: real values by input name."""
        known: dict[str, np.ndarray] = {"image": self._checked(image)}
        wanted, steps = self._open(name).inputs, iter(self.in_turn)
        while not set(wanted) <= set(known):
            model = next(steps, None)
            if model is None:
                raise ValueError(f"{name} takes {', '.join(wanted)}, which no step before it gives")
            known.update(model.run({key: known[key] for key in model.inputs}))
        return {key: known[key] for key in wanted}

    def _checked(self, image: np.ndarray | str | Path) -> np.ndarray:
        if isinstance(image, (str, Path)):
            where, image = f"{image} is", photos.read(image, self.image_shape[-1])
        elif isinstance(image, np.ndarray):
            where = "the image is"
        else:
            raise ValueError(f"an image is a uint8 array or a path, not {type(image).__name__}")
        if image.dtype != np.uint8:
            raise ValueError(f"images are uint8 in [0, 255], not {image.dtype}: convert them first")
        if image.shape != self.image_shape:
            raise ValueError(f"{where} {list(image.shape)}, the nets read {list(self.image_shape)}: resize it first")
        return image

    def _confidence(self, model: engines.Model, outputs: dict, logits: np.ndarray) -> np.float32:
        if self._score is not None:
            return self._score(logits)
        if "score" not in outputs:  # a last step need not judge itself
            return confidence.max_softmax(logits)
        return model.real("score", outputs["score"]).reshape(-1)[0]

    def _open(self, name: str) -> engines.Model:
        file = self.files[name]
        if file not in self._opened:
            self._opened[file] = engines.load(file, self.threads, self.delegate)
        nets = self._opened[file]
        if name not in nets:
            told = self.metadata.get("signatures", {}).get(name)
            if len(nets) != 1 or told is None:
                raise ValueError(f"{file.name} holds {', '.join(nets)}, not {name}: the folder mixes two exports")
            nets[name] = engines.renamed(*nets.values(), name, told["inputs"], told["outputs"])
        handover.check_net(nets[name], self.metadata)
        return nets[name]


class Parser(argparse.ArgumentParser):
    """One plain line for a mistake."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists all)\n")


@contextlib.contextmanager
def plainly(program: str) -> Iterator[None]:
    """Ends the program for a mistake of the user's with one plain line and exit code 2."""
    try:
        yield
    except (ValueError, OSError, MemoryError, RecursionError) as error:
        print(f"{program}: {' '.join(str(error).split()) or 'there is not enough memory'}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="runtime.py", description="Runs the classifier of this folder.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    classify = commands.add_parser("classify", help="what is on a picture", allow_abbrev=False)
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="a picture of any size")
    measure = commands.add_parser("bench", help="how fast it is here", allow_abbrev=False)
    show = commands.add_parser("show", help="the metadata of the export, as JSON", allow_abbrev=False)
    for sub in (classify, measure, show):
        sub.add_argument("--model", default=str(Path(__file__).parent), help="another export folder, or a model file")
        add_arguments(sub)
    bench_command.add_arguments(measure)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says how an export is opened."""
    parser.add_argument("--precision", choices=metadata.PRECISIONS, help="where the folder has several")
    parser.add_argument("--threshold", type=thresholds, metavar="T[,T...]", help="instead of the export's own")
    most = f"of LiteRT or onnxruntime (1; at most {confined.MOST_THREADS})"
    parser.add_argument("--threads", type=int, default=1, help=most)
    parser.add_argument("--delegate", help="a library such as libedgetpu.so.1; with ONNX an execution provider")


def thresholds(text: str) -> list[float]:
    """Numbers, commas between them."""
    return [float(part) for part in text.split(",")]


def open_as(known: argparse.Namespace, path: str | Path) -> DynamicClassifier:
    """The export at a path, as the arguments of `add_arguments` say."""
    classifier = DynamicClassifier(path, known.precision, known.threads, known.delegate)
    if known.threshold is not None:
        classifier.thresholds = known.threshold
    return classifier


def classify(known: argparse.Namespace) -> bool:
    """Prints a line for each image; returns whether all could be read."""
    classifier = open_as(known, known.model)
    classifier.warm_up()
    share, complete = classifier.metadata.get("central_share", 1.0), True
    picked = metadata.picks(classifier.metadata)  # then a score is what a gate gave, of any size, and no confidence
    for path in known.images:
        try:
            pixels, done = photos.fitted(path, classifier.image_shape, share)
        except ValueError as error:
            print(f"runtime.py: {error}", file=sys.stderr)
            complete = False
            continue
        answer = classifier.predict(pixels)
        choice, score = ("way", "") if picked else ("exit", f"score {answer.score:.3f}; ")
        print(
            f"{path}: {answer.label}, {answer.probability:.1%} ({choice} {answer.choice + 1} of {len(classifier.cost)}, "
            f"{answer.step}; {score}{answer.latency_ms:.2f} ms{done and f'; {done}'})"
        )
    return complete


def main(arguments: list[str] | None = None) -> None:
    """The command line of an export folder; a mistake of the user's is one plain line and exit code 2."""
    known = _parser().parse_args(arguments)
    with plainly("runtime.py"):
        if known.command == "classify":
            sys.exit(0 if classify(known) else 2)
        if known.command == "show":
            told, _ = metadata.find(known.model, known.precision, known.delegate)
            return print(json.dumps(told, ensure_ascii=False, indent=1))
        import energy  # beside this file: this command line is of the folder alone

        bench_command.run(known, lambda: open_as(known, known.model), energy)


if __name__ == "__main__":
    main()
