"""The device's run time: against TensorFlow's answers, against running the parts by hand, and on whatever a user gets wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hand_made import LABELS, SHAPES, STEPS, THRESHOLDS, hand_made, tell  # noqa: F401 (a fixture)
from PIL import Image

from dynnas_jax.dynamic import routers
from dynnas_jax.export import engines, runtime


@pytest.fixture
def folder(hand_made, tmp_path) -> Path:  # noqa: F811
    return Path(shutil.copytree(hand_made.one_file, tmp_path / "export"))


def softmax(logits):
    exponentials = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def expected_of(hand_made, thresholds):  # noqa: F811
    """(class, probability, choice) of each image: all steps by TensorFlow on every image, routed afterwards."""
    probabilities = np.stack([softmax(hand_made.logits[step]) for step in STEPS])
    choice = routers.policy(probabilities.max(-1), thresholds)
    own = probabilities[choice, np.arange(len(choice))]
    return own.argmax(-1), own.max(-1), choice


@pytest.mark.parametrize("thresholds", [THRESHOLDS, (0.0, 0.0), (1.0, 0.6), (1.0, 1.0)])
def test_three_steps_answer_as_tensorflow_does(hand_made, thresholds):  # noqa: F811
    classifier = runtime.DynamicClassifier(hand_made.one_file, "fp32")
    assert classifier.thresholds == pytest.approx(THRESHOLDS)  # the file's own
    classifier.thresholds = thresholds
    found = [classifier.predict(image) for image in hand_made.images]
    classes, probabilities, choices = expected_of(hand_made, thresholds)
    assert len(set(choices.tolist())) == (3 if thresholds == THRESHOLDS else len(set(choices.tolist())))
    assert [p.choice for p in found] == choices.tolist()
    assert [p.class_index for p in found] == classes.tolist()
    np.testing.assert_allclose([p.probability for p in found], probabilities, atol=1e-5)
    assert all(p.label == LABELS[p.class_index] and p.step == STEPS[p.choice] and p.latency_ms > 0 for p in found)
    assert all(len(p.scores) == p.choice + 1 and p.scores[-1] == p.score for p in found)


def by_hand(path, image, thresholds):
    """(class, choice) by LiteRT's own calls; what int8 holds goes to the next step by way of float64."""
    interpreter = Interpreter(model_path=str(path))
    real = {"image": image[None].astype(np.float64)}
    for choice, step in enumerate(STEPS):
        runner = interpreter.get_signature_runner(step)
        inputs = {}
        for name, details in runner.get_input_details().items():
            scale, zero_point = details["quantization"]
            stored = np.rint(real[name] / scale) + zero_point if scale else real[name]
            inputs[name] = stored.clip(-128, 127).astype(np.int8) if scale else stored.astype(np.float32)
        details = runner.get_output_details()
        for name, stored in runner(**inputs).items():
            scale, zero_point = details[name]["quantization"]
            real[name] = (stored.astype(np.float64) - zero_point) * scale if scale else stored.astype(np.float64)
        if choice == len(STEPS) - 1 or softmax(real["logits"]).max() > thresholds[choice]:
            return int(real["logits"].argmax()), choice
    raise AssertionError


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_equals_running_the_parts_by_hand(hand_made, precision):  # noqa: F811
    classifier = runtime.DynamicClassifier(hand_made.one_file, precision)
    path = hand_made.one_file / f"model_{precision}.tflite"
    assert [classifier.predict(image)[1:5:3] for image in hand_made.images] == [
        by_hand(path, image, THRESHOLDS) for image in hand_made.images
    ]


def test_one_file_and_own_files_answer_the_same(hand_made):  # noqa: F811
    """Their scales differ in the last digits only, as the same calibration was run for both."""
    together, apart = (runtime.DynamicClassifier(folder, "int8") for folder in hand_made[:2])
    assert {model.path.name for model in together.steps} == {"model_int8.tflite"}
    assert [model.path.name for model in apart.steps] == [f"{step}_int8.tflite" for step in STEPS]
    found = [[p.class_index for p in map(each.predict, hand_made.images)] for each in (together, apart)]
    assert np.mean(np.array(found[0]) == found[1]) >= 0.95


def test_a_single_net_always_answers(folder, hand_made):  # noqa: F811
    path = folder / "model_fp32.tflite"
    tell(path, steps=["large"], whole=[], thresholds=[], cost=[1], files={"large": path.name})
    classifier = runtime.DynamicClassifier(path)
    found = [classifier.predict(image) for image in hand_made.images]
    assert [p.class_index for p in found] == hand_made.logits["large"].argmax(-1).tolist()
    assert {(p.choice, p.step) for p in found} == {(0, "large")}
    assert classifier.thresholds == ()


def test_a_cascade_without_a_shared_stem_reads_the_image_twice(folder, hand_made):  # noqa: F811
    for path in folder.glob("*.tflite"):
        tell(path, steps=["first", "large"], whole=[], thresholds=[1.0], cost=[1, 2])
    found = [runtime.DynamicClassifier(folder, "fp32").predict(image) for image in hand_made.images]
    assert [p.class_index for p in found] == hand_made.logits["large"].argmax(-1).tolist()
    found = [runtime.DynamicClassifier(folder, "int8").predict(image) for image in hand_made.images]
    assert np.mean([p.class_index for p in found] == hand_made.logits["large"].argmax(-1)) >= 0.95


def test_the_nets_alone(hand_made):  # noqa: F811
    classifier = runtime.DynamicClassifier(hand_made.one_file, "fp32")
    assert list(classifier.whole) == ["large"]
    for name, model in [*zip(STEPS, classifier.steps, strict=True), *classifier.whole.items()]:
        for image, logits in zip(hand_made.images[:5], hand_made.logits[name], strict=False):
            inputs = classifier.inputs_of(name, image)
            assert {key: (1, *value.shape[-len(SHAPES[name][key]) + 1 :]) for key, value in inputs.items()} == SHAPES[
                name
            ]
            np.testing.assert_allclose(model.run(inputs)["logits"][0], logits, atol=1e-4)


# Thresholds.


def test_thresholds_move_at_run_time(hand_made):  # noqa: F811
    classifier = runtime.DynamicClassifier(hand_made.one_file, "fp32")
    score = classifier.predict(hand_made.images[0]).scores[0]
    for threshold, exits in ((score, False), (np.nextafter(np.float32(score), np.float32(0)), True)):
        classifier.thresholds = [threshold, 0.5]  # an image exits strictly above
        assert (classifier.predict(hand_made.images[0]).choice == 0) == exits
    before = classifier.thresholds
    classifier.warm_up()
    assert classifier.thresholds == before


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5, True, "0.5", None, float("inf")])
def test_a_threshold_is_a_number_in_0_to_1(hand_made, value):  # noqa: F811
    classifier = runtime.DynamicClassifier(hand_made.one_file)
    before = classifier.thresholds
    with pytest.raises(ValueError, match=r"^threshold .*: give a number in \[0, 1\]"):
        classifier.thresholds = [0.5, value]
    assert classifier.thresholds == before


def test_there_is_a_threshold_for_each_step_but_the_last(hand_made):  # noqa: F811
    classifier = runtime.DynamicClassifier(hand_made.one_file)
    with pytest.raises(ValueError, match="1 thresholds: 3 steps need 2"):
        classifier.threshold = 0.5
    with pytest.raises(ValueError, match="3 steps have 2 thresholds"):
        _ = classifier.threshold
    for alone in (0.5, np.float32(0.5), np.array(0.5), None):
        with pytest.raises(ValueError, match="1 thresholds: 3 steps need 2"):
            classifier.thresholds = alone
    classifier.thresholds = np.array([0.25, 0.5], np.float32)
    assert classifier.thresholds == (0.25, 0.5)


def test_two_steps_that_scores_pick_have_no_threshold(folder, edited):
    """What `first` takes for logits are scores here: of two nets, each named twice."""

    def scores_for_logits(model):
        (first,) = (each for each in model.signatureDefs if each.signatureKey == b"first")
        (logits,) = (each for each in first.outputs if each.name == b"logits")
        logits.name = "score"

    path = edited(folder / "model_fp32.tflite", scores_for_logits)
    told = {"router": "first", "steps": ["second", "large"], "routes": {"first": ["second", "large"] * 2}}
    told["files"] = dict.fromkeys(["first", "second", "large"], path.name)
    tell(path, **told, policy={"rule": "picked", "score": "margin"}, whole=[], thresholds=[], cost=[1, 2, 3, 4])
    classifier = runtime.DynamicClassifier(path)
    assert classifier.thresholds == ()
    answers = [classifier.predict(np.full((8, 8, 3), grey, np.uint8)) for grey in range(0, 256, 15)]
    assert {answer.step for answer in answers} == {"second", "large"}  # of which one reads the image itself
    with pytest.raises(ValueError, match="2 steps have 0 thresholds: use `thresholds`"):
        _ = classifier.threshold
    with pytest.raises(ValueError, match="1 thresholds: 2 steps need 0"):
        classifier.threshold = 0.5


def test_the_one_threshold_of_a_pair(folder):
    tell(folder / "model_fp32.tflite", steps=["first", "second"], thresholds=[0.25], cost=[1, 2])
    classifier = runtime.DynamicClassifier(folder, "fp32")
    assert classifier.threshold == 0.25
    classifier.threshold = 0.75
    assert classifier.thresholds == (0.75,)


def test_warm_up_runs_no_black_image(hand_made, monkeypatch):  # noqa: F811
    """An int8 net that divides by what it sees of an image may fail there, and there alone."""
    classifier, seen, own = runtime.DynamicClassifier(hand_made.one_file), [], engines.Model.run
    monkeypatch.setattr(engines.Model, "run", lambda self, values: seen.append(values) or own(self, values))
    classifier.warm_up()
    assert len(seen) == len(STEPS)
    assert np.std(seen[0]["image"]) > 50


# Images.


def test_an_image_may_be_a_path(hand_made, tmp_path):  # noqa: F811
    classifier = runtime.DynamicClassifier(hand_made.one_file, "fp32")
    Image.fromarray(hand_made.images[0]).save(tmp_path / "right.png")
    for path in (tmp_path / "right.png", str(tmp_path / "right.png")):
        assert classifier.predict(path)[:5] == classifier.predict(hand_made.images[0])[:5]
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(tmp_path / "wrong.png")
    with pytest.raises(ValueError, match=r"wrong.png is \[9, 8, 3\], the nets read \[8, 8, 3\]: resize it first"):
        classifier.predict(tmp_path / "wrong.png")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((9, 8, 3), np.uint8), r"the image is \[9, 8, 3\], the nets read \[8, 8, 3\]"),
        (np.zeros((8, 8), np.uint8), r"the image is \[8, 8\]"),
        (np.zeros((8, 8, 3)), "not float64"),
        (np.zeros((8, 8, 3), np.int32), "not int32"),
        ([[0]], "not list"),
        ("absent.png", "cannot read the image absent.png: No such file"),
    ],
)
def test_a_wrong_image_is_named(hand_made, image, said):  # noqa: F811
    with pytest.raises(ValueError, match=said):
        runtime.DynamicClassifier(hand_made.one_file).predict(image)


# Files.


def test_damaged_and_foreign_files_are_named(folder):
    path = folder / "model_fp32.tflite"
    content = path.read_bytes()
    for length in range(0, len(content), 499):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"^[^\n]*(truncated|not a TFLite)[^\n]*$"):
            runtime.DynamicClassifier(folder, "fp32")
    path.write_bytes(b"these are no weights")
    with pytest.raises(ValueError, match="not a TFLite file"):
        runtime.DynamicClassifier(path)


def test_nets_that_do_not_follow_each_other_are_named(folder):
    path = folder / "model_fp32.tflite"
    for changes, said in (
        ({"steps": ["second", "third"]}, "second, takes features of .* which no step before it gives"),
        ({"image_shape": [9, 8, 3]}, r"has image of \(1, 8, 8, 3\), not \(1, 9, 8, 3\)"),
        ({"labels": ["a", "b", "c"]}, r"has logits of \(1, 4\), not \(1, 3\)"),
        ({"policy": {"rule": "first_above", "score": "own"}}, "no output `score`"),
        ({"steps": ["first", "other"], "files": {"first": path.name, "other": path.name}}, "holds .*, not other"),
    ):
        shutil.copyfile(folder / "model_fp32.tflite", folder / "kept")
        tell(path, **{"whole": [], "thresholds": [0.5], "cost": [1, 2], "steps": STEPS[:2]} | changes)
        with pytest.raises(ValueError, match=said):
            runtime.DynamicClassifier(folder, "fp32")
        shutil.copyfile(folder / "kept", path)


def test_a_delegate_that_is_not_there(folder):
    with pytest.raises(ValueError, match=r"^cannot load the delegate libnone.so: libnone.so: cannot open"):
        runtime.DynamicClassifier(folder, delegate="libnone.so")


# The command line.


@pytest.fixture
def command(folder, monkeypatch, capsys):
    """command(arguments...): (exit code, stdout, stderr) of runtime.py, as in the export folder."""
    import sys

    for module in ("bench", "bench_command", "energy", "power_log", "machine", "photos", "targets"):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(folder))

    def run(*arguments):
        code = 0
        try:
            runtime.main([*map(str, arguments), f"--model={folder}"])
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return run


def test_classify_says_what_it_did(command, hand_made, tmp_path):  # noqa: F811
    Image.fromarray(hand_made.images[0]).save(tmp_path / "a.png")
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(tmp_path / "b.png")
    code, said, wrong = command(
        "classify", tmp_path / "a.png", tmp_path / "b.png", "--precision=fp32", "--threshold=0,0"
    )
    assert (code, wrong) == (0, "")
    first, second = said.splitlines()
    probabilities = softmax(hand_made.logits["first"][0])
    assert first.startswith(
        f"{tmp_path / 'a.png'}: {LABELS[probabilities.argmax()]}, {probabilities.max():.1%} (exit 1 of 3, first;"
    )
    assert "resized" not in first
    assert second.endswith("; the middle of 60x40 resized to 8x8)")


def test_mistakes_are_one_plain_line(command, tmp_path):
    (tmp_path / "text.png").write_text("no pixels")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    for arguments, said in (
        (["classify"], "required: IMAGE"),
        ([], "required: COMMAND"),
        (["explore"], "invalid choice: 'explore'"),
        (["classify", tmp_path / "text.png"], "cannot read the image"),
        (["classify", tmp_path / "absent.png"], "cannot read the image"),
        (["classify", tmp_path / "a.png", "--threshold=2,0"], "threshold 2.0: give a number in [0, 1]"),
        (["classify", tmp_path / "a.png", "--threshold=0.5"], "1 thresholds: 3 steps need 2"),
        (["classify", tmp_path / "a.png", "--threshold=x"], "invalid thresholds value: 'x'"),
        (["classify", tmp_path / "a.png", "--threads=0"], "threads=0"),
        (["classify", tmp_path / "a.png", f"--threads={10**12}"], "give a whole number of at least 1 and at most 1024"),
        (["classify", tmp_path / "a.png", "--precision=fp16"], "has no fp16 files, but fp32, int8"),
        (["classify", tmp_path / "a.png", "--delegate=libnone.so"], "cannot load the delegate libnone.so"),
        (["bench", "--runs=0"], "at least one input and one run"),
        (["bench", f"--images={tmp_path / 'none'}"], "no images there"),
        (["bench", f"--output={tmp_path / 'none' / 'a.json'}"], "there is no folder"),
    ):
        code, _, wrong = command(*arguments)
        assert code == 2
        assert said in wrong
        assert wrong.startswith("runtime.py")
        assert wrong.count("\n") == 1, wrong


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        (["classify", "a.png"], {"signatures": []}, "signatures"),
        (
            ["bench", "--runs=1", "--warm_up=0"],
            {"whole": ["third"], "steps": ["first"], "thresholds": [], "cost": [1]},
            "context",
        ),
    ],
)
def test_metadata_that_do_not_hold_are_one_plain_line(command, folder, arguments, changes, said):
    tell(folder / "model_int8.tflite", **{"whole": []} | changes)
    code, _, wrong = command(*arguments)
    assert (code, wrong.count("\n")) == (2, 1)
    assert said in wrong


@pytest.mark.parametrize(
    ("text", "said"), [("", "there is not enough memory"), ("Unable to allocate 9 GiB", "allocate 9 GiB")]
)
def test_too_little_memory_is_one_plain_line(command, monkeypatch, text, said):
    def taken(*_):
        raise MemoryError(text)

    monkeypatch.setattr(runtime, "DynamicClassifier", taken)
    code, _, wrong = command("bench")
    assert (code, wrong.count("\n")) == (2, 1)
    assert wrong.startswith("runtime.py: ")
    assert said in wrong


def test_one_bad_image_does_not_stop_the_others(command, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    code, said, wrong = command("classify", tmp_path / "absent.png", tmp_path / "a.png")
    assert (code, said.count("\n"), wrong.count("\n")) == (2, 1, 1)
