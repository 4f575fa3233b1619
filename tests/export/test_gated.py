"""A network of two gates as files: every part against JAX, and the runtime's way through them against the switch."""

import re

import jax
import numpy as np
import pytest
from PIL import Image

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import gates
from dynnas_jax.export import bench, device_folder, dynamic, functions, metadata, runtime
from dynnas_jax.networks import ds_net, gate, gated, gated_parts

IMAGES = 24


@pytest.fixture(scope="module")
def network(noisy_variables):
    """(supernet, variables, images): half of the images that come to a gate pick either ratio."""
    options = {"depths": (1, 1), "widths": (8, 16), "strides": (1, 2), "stem": 8, "groups": 4, "ratios": (0.5, 1.0)}
    supernet = ds_net.ds_resnet_small(classes=3, resolution=8, channels=1, mean=(0.4,), std=(0.3,), **options)
    variables = {"batch_stats": {}, **noisy_variables(supernet.largest_net(), (8, 8, 1)), gated.PATHS: {}}
    images = (
        np.random.default_rng(1).integers(0, 256, (IMAGES, 8, 8, 1)) * np.linspace(0, 1, IMAGES)[:, None, None, None]
    )
    images = images.astype(np.uint8)
    carry = images
    for number in (1, 2):
        carry = gated_parts.run_padded(supernet, variables, gated_parts.Part(number - 1, 0, number - 1), carry)
        told = np.asarray(gated_parts.scores_padded(supernet, variables, number, carry))
        block = supernet.arch.segments[number].blocks[0]
        last = variables["params"][block][gate.NAME]["choose_conv"]
        last["bias"] = last["bias"] + np.asarray([0.0, -np.median(told[:, 1] - told[:, 0])], np.float32)
    return supernet, variables, images


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """(folder, what `dynamic.export` tells)."""
    supernet, variables, images = network
    made = functions.gated(gates.parts(supernet), variables, (8, 8, 1))
    counted = {
        name: macs.macs(own.call, {key: jax.ShapeDtypeStruct(shape, np.float32) for key, shape in own.shapes.items()})
        for name, own in made.functions.items()
    }
    promise = dynamic.Promise(("a", "b", "c"), gates.cost(supernet), counted)
    folder = tmp_path_factory.mktemp("export")
    facts = dynamic.export(made, promise, folder, target="x86", calibration=images[:4], precisions=("fp32",))
    device_folder.write(folder)
    return folder, facts


def test_the_parts_are_named_by_what_their_gates_picked(exported, network):
    folder, facts = exported
    assert [name.removesuffix("_fp32") for name in facts] == [
        *("to_gate", "gate1_1", "gate1_2", "gate2_1_1", "gate2_1_2", "gate2_2_1", "gate2_2_2")
    ]
    told = metadata.find(folder, None, None)[0]
    ways = metadata.choices(told)
    assert ways[1] == ("gate1_1", "gate2_1_2")
    spent = [told["macs"]["to_gate"] + sum(told["macs"][name] for name in way) for way in ways]
    assert spent == told["cost"] == list(gates.cost(network[0]))
    assert "to_gate -> one of 2 -> one of 4" in (folder / "README.md").read_text()


def test_the_runtime_takes_the_way_of_the_switch(exported, network):
    supernet, variables, images = network
    classifier = runtime.DynamicClassifier(exported[0])
    classifier.warm_up()
    switched, seen = jax.jit(gates.switched(supernet)), set()
    for image in images:
        expected, found = switched(variables, image[None]), classifier.predict(image)
        assert found.choice == gates.number_of(supernet, expected.path)[0]
        assert found.class_index == np.asarray(expected.logits).argmax()
        assert found.probability == pytest.approx(float(jax.nn.softmax(expected.logits[0]).max()), abs=1e-5)
        seen.add(found.choice)
    assert len(seen) > 2, "or the test shows little"


def test_a_picture_goes_a_way(exported, network, tmp_path, capsys):
    """Nothing exits, and what the gate gave is no confidence."""
    image = network[2][-1]
    Image.fromarray(image[..., 0]).save(tmp_path / "a.png")
    expected = runtime.DynamicClassifier(exported[0]).predict(image)
    with pytest.raises(SystemExit, match="0"):
        runtime.main(["classify", str(tmp_path / "a.png"), f"--model={exported[0]}"])
    said = capsys.readouterr().out
    assert re.search(rf" \(way {expected.choice + 1} of 4, {expected.step}; [\d.]+ ms\)$", said.strip())


def test_it_is_measured(exported, network):
    images, energy = list(network[2]), None
    found = bench.measure(runtime.DynamicClassifier(exported[0]), images, energy, runs=3, warm_up=1)
    assert len(found["exit_rate"]) == 4
    assert list(found["sections"]) == [bench.DECISION, *metadata.in_turn(metadata.find(exported[0], None, None)[0])]
