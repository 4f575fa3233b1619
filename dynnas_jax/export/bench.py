"""How fast an export is on the machine at hand, in what memory, and for what energy.

A copy of this module lies in every export folder: `python runtime.py bench` there, `dynnas bench FOLDER` elsewhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if __package__:
    from dynnas_jax.export import machine, targets
else:  # lying alone in an export folder
    import machine
    import targets

VERSION = 1  # of the JSON
KIND = "dynnas bench"
DECISION = "decision"  # the section of the whole decision; the others are named after their nets
RUNS, WARM_UP = 1000, 100
_SETS = 20  # of a net's inputs: stem tensors are large


class _Absent:
    """The kind of what is not there."""


# What results must hold to be read: kinds by key, several in a tuple; in a list that of each element, and how many at least.
_ABSENT, _EACH = _Absent(), "*"
_NONE, _NUMBER = type(None), (int, float)
_TOO_LARGE = 2**63  # for anything that is measured
_COUNT, _BYTES = range(1, _TOO_LARGE), range(_TOO_LARGE)
_WINDOW = {"start_s": _NUMBER, "end_s": _NUMBER, "calls": _COUNT, "rapl_j": (int, float, _NONE)}
_SECTION = {
    "latency_ms": dict.fromkeys(("median_ms", "p95_ms", "mean_ms"), _NUMBER),
    "throughput_per_s": _NUMBER,
    "window": (_NONE, _WINDOW),
    "energy": (_Absent, _NONE, {"energy_mj": _NUMBER, "source": str}),
}
_RESULTS = {
    "started": str,
    "model": {
        **dict.fromkeys(("target", "precision"), (str, _NONE)),
        "steps": [str, 1],
        "thresholds": [_NUMBER],
        "files": {_EACH: {"sha256": str}},
    },
    "machine": {
        **dict.fromkeys(("board", "cpu", "governor"), (str, _NONE)),
        "architecture": str,
        "temperature_c": [(int, float, _NONE)],
    },
    "settings": {**dict.fromkeys(("runs", "threads", "image_count"), _COUNT), "images": str, "delegate": (str, _NONE)},
    **dict.fromkeys(("before_opening_bytes", "peak_memory_bytes"), _BYTES),
    "exit_rate": [_NUMBER],
    "sections": {DECISION: _SECTION, _EACH: _SECTION},
}


class Latency(NamedTuple):
    """Milliseconds of one call, over the runs of a benchmark."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    p95_ms: float
    mean_ms: float


class Window(NamedTuple):
    """A time in which calls ran one after the other, for its energy."""

    start_s: float  # since 1970
    end_s: float
    calls: int
    rapl_j: float | None  # what the processor's counters say, where they may be read


def timed(call: Callable, inputs: Sequence, *, runs: int = RUNS, warm_up: int = WARM_UP) -> Latency:
    """Times single calls, one input after the other and round again.

    Args:
      call: of one input; inputs: at least one; runs: calls that count; warm_up: calls before them.
    """
    if len(inputs) == 0 or runs < 1 or warm_up < 0:
        raise ValueError(f"{len(inputs)} inputs, runs={runs}, warm_up={warm_up}: at least one input and one run")
    durations = np.empty(runs)
    for step in range(-warm_up, runs):
        values = inputs[step % len(inputs)]
        start = time.perf_counter()
        call(values)
        if step >= 0:
            durations[step] = time.perf_counter() - start
    median, p10, p90, p95 = (float(value) for value in np.percentile(durations * 1e3, (50, 10, 90, 95)))
    return Latency(median, p10, p90, p95, float(durations.mean() * 1e3))


def net_alone(model: Any, inputs: Sequence[dict[str, np.ndarray]]) -> tuple[Callable, list]:
    """(a call, its inputs): a net's part of a decision, from what it finds when its turn comes to its logits and score.

    The image is scaled to the file's input in the call; what other nets left stands ready as the file stores it, and what this
    one leaves for them stays as it is.

    Args: model: an `engines.Model`; inputs: of each call the real values by name.
    """

    def part(given):
        ready = {**given, "image": model.store("image", given["image"])} if "image" in given else given
        found = model.invoke(ready)
        return {name: model.real(name, found[name]) for name in ("logits", "score") if name in found}

    keep = lambda name, value: value if name == "image" else model.store(name, value)  # noqa: E731
    return part, [{name: keep(name, value) for name, value in given.items()} for given in inputs]


def repeated(call: Callable, inputs: Sequence, seconds: float, energy: Any) -> Window:
    """Calls for so long, at least once round the inputs; `energy` as for `measure`."""
    counters = energy.rapl()
    before, start_s, start, calls = energy.read_uj(counters), time.time(), time.perf_counter(), 0
    while calls < len(inputs) or time.perf_counter() - start < seconds:
        call(inputs[calls % len(inputs)])
        calls += 1
    # By the steady clock, since the other one may be set meanwhile.
    end_s = start_s + time.perf_counter() - start
    spent_j = energy.elapsed_j(counters, before, energy.read_uj(counters)) if counters else None
    return Window(start_s, end_s, calls, spent_j)


def measure(
    classifier: Any,
    images: Sequence[np.ndarray],
    energy: Any,
    *,
    runs: int = RUNS,
    warm_up: int = WARM_UP,
    energy_s: float = 0.0,
) -> dict:
    """Times the whole decision over images, and each net alone on what those images give it.

    Args:
      classifier: a `runtime.DynamicClassifier`.
      images: uint8 of its shape; the decision depends on them, since each net answers some.
      energy: the module `energy` (one floor's modules do not import each other, so it is given).
      energy_s: how long each is repeated to have its energy measured; 0 leaves that out.

    Returns: `sections` by name with `latency_ms`, `throughput_per_s` and `window`; `exit_rate` and `exits` of the decision;
      `peak_memory_bytes` after it.
    """
    choices: list[tuple[int, float]] = []

    def decide(image):
        answer = classifier.predict(image)
        choices.append((answer.choice, answer.latency_ms))

    def section(call, inputs):
        latency = timed(call, inputs, runs=runs, warm_up=warm_up)
        window = repeated(call, inputs, energy_s, energy)._asdict() if energy_s else None
        return {"latency_ms": latency._asdict(), "throughput_per_s": 1e3 / latency.mean_ms, "window": window}

    sections = {DECISION: section(decide, images)}
    counted = choices[warm_up : warm_up + runs]
    facts = {**_exits(counted, len(classifier.cost)), "peak_memory_bytes": machine.peak_memory_bytes()}
    nets = [*classifier.in_turn, *classifier.whole.values()]
    for model in nets if len(nets) > 1 else ():
        given = [classifier.inputs_of(model.name, image) for image in images[:_SETS]]
        sections[model.name] = section(*net_alone(model, given))
    return {"sections": sections, **facts}


def _exits(counted: list[tuple[int, float]], steps: int) -> dict:
    """The part of the decisions that each step answered, and the time that those took."""
    times = [[latency_ms for choice, latency_ms in counted if choice == step] for step in range(steps)]
    medians = [float(np.median(own)) if own else None for own in times]
    return {"exit_rate": [len(own) / len(counted) for own in times], "exit_median_ms": medians}


def add_energy(content: dict, energy: Any, log: Any = None) -> dict:
    """The same results with `energy` in each section: `energy_mj` of one call, its `source`, and that in words.

    The source is "log" where a log is given, else "rapl" where the counters were read, else "power_figure" on the board of the
    export's target; None where there is none of these.

    Raises: ValueError where the log does not cover the time of a section.
    """
    sections = {
        name: {**own, "energy": _energy(own, content, energy, log)} for name, own in content["sections"].items()
    }
    return {**content, "sections": sections}


def _energy(section: dict, content: dict, energy: Any, log: Any) -> dict | None:
    window = Window(*(section["window"][name] for name in Window._fields)) if section["window"] else None
    if log is not None:
        if window is None:
            raise ValueError("these results were taken without a time for energy: measure again, with --energy_s=30")
        joules = energy.integrate_j(log, window.start_s, window.end_s)
        return {"energy_mj": joules / window.calls * 1e3, "source": "log", "detail": log.source}
    if window is not None and window.rapl_j is not None:
        detail = "counters of the whole processor: all else that ran counts too"
        return {"energy_mj": window.rapl_j / window.calls * 1e3, "source": "rapl", "detail": detail}
    target = targets.TARGETS.get(content["model"]["target"])
    if target is None or target.power is None or not _is_target(content):
        return None
    used_mj = energy.from_power_mj(target.power.watts, section["latency_ms"]["mean_ms"])
    detail = f"not measured: {target.power.watts:g} W ({target.power.source}) times the mean time"
    return {"energy_mj": used_mj, "source": "power_figure", "detail": detail}


def _is_target(content: dict) -> bool:
    """Whether the machine of the results is what the export was made for."""
    target, delegate = content["model"]["target"], content["settings"]["delegate"]
    if target == "edgetpu":
        return delegate is not None and "edgetpu" in delegate
    return target is not None and targets.of_board(content["machine"]["board"]) == target


def read(path: str | Path) -> dict:
    """The results in a JSON of `bench`.

    Raises: ValueError if there are none, or those of another version.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        json.dumps(content, indent=1, ensure_ascii=False).encode()  # who reads it writes it again, or puts it on a page
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON") from error
    if not isinstance(content, dict) or content.get("kind") != KIND or content.get("version") != VERSION:
        raise ValueError(f"{path} holds no results of bench, version {VERSION}")
    if wrong := _first_wrong(content, _RESULTS):
        raise ValueError(f"{path} is damaged (its {wrong!r} is absent or of another kind): measure again")
    return content


def _first_wrong(content: Any, wanted: Any, where: str = "") -> str | None:
    """Where content first differs from the kinds that are wanted, as `_RESULTS` has them; None if it does not."""
    if isinstance(wanted, tuple):
        return where if all(_first_wrong(content, kind, where) for kind in wanted) else None
    if isinstance(wanted, list):
        kind, least = wanted if len(wanted) == 2 else (*wanted, 0)
        right = isinstance(content, list) and len(content) >= least
        right = right and not any(_first_wrong(part, kind, where) for part in content)
        return None if right else where
    if not isinstance(wanted, dict):
        return None if _is_of(content, wanted) else where
    if not isinstance(content, dict):
        return where
    for key, kind in wanted.items():
        for name in content if key == _EACH else [key]:
            if wrong := _first_wrong(content.get(name, _ABSENT), kind, f"{where}.{name}" if where else str(name)):
                return wrong
    return None


def _is_of(content: Any, kind: Any) -> bool:
    """Whether this is of a type, or one of a range of whole numbers; True is no number, nor is what is not finite."""
    if isinstance(kind, range):
        return type(content) is int and content in kind
    number = isinstance(content, (int, float))
    return isinstance(content, kind) and (not number or (not isinstance(content, bool) and abs(content) < _TOO_LARGE))
