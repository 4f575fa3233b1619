"""Collecting and searching in two processes, against one."""

import json
import pickle
import textwrap

import jax
import numpy as np
import pytest

from dynnas_jax import records
from dynnas_jax.costs import macs
from dynnas_jax.data.splits import Split
from dynnas_jax.networks import ofa
from dynnas_jax.search import collect, evolution

NET = {
    **{"image_size": 8, "resolutions": (6,), "channels": 1, "mean": (0.4,), "std": (0.3,), "classes": 3, "stem": 8},
    **{"stage_widths": (8,), "stage_strides": (2,), "head": 16, "widths": (0.5, 1.0), "depths": (1, 2)},
    **{"kernels": (3,), "expands": (1, 2), "divisor": 4},
}
SETTINGS = {"population": 12, "generations": 5}
# What each process does.
WORK = textwrap.dedent("""
    import json, pickle, sys
    from dynnas_jax import devices, processes
    processes.join(sys.argv[1], 2, int(sys.argv[2]))
    import jax, jax.numpy as jnp, numpy as np
    from dynnas_jax.costs import macs
    from dynnas_jax.data.splits import Split
    from dynnas_jax.networks import ofa
    from dynnas_jax.search import collect, evolution

    jax.config.update("jax_disable_most_optimizations", True)
    with open(sys.argv[3], "rb") as file:
        case = pickle.load(file)
    supernet, genomes, path = ofa.small_images(**case["net"]), case["genomes"], case["path"]
    cost, space, variables = macs.table(supernet), supernet.space, jax.tree.map(jnp.asarray, case["variables"])
    evaluate = collect.Evaluator(supernet, case["images"], Split(*case["split"]), calibration_batch=4, chunk=4)
    first = collect.run(evaluate, variables, genomes[:5], cost.exact, path)
    store = collect.run(evaluate, variables, genomes, cost.exact, path)
    told = {"devices": evaluate.mesh.size, "done": [int(rows.done().sum()) for rows in (first, store)]}
    told["answers"] = [rows.tolist() for rows in evaluate(evaluate.placed(variables), genomes)]
    try:
        collect.run(evaluate, variables, genomes[::-1], cost.exact, path)
    except ValueError as error:
        told["refused"] = str(error)

    weights = jnp.asarray(case["weights"])
    fitness = lambda genome: (space.encode(genome) * weights).sum()
    search = lambda key, budget, mesh=None: evolution.run(key, space, fitness, cost, budget, mesh, **case["settings"])
    keys = jax.random.split(jax.random.key(0), len(case["budgets"]))
    found = evolution.for_budgets(search, keys, case["budgets"], devices.data_mesh())
    told["found"] = [rows.tolist() for rows in found]
    spread = jax.jit(lambda: search(jax.random.key(1), case["budgets"][1], devices.data_mesh()))
    told["spread"] = [rows.tolist() for rows in devices.on_host(spread())]
    processes.wait_for_all("end")
    print(json.dumps(told))
""")


@pytest.fixture(scope="module")
def case(noisy_variables, tmp_path_factory):
    """What both processes are given."""
    supernet, generator = ofa.small_images(**NET), np.random.default_rng(3)
    shape, space = (10, 8, 8, 1), supernet.space
    split = generator.integers(0, 256, shape, np.uint8), generator.integers(0, 3, 10).astype(np.int32), np.arange(10)
    return {
        "net": NET,
        "variables": noisy_variables(supernet.largest_net(), shape[1:]),
        "images": generator.integers(0, 256, (8, *shape[1:]), np.uint8),
        "split": split,
        "genomes": collect.distinct(space, jax.random.key(1), 11),
        "path": tmp_path_factory.mktemp("processes") / "records.zarr",
        "weights": generator.integers(1, 100, sum(space.sizes)).astype(np.float32),  # exact sums
        "budgets": np.geomspace(*(macs.table(supernet).exact(g) for g in (space.smallest, space.largest)), 3),
        "settings": SETTINGS,
    }


@pytest.fixture(scope="module")
def told(two_processes, case):
    """What each process told."""
    file = case["path"].with_name("case.pickle")
    file.write_bytes(pickle.dumps(case))
    return [json.loads(text.splitlines()[-1]) for text in two_processes(WORK, file)]


@pytest.fixture(scope="module")
def alone(case):
    """(the evaluator, its answers) in one process."""
    supernet = ofa.small_images(**case["net"])
    evaluate = collect.Evaluator(supernet, case["images"], Split(*case["split"]), calibration_batch=4)
    return evaluate, evaluate(case["variables"], case["genomes"])


def test_both_processes_have_all_answers(told, alone):
    _, answers = alone
    assert np.ptp(answers.score) > 0.01
    for process in told:
        assert process["devices"] == 8
        assert process["done"] == [5, 11]
        score, correct = process["answers"]
        np.testing.assert_allclose(score, answers.score, atol=1e-6)
        np.testing.assert_array_equal(correct, answers.correct)


def test_the_records_are_those_of_one_process(told, alone, case, tmp_path):
    evaluate, answers = alone
    store, cost = records.open(case["path"]), macs.table(evaluate.supernet).exact
    mine = collect.run(evaluate, case["variables"], case["genomes"], cost, tmp_path / "records.zarr")
    assert store.done().all()
    for name in ("genome", "correct", "cost", "image_id", "done"):
        np.testing.assert_array_equal(store.read(name), mine.read(name))
    np.testing.assert_allclose(store.read("score"), mine.read("score"), atol=1e-3)  # as coarse as they are stored
    np.testing.assert_array_equal(store.read("correct")[..., 0], answers.correct)


def test_other_genomes_are_refused_by_all(told):
    assert all("holds records of other genomes" in process["refused"] for process in told)


def test_both_processes_find_what_one_finds(told, case):
    supernet = ofa.small_images(**case["net"])
    space, cost = supernet.space, macs.table(supernet)

    def search(key, budget):
        fitness = lambda genome: (space.encode(genome) * case["weights"]).sum()  # noqa: E731
        return evolution.run(key, space, fitness, cost, budget, **SETTINGS)

    keys, budgets = jax.random.split(jax.random.key(0), 3), case["budgets"].astype(np.float32)
    expected = jax.jit(jax.vmap(search))(keys, budgets)
    spread = jax.jit(search)(jax.random.key(1), budgets[1])
    assert np.unique(expected.fitness).size > 1
    for process in told:
        for found, wanted in ((process["found"], expected), (process["spread"], spread)):
            for rows, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(np.asarray(rows, other.dtype), other)
