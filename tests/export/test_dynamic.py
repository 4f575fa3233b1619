"""The export of a dynamic network, all or nothing, and what every file of it says."""

import contextlib
from types import SimpleNamespace

import jax
import numpy as np
import onnx
import pytest

from dynnas_jax.export import dynamic, engines, flatbuffer, functions, metadata, runtime

NETS = ("little", "big_after_stem", "big")
PRECISIONS = ("fp32", "fp16", "dynamic_range", "int8")


def write(network, promise, folder, **options):
    with dynamic.all_or_nothing(folder / "export") as unchecked:
        return dynamic.export(network, promise, unchecked, **options)


def export(exported, folder, promise=None, **changes):
    options = {"target": "x86", "calibration": exported.images[:4], "precisions": ("fp32",)} | changes
    return write(exported.network, promise or exported.promise, folder, **options)


def test_the_facts_are_of_the_files(exported):
    names = {f"{net}_{precision}" for net in NETS for precision in PRECISIONS}
    onnx = {f"{net}_{precision}_onnx" for net in NETS for precision in ("fp32", "int8")}
    assert set(exported.facts) == names | onnx
    for name, facts in exported.facts.items():
        path = exported.folder / facts["path"]
        assert name.removesuffix("_onnx") == f"{facts['function']}_{facts['precision']}"
        assert facts["size_bytes"] == path.stat().st_size
        assert facts["macs"] == exported.macs[facts["function"]]
        if path.suffix == ".tflite":
            assert path.name == f"model_{facts['precision']}.tflite"
            own = flatbuffer.work(path)[facts["function"]]
            assert (facts["ops"], facts["macs"]) == (own.counts, own.macs)
        else:
            assert path.name == f"{facts['function']}_{facts['precision']}.onnx"
            assert facts["ops"]["Conv"] == exported.facts[name.removesuffix("_onnx")]["ops"]["CONV_2D"] + 1
        assert facts["max_logit_difference"] < (1e-4 if facts["precision"] == "fp32" else 1)
    models = {path.name for path in exported.folder.iterdir() if path.suffix in (".tflite", ".onnx")}
    assert models == {facts["path"] for facts in exported.facts.values()}


def test_every_file_says_what_it_is(exported):
    for facts in exported.facts.values():
        path = exported.folder / facts["path"]
        told = metadata.read(path)
        assert (told["version"], told["target"], told["precision"]) == (2, "x86", facts["precision"])
        assert (told["steps"], told["whole"]) == (["little", "big_after_stem"], ["big"])
        assert told["files"][facts["function"]] == path.name
        assert told["policy"] == {"rule": "first_above", "score": "max_softmax"}
        assert told["labels"] == list(exported.promise.labels)
        assert (told["cost"], told["thresholds"]) == (list(exported.promise.cost), list(exported.promise.thresholds))
        assert (told["macs"], told["central_share"]) == (exported.macs, 1.0)
        nets = engines.load(path)
        for name in nets:
            inputs = {key: list(tensor.shape) for key, tensor in nets[name].inputs.items()}
            outputs = {key: list(tensor.shape) for key, tensor in nets[name].outputs.items()}
            assert told["signatures"][name] == {"inputs": inputs, "outputs": outputs}


@pytest.mark.parametrize(
    ("key", "magnitude", "difference", "refused"),
    [
        ("logits", 70.0, 2e-4, True),
        ("score", 70.0, 2e-4, True),
        ("features", 70.0, 6e-4, False),
        ("features", 70.0, 8e-4, True),
        ("features", 9.0, 2e-4, True),
        ("features", 9.0, 5e-5, False),
    ],
)
def test_what_is_left_to_another_is_held_to_its_size(key, magnitude, difference, refused):
    """float32 has seven digits: of large features fewer stand behind the point than an answer has."""
    exact = {key: np.array([magnitude, 0.0])}
    plan = SimpleNamespace(inputs={"net": {"image": np.zeros((1, 2))}}, expected={"net": [exact]})
    model = SimpleNamespace(run=lambda values: {key: exact[key] + [0.0, difference]})
    fact = {"function": "net", "precision": "fp32", "path": "net.tflite"}
    told = pytest.raises(ValueError, match=f"outputs {key} of net differ") if refused else contextlib.nullcontext()
    with told:
        assert dynamic._compare(plan, model, fact, 1e-4) == pytest.approx(difference)


def test_signatures_of_one_file_share_their_weights(exported):
    """The stem and all of big stand in it once, though two signatures run them."""
    for precision in PRECISIONS:
        model = flatbuffer.load(exported.folder / f"model_{precision}.tflite")
        read = {}
        for name in NETS:
            graph = model.subgraphs[flatbuffer.signatures(model)[name].subgraph]
            buffers = {graph.tensors[i].buffer for operator in graph.operators for i in operator.inputs if i >= 0}
            read[name] = {i for i in buffers if len(model.buffers[i].data) >= 64}
        assert read["big_after_stem"] < read["big"]
        assert read["little"] & read["big"] == read["big"] - read["big_after_stem"] != set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"macs": dict.fromkeys(NETS, 1)}, "the JAX network 1"),
        ({"labels": ("ant",)}, r"logits \(1, 5\) for 1 labels"),
        ({"score": "gut"}, "'gut' is unknown"),
        ({"thresholds": (0.1, 0.2)}, "2 costs and 1 thresholds, not 2 and 2"),
        ({"thresholds": (1.5,)}, r"thresholds in \[0, 1\]"),
        ({"macs": {}}, "MACs lack little, big_after_stem, big"),
    ],
)
def test_a_broken_promise_leaves_nothing(exported, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export(exported, tmp_path, promise=exported.promise._replace(**changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": 0.0}, "outputs logits of little differ from JAX's by"),
        ({"calibration": np.zeros((4, 8, 8, 3), np.uint8)}, r"uint8\[4, 8, 8, 3\], but must be"),
        ({"target": "edgetpu", "precisions": ("int8",)}, r"^target edgetpu: .*HARD_SWISH"),
        ({"target": "toaster"}, "target is 'toaster', choose from"),
    ],
)
def test_a_file_that_breaks_one_leaves_nothing(exported, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export(exported, tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (
            "IsInf",
            r"^target jetson_nano: little_fp32.onnx: operator \d+ IsInf: TensorRT 8.2 .* no such one \(and 1 more\)$",
        ),
        ("Conv", r"^little_fp32.onnx: little counts \d+ MACs, the JAX network \d+: they must be equal$"),
    ],
)
def test_onnx_files_are_held_to_their_target(exported, tmp_path, monkeypatch, operator, message):
    """One more operator at the end of what tf2onnx made: nothing else notices it."""
    convert = dynamic.onnx.convert

    def and_one_more(source, path, **options):
        convert(source, path, **options)
        model = onnx.load(path)
        read = [model.graph.output[0].name]
        if operator == "Conv":
            read = ["extra_x", "extra_w"]
            for name, shape in (("extra_x", (1, 2, 4, 4)), ("extra_w", (3, 2, 1, 1))):
                constant = onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)
                model.graph.initializer.append(constant)
        model.graph.node.append(onnx.helper.make_node(operator, read, ["extra"]))
        onnx.save(model, path)

    export(exported, tmp_path, target="jetson_nano")
    (tmp_path / "export").rename(tmp_path / "earlier")
    monkeypatch.setattr(dynamic.onnx, "convert", and_one_more)
    with pytest.raises(ValueError, match=message):
        export(exported, tmp_path, target="jetson_nano")
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]


def test_outputs_that_are_no_numbers_are_refused_in_every_precision(exported, tmp_path, monkeypatch):
    load = dynamic.engines.load

    def broken(path, **options):
        nets = load(path, **options)
        run = nets["big"].run
        nets["big"].run = lambda values: {name: value * np.nan for name, value in run(values).items()}
        return nets

    monkeypatch.setattr(dynamic.engines, "load", broken)
    with pytest.raises(ValueError, match=r"^model_fp16.tflite: outputs of big in fp16 are not all finite numbers$"):
        export(exported, tmp_path, precisions=("fp16",))
    assert list(tmp_path.iterdir()) == []


def conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.fixture(scope="module")
def plain(images):
    """(a net of three steps that pass on two arrays, its promise): no more than the Edge TPU runs."""
    kernels = [jax.random.normal(jax.random.key(i), (3, 3, c, 4)) / 5 for i, c in enumerate((3, 4, 4))]
    dense = [jax.random.normal(jax.random.key(9 + i), (4, 5)) for i in range(3)]

    def step(place):
        def run(variables, carry):
            kernels, dense = variables
            x = carry / 128 - 1 if place == 0 else carry["new"]
            x = x + carry["old"] if place == 2 else x  # the second step has no use for it
            y = jax.nn.relu6(conv(x, kernels[place]))
            pooled = jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 16, 16, 1), (1, 16, 16, 1), "VALID") / 256
            logits = pooled.reshape(-1, 4) @ dense[place]
            new = {"new": y, "old": x}
            return logits, jax.nn.softmax(logits).max(-1), None if place == 2 else new

        return run

    shape = images.shape[1:]
    steps = {name: step(place) for place, name in enumerate(("first", "second", "third"))}
    network = functions.from_steps(steps, (kernels, dense), shape, carries=("a", "b"))
    macs = {name: 256 * 9 * c * 4 + 20 for name, c in (("first", 3), ("second", 4), ("third", 4))}
    cost = tuple(int(total) for total in np.cumsum(list(macs.values())))
    return network, dynamic.Promise(tuple("abcde"), cost, macs, (0.4, 0.4))


def test_three_steps_that_pass_on_several_arrays(images, plain, tmp_path):
    """Each in a file of its own, as the Edge TPU needs them; the cascade answers as all steps in JAX do."""
    network, promise = plain
    facts = write(network, promise, tmp_path, target="edgetpu", calibration=images)
    assert set(facts) == {"first_int8", "second_int8", "third_int8"}
    folder = tmp_path / "export"
    assert {path.name for path in folder.iterdir()} == {f"{name}.tflite" for name in facts}
    classifier = runtime.DynamicClassifier(folder)
    assert_one_scale(classifier.steps)
    # The third step reads what the second one made, and what that passed on as it came.
    assert [sorted(model.inputs) for model in classifier.steps] == [["image"], ["a_0"], ["a_0", "b_0"]]
    inputs = functions.inputs(network, images)
    logits = [functions.outputs(network.functions[name], inputs[name]) for name in network.steps]
    agreed = 0
    for image, *rows in zip(images, *logits, strict=True):
        probabilities = [np.asarray(jax.nn.softmax(row["logits"][0])) for row in rows]
        choice = next((s for s in (0, 1) if probabilities[s].max() > 0.4), 2)
        found = classifier.predict(image)
        agreed += (found.choice, found.class_index) == (choice, int(probabilities[choice].argmax()))
    assert agreed >= 0.85 * len(images)  # int8 moves images that are near a threshold


def assert_one_scale(steps):
    given = {name: tensor for step in steps for name, tensor in step.outputs.items()}
    for step in steps[1:]:
        for name, taken in step.inputs.items():
            assert given[name].zero_point == taken.zero_point
            assert given[name].scale == pytest.approx(taken.scale, rel=1e-4)


def test_what_is_passed_on_keeps_one_scale(exported):
    assert_one_scale(runtime.DynamicClassifier(exported.folder, "int8").steps)


def test_a_single_net(exported, tmp_path):
    network = functions.single(exported.big, exported.images.shape[1:])
    macs = exported.macs["big"]
    promise = dynamic.Promise(exported.promise.labels, (macs,), {"net": macs})
    facts = write(network, promise, tmp_path, target="x86", calibration=exported.images[:4], precisions=("fp32",))
    assert set(facts) == {"net_fp32"}
    classifier = runtime.DynamicClassifier(tmp_path / "export")
    for image in exported.images[:5]:
        logits = exported.big(image[None].astype(np.float32))[0]
        found = classifier.predict(image)
        assert (found.choice, found.class_index) == (0, int(logits.argmax()))


def test_what_a_killed_export_left_vanishes(tmp_path):
    left, other = tmp_path / ".x86_unchecked_abc" / "new", tmp_path / ".pi4_unchecked_abc"
    for folder in (left, other):
        folder.mkdir(parents=True)
    (left / "model_fp32.tflite").write_bytes(b"half")
    with dynamic.all_or_nothing(tmp_path / "x86") as unchecked:
        (unchecked / "whole").touch()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"x86", "x86/whole", other.name}


def test_a_failed_export_leaves_the_earlier_one(tmp_path):
    folder = tmp_path / "x86"
    with dynamic.all_or_nothing(folder) as unchecked:
        (unchecked / "a").write_text("first")

    def fail():
        with dynamic.all_or_nothing(folder) as unchecked:
            (unchecked / "a").write_text("second")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert (folder / "a").read_text() == "first"
    with dynamic.all_or_nothing(folder) as unchecked:
        (unchecked / "b").write_text("third")
    assert [path.name for path in tmp_path.rglob("*")] == ["x86", "b"]


def test_an_int8_onnx_file_may_round_otherwise_but_not_lose_anything(monkeypatch, tmp_path):
    """Against LiteRT's own noise: 13 dB to JAX here, so that two nets that round apart are 10 dB from each other."""
    generator = np.random.default_rng(0)
    exact, noises = generator.normal(size=(16, 10)), generator.normal(size=(2, 16, 10)) * 10 ** (-13 / 20)

    class Model:
        def __init__(self, answers):
            self.answers = iter(answers)

        def run(self, values):
            return {"logits": next(self.answers)[None]}

    def compared(lite, made):
        models = {"source": Model(lite), "plain": Model(made)}
        monkeypatch.setattr(dynamic.engines, "load", lambda path: {"net": models[path.name]})
        expected = [{"logits": row} for row in exact]
        dynamic._check_same("net", tmp_path / "source", tmp_path / "plain", [{}] * 16, expected)

    compared(exact + noises[0], exact + noises[1])
    compared(exact + 20 * noises[0], exact + 20 * noises[0] + noises[1])
    with pytest.raises(ValueError, match=r"net_int8.onnx: .* lost something \(.* dB to JAX, LiteRT 1[234]"):
        compared(exact + noises[0], exact + 2 * noises[1])
    with pytest.raises(ValueError, match="lost something"):
        compared(exact + noises[0], np.full_like(exact, np.nan))
