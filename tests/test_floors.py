"""The floors of the house, read from the imports themselves: an import points to a lower floor only."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dynnas_jax"
FLOORS = {
    **dict.fromkeys(
        (
            "search_space",
            "pair_space",
            "elastic",
            "masking",
            "relaxed",
            "relaxed_reads",
            "devices",
            "processes",
            "progress",
            "confidence",
            "decisions",
            "records",
            "workdir",
            "errors",
            "kinds",
            "redone",
            "kernel_transforms",
            "channel_sorting",
            "switched",
            "costs",
            "data",
            "export",
        ),
        1,
    ),
    "networks": 2,
    **dict.fromkeys(("dynamic", "train"), 3),
    "search": 4,
    "reports": 5,
    **dict.fromkeys(("job", "finished", "sides", "sharing"), 6),
    "stages": 7,
    **dict.fromkeys(("pipeline", "prerequisites", "recipe", "sections", "settings", "status", "counting"), 8),
    "study": 9,
    **dict.fromkeys(("command_line", "__main__"), 10),
}
NO_NETWORKS = ("train", "search", "costs", "export")
# Libraries a training or search machine does not have; only these folders may ask for them.
EXPORT_LIBRARIES = ("tensorflow", "ai_edge_litert", "tflite_runtime", "tf2onnx", "onnx", "onnxruntime", "matplotlib")
HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "tensorstore", "chex", *EXPORT_LIBRARIES)


def imported(source, module):
    """Every module that the source of `module` (dotted) imports anywhere, or names in a string to import later."""
    found = set()
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if re.fullmatch(r"dynnas_jax(\.\w+)+", node.value) else set()
    return found


def violations(source, module):
    """One line for each import of `module` that the design forbids."""
    place, lines = module.split(".")[1:], []
    if place[0] not in FLOORS:
        return [f"{module} stands on no floor"]
    for target in sorted(imported(source, module)):
        path = target.split(".")
        if path[0] in EXPORT_LIBRARIES and place[0] not in ("export", "reports"):
            lines.append(f"{module} imports {target}, which only export and reports may")
        if path[0] != "dynnas_jax" or len(path) == 1 or path[1] == "__version__":
            continue
        if path[1] not in FLOORS:
            lines.append(f"{module} imports {target}, which stands on no floor")
            continue
        lines += [f"{module} imports {target}, {why}" for why in _wrong_way(place, path[1])]
    return lines


def _wrong_way(place, target):
    folder = target if (PACKAGE / target).is_dir() else ""
    own = place[0] if len(place) > 1 or (PACKAGE / place[0]).is_dir() else ""
    mine, its = FLOORS[place[0]], FLOORS[target]
    if its > mine:
        yield f"which is on floor {its}, above floor {mine}"
    elif its == mine and folder != own and not (mine == 1 and not folder):
        yield "another folder of the same floor"
    if target == "networks" and own in NO_NETWORKS:
        yield "a network"


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts), path.read_text(encoding="utf-8")


def test_every_module_stands_on_a_floor():
    names = [name.split(".")[1] for name, _ in modules()]
    assert set(names) - {"__init__"} <= set(FLOORS)
    assert len(names) > 30


def test_imports_point_down():
    assert [
        line for name, source in modules() if name != "dynnas_jax.__init__" for line in violations(source, name)
    ] == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("dynnas_jax.elastic", "from dynnas_jax.networks import ofa", "floor 2, above floor 1"),
        ("dynnas_jax.elastic", "def f():\n    import dynnas_jax.train.loop", "floor 3, above floor 1"),
        ("dynnas_jax.elastic", "from dynnas_jax.costs.macs import table", "another folder of the same floor"),
        ("dynnas_jax.costs.macs", "from dynnas_jax.data import sources", "another folder of the same floor"),
        ("dynnas_jax.costs.macs", "from ..data import sources", "another folder of the same floor"),
        ("dynnas_jax.dynamic.routers", "from dynnas_jax import train", "another folder of the same floor"),
        ("dynnas_jax.search.collect", "from dynnas_jax.networks.ofa import build", "a network"),
        ("dynnas_jax.train.loop", 'importlib.import_module("dynnas_jax.networks.ofa")', "a network"),
        ("dynnas_jax.networks.__init__", "from dynnas_jax.search import collect", "floor 4, above floor 2"),
        ("dynnas_jax.reports.page", "from dynnas_jax.pipeline import run", "floor 8, above floor 5"),
        ("dynnas_jax.search.collect", "from dynnas_jax.utils import x", "stands on no floor"),
        ("dynnas_jax.train.loop", "def f():\n    import tensorflow as tf", "only export and reports may"),
        ("dynnas_jax.search.pareto", "from matplotlib import pyplot", "only export and reports may"),
    ],
)
def test_a_violation_is_found(module, source, message):
    (line,) = [line for line in violations(source, module) if message in line]
    assert line.startswith(f"{module} imports")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dynnas_jax.elastic", "from dynnas_jax.search_space import SearchSpace"),
        ("dynnas_jax.costs.macs", "from dynnas_jax.elastic import positions"),
        ("dynnas_jax.costs.macs", "from dynnas_jax.costs import latency"),
        ("dynnas_jax.costs.macs", "from . import latency\nfrom .latency import x\nfrom .. import elastic"),
        (
            "dynnas_jax.search.collect",
            "from dynnas_jax.train.calibration import batches\nfrom dynnas_jax import records",
        ),
        ("dynnas_jax.networks.__init__", '_OFA = "dynnas_jax.networks.ofa"'),
        ("dynnas_jax.export.tflite", "import tensorflow as tf"),
        ("dynnas_jax.data.sources", "import tensorflow_datasets as tfds"),
        (
            "dynnas_jax.stages.collect",
            "from dynnas_jax import networks, __version__\nfrom dynnas_jax.search import collect",
        ),
    ],
)
def test_what_is_allowed(module, source):
    assert violations(source, module) == []


def loaded_with(statement):
    """The top-level modules that are loaded after a statement, in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(run.stdout.split())


def test_packages_load_nothing_heavy():
    packages = [".".join(p.parent.relative_to(PACKAGE.parent).parts) for p in PACKAGE.rglob("__init__.py")]
    assert {"dynnas_jax", "dynnas_jax.networks", "dynnas_jax.export"} <= set(packages)
    loaded = loaded_with(f"import {', '.join(packages)}, dynnas_jax.confidence")
    assert "dynnas_jax" in loaded
    assert not loaded & set(HEAVY)


def test_the_runtime_of_an_exported_model_loads_nothing_heavy():
    """LiteRT or onnxruntime comes with the first file that is opened."""
    modules = ("export.runtime", "export.bench_command", "costs.energy")
    loaded = loaded_with("import " + ", ".join(f"dynnas_jax.{name}" for name in modules))
    assert "numpy" in loaded
    assert not loaded & set(HEAVY)


def test_that_a_loaded_jax_would_be_seen():
    assert "jax" in loaded_with("import dynnas_jax.search_space")
