"""Which nets follow each other by their scores, and what the metadata say of it."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from dynnas_jax.export import engines, handover, metadata

ROUTES = {"first": ["a", "b"], "a": ["x", "y"], "b": ["y", "z", "x"]}
NAMES = ("first", "a", "b", "x", "y", "z")
PICKED = {"rule": metadata.PICKED, "score": "max_softmax"}


def told_of(routes, **changed):
    told = {"version": metadata.VERSION, "labels": ["a", "b"], "image_shape": [8, 8, 1], "router": NAMES[0]}
    told |= {"steps": list(NAMES[1:]), "files": dict.fromkeys(NAMES, "m.tflite"), "thresholds": [], "policy": PICKED}
    return told | {"cost": [1] * 5, "routes": routes} | changed


def net(name):
    """Adds to what it is given the place of its name; the next scores are the digits of that, the logits the number itself."""
    reads = "image" if name == "first" else "carry"
    shape, place = (1, 1), NAMES.index(name)
    if name in ROUTES:
        scores = len(ROUTES[name])
        outputs = {
            "carry": engines.Tensor(shape, "float32", 0.0, 0),
            "score": engines.Tensor((1, scores), "float32", 0, 0),
        }
    else:
        outputs = {"logits": engines.Tensor((1, 2), "float32", 0.0, 0)}

    def invoke(stored):
        value = stored[reads] + place
        if name in ROUTES:
            best = int(value[0, 0] * 7) % scores
            return {"carry": value, "score": np.eye(scores, dtype=np.float32)[best][None]}
        return {"logits": np.concatenate([value, -value], axis=1)}

    return engines.Model(Path("m.tflite"), name, {reads: engines.Tensor(shape, "float32", 0.0, 0)}, outputs, invoke)


@pytest.mark.parametrize("image", range(6))
def test_the_best_net_runs_until_one_answers(image):
    gates = handover.Gates(net("first"), [net(name) for name in NAMES[1:]], ROUTES)
    logits, scores, way = gates.run(np.full((1, 1), image, np.float32))
    name, value, expected = "first", float(image), []
    while name in ROUTES:
        name = ROUTES[name][int(value * 7) % len(ROUTES[name])]
        value += NAMES.index(name)
        expected.append(name)
    assert way == tuple(expected)
    assert way in metadata.choices(told_of(ROUTES))
    assert scores == [1.0, 1.0]
    assert logits.tolist() == [value, -value]


def test_scores_must_be_as_many_as_what_follows():
    with pytest.raises(ValueError, match="first, gives 2 scores for the 1 nets that follow it"):
        handover.Gates(net("first"), [net(name) for name in NAMES[1:]], ROUTES | {"first": ["a"]})


def test_the_ways_that_nets_lead():
    told = told_of(ROUTES)
    assert metadata.check(told, "it") is told
    assert metadata.routes(told) == ROUTES
    every = [way for way in itertools.product("ab", "xyz") if way[1] in ROUTES[way[0]]]
    assert sorted(metadata.choices(told)) == every
    assert metadata.choices(told)[2:] == [("b", "y"), ("b", "z"), ("b", "x")], "in the order of the scores"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"routes": {**ROUTES, "z": ["a"]}}, "do not lead through 'z' in order"),
        ({"routes": {**ROUTES, "b": ["y", "y"]}}, "do not lead through 'z' in order"),
        ({"routes": {**ROUTES, "b": []}}, "lead nowhere"),
        ({"routes": {**ROUTES, "other": ["z"]}}, "of nets that it does not name"),
        ({"thresholds": [0.5]}, "does not give 0 thresholds"),
        ({"cost": [1] * 4}, "the cost of each step"),
    ],
)
def test_ways_that_there_are_none_of(changed, message):
    with pytest.raises(ValueError, match=message):
        metadata.check(told_of(ROUTES) | changed, "it")


def layered(layers, wide):
    """Nets of which each may be followed by any of the next layer."""
    names = [["first"], *([f"{layer}.{place}" for place in range(wide)] for layer in range(layers))]
    routes = {name: names[layer + 1] for layer in range(layers) for name in names[layer]}
    order = [name for layer in names[1:] for name in layer]
    return {"steps": order, "routes": routes, "files": dict.fromkeys(["first", *order], "m.tflite")}


@pytest.mark.parametrize(("layers", "wide"), [(60, 2), (1500, 1), (2000, 2), (1, 20_000)])
def test_ways_are_counted_before_they_are_listed(layers, wide):
    """Their number doubles from layer to layer."""
    with pytest.raises(ValueError, match="has more than 10000 ways behind its router, or more than 100 nets on one"):
        metadata.check(told_of({}) | layered(layers, wide), "it")


def test_as_many_ways_as_may_be():
    for layers, wide in ((99, 1), (13, 2)):
        told = told_of({}, cost=[1] * wide**layers) | layered(layers, wide)
        ways = metadata.choices(metadata.check(told, "it"))
        assert len(set(ways)) == len(ways) == wide**layers
        assert {len(way) for way in ways} == {layers}
        assert ways == sorted(ways, key=lambda way: [int(name.split(".")[1]) for name in way])


def test_what_runs_first_reads_the_image_alone():
    handover.check_router(net("first"))
    with pytest.raises(ValueError, match="m.tflite, a, takes carry, not the image alone"):
        handover.check_router(net("a"))


def test_metadata_of_a_router_that_picks_a_step():
    """As those of one gate were written before several could be."""
    told = told_of({}, cost=[1] * 5)
    assert metadata.check(told, "it") is told
    assert metadata.choices(told) == [(name,) for name in NAMES[1:]]
    with pytest.raises(ValueError, match="does not give 4 thresholds"):
        metadata.check({**told, "policy": {**PICKED, "rule": metadata.ROUTED}}, "it")
    without = {name: value for name, value in told.items() if name not in ("router", "routes")}
    assert not metadata.picks(without)
    assert metadata.routes(without) == {}
