"""What all benchmarks say of themselves: one owner of the facts, and of medians and spreads."""

import ast
import importlib
import itertools
import json
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import ds_net_tables  # noqa: E402
import exit_file  # noqa: E402
import result  # noqa: E402
import runtime_agreement  # noqa: E402
import streamed_input  # noqa: E402
import subnets  # noqa: E402
import untrained_exports  # noqa: E402

from dynnas_jax.elastic import init  # noqa: E402
from dynnas_jax.networks import ofa  # noqa: E402

# These run elsewhere, for another benchmark, or make a table of finished runs.
NO_BENCHMARKS = (
    "torch_net",
    "once_for_all",
    "original_nets",
    "original_msdnet",
    "seeds",
    "superclass_tables",
    "untrained_exports",
)


def with_a_main():
    files = sorted(BENCHMARKS.glob("*.py"))
    return [path for path in files if "\ndef main(" in path.read_text() and path.stem not in NO_BENCHMARKS]


@pytest.mark.parametrize("path", with_a_main(), ids=lambda path: path.stem)
def test_a_benchmark_leaves_its_facts_to_one_owner(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {ast.unparse(call) for call in calls}
    assert "result.show" in names
    assert not names & {"importlib.metadata.version", "os.getloadavg", "platform.python_version", "machine.facts"}


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_the_library_is_there(path):
    tree, modules, absent = ast.parse(path.read_text()), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "dynnas_jax":
            home = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(home, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found = getattr(home, alias.name)
                if isinstance(found, types.ModuleType):
                    modules[alias.asname or alias.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            absent += [] if hasattr(modules[node.value.id], node.attr) else [ast.unparse(node)]
    assert not absent


def test_facts(capsys, monkeypatch):
    result.show("a step", {"answer": 3}, packages=("scipy", "no_such_package"))
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["what", "machine", "versions", "load", "answer"]
    assert (told["what"], told["answer"]) == ("a step", 3)
    assert told["versions"]["jax"] == jax.__version__
    assert "scipy" in told["versions"]
    assert "no_such_package" not in told["versions"]
    assert (told["machine"]["backend"], told["machine"]["devices"]) == ("cpu", 8)
    assert "accelerator" not in told["machine"]


def test_a_gpu_is_named(monkeypatch):
    class Client:
        platform_version = "PJRT C API\ncuda 13000"

    class Device:
        device_kind, client = "NVIDIA H100 80GB HBM3", Client

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Device] * 2)
    found = result.about("a step")
    assert (found["machine"]["accelerator"], found["machine"]["devices"]) == ("NVIDIA H100 80GB HBM3", 2)
    assert found["versions"]["platform"] == "PJRT C API cuda 13000"


def test_medians_and_spreads():
    values = [5.0, 1.0, 4.0, 2.0, 30.0]
    assert result.times(values, "ms", 1) == {"median_ms": 4.0, "spread_ms": [1.0, 30.0], "n": 5}
    told = result.ratios(values)
    assert (told["median"], told["n"]) == (4.0, 5)
    assert told["spread"] == pytest.approx(np.percentile(values, [10, 90]), abs=1e-3)


@pytest.mark.parametrize("way", subnets.WAYS)
def test_ways_of_random_subnets(way):
    """Each gives a gradient of all params of the largest net."""
    supernet = ofa.small_images(**{**subnets.DIGITS, "stage_widths": (8,), "stage_strides": (2,)}, depthwise="conv")
    variables = jax.eval_shape(lambda key: init(supernet.largest_net(), key, (8, 8, 1)), jax.random.key(0))
    images, teacher = jax.ShapeDtypeStruct((2, 8, 8, 1), np.uint8), jax.ShapeDtypeStruct((2, 10), np.float32)
    members = tuple(map(tuple, np.asarray(supernet.space.sample(jax.random.key(1), 2)).tolist()))
    program = subnets.gradient_program(supernet, way, members, members)
    given = variables["params"], variables["batch_stats"], images, teacher, jax.ShapeDtypeStruct((), np.int32)
    assert jax.eval_shape(program, *given) == variables["params"]


def test_streamed_images_are_trained_on_in_the_recipes_phases(small_space, monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(streamed_input, "build", lambda config, images: small_space(expands=(1, 2)))
    monkeypatch.setattr(streamed_input.loop, "fit", lambda *_, directory, **options: given.update(options))
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 10}\n')
    train = {"sandwich_rule": {"random_subnets": 2}, "progressive_shrinking": {"largest_share": 0.4}}
    asked = types.SimpleNamespace(steps=20, log_every=5)
    images = types.SimpleNamespace(train=None)
    assert streamed_input.trained({"train": train, "data": {}}, images, 4, asked, tmp_path) == [{"step": 10}]
    assert given["phases"].starts[-1] < given["steps"] == 20


def test_every_recipe_is_exported_untrained():
    recipes = untrained_exports.every_recipe()  # raises where a file of configs/ is not known
    assert len(set(recipes)) == len(recipes)
    assert {recipe.partition(":")[0] for recipe in recipes} == set(untrained_exports.MODES)


def test_rows_of_the_table_of_bootstrapping_differ_by_one_thing():
    """Weights are averaged in rows that are compared, or in none: an average may help whatever the target does."""
    rows = ds_net_tables.TABLES["5"].rows
    apart = [set(before) ^ set(own) for before, own in itertools.pairwise(rows.values())]
    assert apart == [
        {"train.ema_decay=0.0"},
        {"train.bootstrapping.target=online"},
        {"train.bootstrapping.ensemble=False"},
    ]


def test_answers_are_compared_with_those_of_the_step_that_answered():
    evaluated = {
        "prediction": np.array([[1, 2], [0, 2], [0, 1]]),
        "choice": np.array([0, 1, 1]),
        "label": np.array([1, 2, 0]),
    }
    found = runtime_agreement.compared(np.array([[1, 0], [2, 0], [0, 1]]), evaluated)
    assert found == {"same_class": 2 / 3, "same_choice": 2 / 3, "accuracy": 1.0, "accuracy_in_jax": 2 / 3}
    gated = {"prediction": np.array([[1], [0]]), "choice": np.array([3, 0]), "label": np.array([1, 1])}
    found = runtime_agreement.compared(np.array([[1, 2], [0, 0]]), gated)
    assert found == {"same_class": 1.0, "accuracy": 0.5, "accuracy_in_jax": 0.5}


def test_one_run_has_no_deviation():
    assert ds_net_tables.spread([97.5]) == (97.5, None)
    assert ds_net_tables.spread([1.0, 3.0]) == (2.0, 1.4142)


def test_a_file_of_every_exit_s_increment_is_hardly_larger_than_one_of_the_whole_net():
    """The increments share their weights: the goal is 2 %. 16 pixels have the weights of 32 in a fraction of the time."""
    figures = exit_file.compared(str(BENCHMARKS.parent / "configs" / "enas4d_cifar10.py"), image_size=16, classes=10)
    assert figures["size_bytes"]["whole"] > 1_000_000  # what stands around the weights weighs little
    assert figures["exits_over_whole"] <= 1.02
    assert list(figures["macs"]) == sorted(set(figures["macs"]))
