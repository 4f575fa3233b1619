"""What a step's trace says: the share of every kind of operation and of every kind of layer, for `step_profile.py`."""

import re
import tempfile
from collections import Counter
from pathlib import Path

import jax

TOP = 15  # kinds that are named
LAYER = re.compile(
    r"(?:expand|project|shortcut|features)_(?:conv|norm)|depthwise\d*_(?:conv|norm)|stem|head|classifier"
)


def operation(event, line: str) -> str:
    """The name of the operation that an event of a trace's line is the run of; empty for other events."""
    name = dict(event.stats).get("hlo_op") or ""
    return name or (event.name.split(" ")[0].lstrip("%") if line == "XLA Ops" else "")


def own_times(line) -> list[tuple[str, float]]:
    """(operation, nanoseconds less those of the operations within it) of a trace's line."""
    events = []
    for event in line.events:
        if name := operation(event, line.name):
            events.append([event.start_ns, event.start_ns + event.duration_ns, name, event.duration_ns])
    open_events: list[list] = []
    for event in sorted(events, key=lambda event: (event[0], -event[1])):
        while open_events and open_events[-1][1] <= event[0]:
            open_events.pop()
        if open_events:
            open_events[-1][3] -= event[1] - event[0]
        open_events.append(event)
    return [(name, max(own, 0.0)) for _, _, name, own in events]


def trace_of(function, steps: int) -> list[tuple[str, float]]:
    """The `own_times` of all operations that some calls run: on the devices where the trace has them, else on the host."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                function()
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    found: dict[bool, list] = {True: [], False: []}
    for plane in data.planes:
        lines = list(plane.lines)
        lines = [line for line in lines if line.name == "XLA Ops"] or lines  # other lines say the same again
        found[plane.name.startswith("/device:")] += [pair for line in lines for pair in own_times(line)]
    return found[True] or found[False]


def layer_of(path: str) -> str:
    """The kind of layer that an operation's scope names, and whether it is of the backward pass."""
    layer = "squeeze-excite" if "/se/" in path else (LAYER.findall(path) or ["other"])[-1]
    return layer + (", backward" if "transpose" in path else "")


def shares(function, steps: int, text: str) -> dict:
    """Shares of the time of the operations that some steps run, by kind of operation and by kind of layer."""
    scopes = dict(re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name=\"([^\"]*)\"", text, re.M))
    kinds, layers = Counter(), Counter()
    for name, own_ns in trace_of(function, steps):
        kinds[re.sub(r"[.\d]+$", "", name)] += own_ns
        layers[layer_of(scopes.get(name, ""))] += own_ns
    total = sum(kinds.values())
    kind, layer = ({name: round(ns / total, 3) for name, ns in found.most_common(TOP)} for found in (kinds, layers))
    return {"operations_ms_a_step": round(total / steps / 1e6, 2), "by_operation": kind, "by_layer": layer}
