"""The stage that exports, on a finished tiny run: what it promises, what it refuses, other targets."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dynnas_jax import __main__, finished, job, pipeline
from dynnas_jax.export import flatbuffer, metadata, runtime
from dynnas_jax.networks import big_little
from dynnas_jax.stages import export
from dynnas_jax.workdir import Workdir, read_json


@pytest.fixture(autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def prepared(tiny_run):
    return job.prepare(Workdir(tiny_run.workdir, pipeline.STAGES, tiny_run.config, {}), tiny_run.config)


def with_train(prepared, train):
    return prepared._replace(images=prepared.images._replace(train=train))


def test_the_exported_cascade_is_the_searched_pair(tiny_run, prepared):
    pair = finished.found_pair(prepared).pair
    cost = big_little.cost(pair)
    folder = tiny_run.workdir / "export" / "x86"
    told = metadata.read(folder / "model_int8.tflite")
    assert told["cost"] == list(cost.cumulative)
    assert told["macs"] == {"little": cost.little, "big_after_stem": cost.big - cost.stem, "big": cost.big}
    assert told["thresholds"] == read_json(tiny_run.workdir / "search" / "found.json")["pair"]["thresholds"]
    assert told["labels"] == list(prepared.images.classes)
    saved = np.load(tiny_run.workdir / "evaluate" / "outputs.npz")
    classifier = runtime.DynamicClassifier(folder, "fp32")
    found = [classifier.predict(image) for image in prepared.images.test.images]
    assert [answer.choice for answer in found] == saved["choice"].tolist()
    answers = saved["prediction"][np.arange(len(found)), saved["choice"]]
    assert [answer.class_index for answer in found] == answers.tolist()
    measured = read_json(folder / "export.json")
    assert measured["cascade"]["fp32"]["agreement_with_jax"] == 1.0
    spent = read_json(tiny_run.workdir / "evaluate" / "evaluation.json")["dynamic"]["macs"]
    for cascade in measured["cascade"].values():
        assert cascade["macs_in_jax"] == pytest.approx(spent)
        assert cascade["macs"] == pytest.approx(np.dot(cascade["exit_rate"], cost.cumulative))
    assert measured["cascade"]["fp32"]["macs"] == pytest.approx(spent)
    for fact in measured["files"].values():
        exact = saved["correct"][:, 0 if fact["function"] == "little" else 1].mean()
        assert fact["accuracy_loss"] == pytest.approx(exact - fact["accuracy"])


def test_calibration_images_are_of_all_classes_in_their_shares(prepared):
    train = prepared.images.train
    images = export.calibration(prepared, 100)
    known = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    labels = np.array([known[image.tobytes()] for image in images])
    share = np.bincount(train.labels, minlength=10) / len(train)
    assert len(images) == 100
    assert np.abs(np.bincount(labels, minlength=10) - 100 * share).max() <= 1
    assert set(export.calibration(prepared, 10).shape[:1]) == {10}
    assert len(set(labels[:16].tolist())) > 4  # not class after class
    assert len(export.calibration(prepared, 10**6)) == len(train)


def test_calibration_images_of_some_classes_leave_none_of_them_out(prepared):
    """Of one class there is a single image, which hardly any other drawing takes."""
    train, wanted = prepared.images.train, np.array([2, 3, 5])
    rare = np.flatnonzero(train.labels == 5)[1:]
    scarce = with_train(prepared, train[np.setdiff1d(np.arange(len(train)), rare)])
    known = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    for count in (3, 12):
        labels = [known[image.tobytes()] for image in export.calibration(scarce, count, wanted)]
        assert len(labels) == count
        assert set(labels) == {2, 3, 5}
    with pytest.raises(
        ValueError, match=r"^export.calibration_images is 2, but must be at least 3: one of every class$"
    ):
        export.calibration(scarce, 2, wanted)
    lacking = with_train(prepared, train[train.labels != 5])
    with pytest.raises(ValueError, match=f"no training image is of class {prepared.images.classes[5]},"):
        export.calibration(lacking, 12, wanted)


def test_a_class_without_an_image_is_one_line(prepared):
    train = prepared.images.train
    with pytest.raises(ValueError, match=r"^export.calibration_images is 9, but must be at least 10[^\n]*$"):
        export.check(prepared, calibration_images=9)
    lacking = with_train(prepared, train[train.labels != 3])
    with pytest.raises(
        ValueError, match=rf"^export: no training image is of class {prepared.images.classes[3]},[^\n]*$"
    ):
        export.check(lacking, calibration_images=64)


def test_int8_that_loses_too_much_names_the_layers_and_leaves_a_table(prepared, tmp_path, monkeypatch):
    """Against a reference that is right everywhere, any net of six training steps loses."""
    right = prepared.images.test.labels
    reference = dict.fromkeys(("little", "big_after_stem", "big"), right)
    from dynnas_jax.export import measuring

    monkeypatch.setattr(export, "_reference", lambda *_: measuring.Reference(reference, right))
    options = {"precisions": ("int8",), "calibration_images": 16, "runs": 2, "warm_up": 0}
    with pytest.raises(
        ValueError, match=r"^\w+_int8 loses \d+\.\d\d points .*max_accuracy_loss=0.01.*SQNR[^\n]*$"
    ) as caught:
        export.run(prepared, tmp_path, **options)
    assert [path.name for path in (tmp_path / "x86").iterdir()] == ["int8_layers.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["x86"]
    table = read_json(tmp_path / "x86" / "int8_layers.json")
    worst = max(table["layers"], key=lambda layer: layer["added_noise"])
    assert f"{worst['signature']} operator {worst['index']} {worst['operator']}" in str(caught.value)
    named = {row["function"] for row in table["files"]}
    assert named == {layer["signature"] for layer in table["layers"]} | {measuring.DECISION}


def test_float16_that_loses_too_much_leaves_nothing(prepared, tmp_path, monkeypatch):
    from dynnas_jax.export import measuring

    right = prepared.images.test.labels
    reference = measuring.Reference(dict.fromkeys(("little", "big_after_stem", "big"), right), right)
    monkeypatch.setattr(export, "_reference", lambda *_: reference)
    options = {"precisions": ("fp16",), "calibration_images": 16, "runs": 2, "warm_up": 0}
    with pytest.raises(ValueError, match=r"^\w+_fp16 loses \d+\.\d\d points .*; leave fp16 out of export.precisions$"):
        export.run(prepared, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_what_the_compiler_leaves_to_the_cpu_fails_the_export(tmp_path, monkeypatch):
    from dynnas_jax.export import edgetpu, functions

    network = functions.Network({"little": None, "big_after_stem": None}, {})
    facts = {name: {"function": name, "path": f"{name}_int8.tflite"} for name in network.steps}
    row = ("CONV_2D", 3, "Mapped to Edge TPU")
    mapped = edgetpu.Compiled("in", "out", 1, 1, 0, 1, 3, 0, (row,))
    partly = mapped._replace(unmapped=2, operators=(row, ("HARD_SWISH", 2, "Operation not supported")))
    monkeypatch.setattr(edgetpu, "is_installed", lambda: True)
    monkeypatch.setattr(edgetpu, "run_compiler", lambda paths, folder: (mapped, mapped))
    told = export.compiled(tmp_path, facts, network, tmp_path / "nets", "edgetpu")
    assert told == {"compiler": {"models": [mapped._asdict()] * 2}}
    monkeypatch.setattr(edgetpu, "run_compiler", lambda paths, folder: (mapped, partly))
    with pytest.raises(ValueError, match=r"leaves 2 operators to the CPU: HARD_SWISH \(Operation not supported\)$"):
        export.compiled(tmp_path, facts, network, tmp_path / "nets", "edgetpu")


def test_another_target_of_a_finished_run(tiny_run, tmp_path, capsys):
    """It becomes a complete part of the run, and the run stays complete."""
    copy = Path(shutil.copytree(tiny_run.workdir, tmp_path / "W"))
    before = (copy / "export" / "manifest.json").read_text()
    command = ["export", f"--workdir={copy}", "--target=pi4", "--precisions=fp32"]
    __main__.main(command)
    folder = copy / "export" / "pi4"
    assert [path.name for path in folder.glob("*.tflite")] == ["model_fp32.tflite"]
    assert flatbuffer.read_metadata(folder / "model_fp32.tflite")["target"] == "pi4"
    assert (copy / "export" / "manifest.json").read_text() == before
    assert "pi4" in (copy / "report.html").read_text()
    capsys.readouterr()
    __main__.main(command)
    assert "export/pi4: done before" in capsys.readouterr().out
    __main__.main(["status", f"--workdir={copy}"])
    assert capsys.readouterr().out.splitlines()[-1].split() == ["export/pi4", "done"]
    pipeline.run(tiny_run.config, copy)
    assert capsys.readouterr().out.count("done before") == len(pipeline.NAMES)
    # A file that is damaged afterwards is noticed, and made anew.
    (folder / "model_fp32.tflite").write_bytes(b"")
    __main__.main(command)
    assert flatbuffer.read_metadata(folder / "model_fp32.tflite")["target"] == "pi4"


def test_what_the_compiler_was_not_there_for_is_made_anew_once_it_is(tiny_run, tmp_path, capsys, monkeypatch):
    """Of another target, and (as if it asked for the compiler) of the run's own: whose other exports stay."""
    from dynnas_jax.export import edgetpu

    copy = Path(shutil.copytree(tiny_run.workdir, tmp_path / "W"))
    command = ["export", f"--workdir={copy}", "--target=edgetpu"]
    told = copy / "export" / "edgetpu" / "export.json"
    said = "not compiled for the Edge TPU: the compiler was not here; where it is: edgetpu_compiler --show_operations"
    report = (copy / "report" / "manifest.json").rename(copy / "report_done.json")
    __main__.main(command)  # of a run without a report
    assert capsys.readouterr().out.count(said) == 1
    report.rename(copy / "report" / "manifest.json")
    assert set(json.loads(told.read_text())["compiler"]) == {"command"}
    __main__.main(command)  # which is done before
    assert capsys.readouterr().out.count(said) == 1
    row = ("CONV_2D", 3, "Mapped to Edge TPU")
    monkeypatch.setattr(edgetpu, "is_installed", lambda: True)
    monkeypatch.setattr(
        edgetpu,
        "run_compiler",
        lambda paths, folder: [edgetpu.Compiled(path.name, path.name, 1, 1, 0, 1, 3, 0, (row,)) for path in paths],
    )
    __main__.main(command)
    models = json.loads(told.read_text())["compiler"]["models"]
    assert [model["input"] for model in models] == ["little_int8.tflite", "big_after_stem_int8.tflite"]
    capsys.readouterr()
    __main__.main(command)
    assert "export/edgetpu: done before" in capsys.readouterr().out
    own = copy / "export" / "x86" / "export.json"
    own.with_name("left.txt").write_text("made by hand")
    monkeypatch.setattr(pipeline, "_awaits_compiler", lambda folder: folder == own.parent)
    __main__.main(["export", f"--workdir={copy}", "--target=x86"])
    assert not own.with_name("left.txt").exists()
    assert told.is_file()
    pipeline.run(tiny_run.config, copy)
    assert capsys.readouterr().out.count("done before") == len(pipeline.NAMES)


def test_what_another_target_refuses(tiny_run, tmp_path, capsys):
    """One line, exit code 2, and the run stays as it was."""
    copy = Path(shutil.copytree(tiny_run.workdir, tmp_path / "W"))
    files = sorted(path.relative_to(copy) for path in copy.rglob("*"))
    for arguments, said in (
        (["--target=toaster"], "target is 'toaster', choose from"),
        (["--target=pi4", "--precisions=fp12"], "export.precisions is ('fp12',), choose from"),
        (["--target=edgetpu", "--precisions=fp32,int8"], "target edgetpu runs nothing but int8: give ('int8',)"),
        (["--target=x86", "--precisions=fp16"], "x86 is the run's own target"),
    ):
        with pytest.raises(SystemExit) as ended:
            __main__.main(["export", f"--workdir={copy}", *arguments])
        assert ended.value.code == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1
    assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == files
    assert json.loads((copy / "config.json").read_text())["target"] == "x86"
