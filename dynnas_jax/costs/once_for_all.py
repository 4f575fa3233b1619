"""Once-for-all's latency tables: a folder of YAML files, one for each resolution, read as the table of a space of ours.

They name layers by shape, such as `Conv_1-input:7x7x192-output:7x7x1152`, and give the mean and the standard deviation of some
hundred runs in ms. A net takes the sum of the means, without an overhead (Cai et al. 2020, arXiv 1908.09791, and its release).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from dynnas_jax.costs import macs
from dynnas_jax.costs.latency import LatencyTable, Row, identity, input_shapes, spec
from dynnas_jax.elastic import Supernet
from dynnas_jax.errors import first_line

SUFFIX = "_lookup_table.yaml"
RUNTIME = "once-for-all's tables"  # what their device has in the place of one


def read(folder: str | Path, supernet: Supernet, target: str = "android") -> LatencyTable:
    """The table of a supernet from a folder of YAML files `RESOLUTION_lookup_table.yaml`.

    Args:
      target: whose it is to be. They do not say it: they were measured on phones, of nets with hard-swish, which android's space
        has none of, so that a run with them has another target.

    Raises:
      ValueError: for a folder without such files, a file that is none, a block that they do not have, or nets of several exits.
    """
    folder = Path(folder)
    if supernet.exits:
        raise ValueError(
            f"{folder} is a folder, but once-for-all's tables are of nets with a single answer; for several exits give a file of "
            "`dynnas table`"
        )
    entries, rows = _entries(folder), {}
    for _, everywhere in macs.every_block(supernet):
        for built in everywhere:
            row = _row(built, entries, folder)
            rows[row.resolution, identity(row.inputs, row.block)] = row
    device = {
        "board": folder.resolve().name,
        "runtime": RUNTIME,
        "threads": 1,
        "precision": "fp32",
        "versions": {},
    }
    return LatencyTable(target, device, supernet.space.fingerprint, 0.0, {}, tuple(rows.values()))


def _row(built: macs.Built, entries: dict[int, dict], folder: Path) -> Row:
    """A block's row: the sum of its layers in the file of the net's resolution."""
    resolution, content = built.arch.resolution, spec(built.block.module)
    (shape,) = input_shapes(built.traced)
    if resolution not in entries:
        raise ValueError(f"{folder} has tables for {sorted(entries)} pixels, but the space has nets for {resolution}")
    found = []
    for name in layers(content, shape, tuple(built.traced.output.shape)):
        if name not in entries[resolution]:
            raise ValueError(f"{folder}/{resolution}{SUFFIX} has no {name!r}: it is a table of another space")
        found.append(entries[resolution][name])
    means, deviations = zip(*found, strict=True)
    return Row((shape,), content, sum(means), math.hypot(*deviations), resolution)


def layers(block: dict, given: tuple[int, ...], made: tuple[int, ...]) -> list[str]:
    """Their names of what a block (see `latency.spec`) consists of, from the shapes it reads and gives, [1, h, w, c]."""
    kind = block["kind"]
    if kind == "Stem":
        return [f"Conv-input:{_size(given)}-output:{_size(made)}"]
    if kind == "MBConv":
        own = block["spec"]
        flags = {
            "expand": own["hidden"],
            "kernel": own["kernel"],
            "stride": own["stride"],
            "idskip": int(own.get("shortcut", False)),
            "se": int(own.get("se", 0) > 0),
            "hs": int(own["act"] == "hswish"),
        }
        return ["-".join(_named("expanded_conv", given, made) + [f"{name}:{value}" for name, value in flags.items()])]
    if kind == "Head" and block.get("features"):
        _, height, width, _ = given
        wide, pooled = (1, height, width, block["conv"]), (1, 1, 1, block["conv"])
        features = (1, 1, 1, block["features"])
        parts = [("Conv_1", given, wide), ("AvgPool2D", wide, pooled), ("Conv_2", pooled, features)]
        return [
            *("-".join(_named(*part)) for part in parts),
            f"Logits-input:{_size(features)}-output:{block['classes']}",
        ]
    raise ValueError(f"once-for-all's tables know no block like {block}")


def _named(kind: str, given: Iterable[int], made: Iterable[int]) -> list[str]:
    return [kind, f"input:{_size(given)}", f"output:{_size(made)}"]


def _size(shape: Iterable[int]) -> str:
    """HxWxC of [1, h, w, c]."""
    return "x".join(str(size) for size in tuple(shape)[1:])


def _entries(folder: Path) -> dict[int, dict[str, tuple[float, float]]]:
    """(mean, standard deviation) in ms by resolution and name."""
    import yaml

    paths = sorted(path for path in folder.glob(f"*{SUFFIX}") if path.name.removesuffix(SUFFIX).isdecimal())
    entries = {}
    if not paths:
        raise ValueError(f"{folder} holds no latency tables: no file is called RESOLUTION{SUFFIX}")
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text())
            found = {name: (float(entry["mean"]), float(entry["std"])) for name, entry in content.items()}
        except (OSError, RecursionError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no latency table ({first_line(error)})") from error
        if not all(math.isfinite(mean) and mean >= 0 for mean, _ in found.values()):
            raise ValueError(f"{path} is no latency table (a mean is negative or no number)")
        entries[int(path.name.removesuffix(SUFFIX))] = found
    return entries
