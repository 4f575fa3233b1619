"""The stages of a run of superclasses, on one tiny run."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dynnas_jax import job, pipeline, records, settings
from dynnas_jax.__main__ import main
from dynnas_jax.costs import latency, macs
from dynnas_jax.export import dynamic, edgetpu, specialists
from dynnas_jax.reports import page
from dynnas_jax.stages import superclass_export, superclass_generator, superclass_predict
from dynnas_jax.train import calibration
from dynnas_jax.workdir import Workdir

GROUPS = {"open": (2, 3, 5), "round": (0, 6, 8, 9), "straight": (1, 4, 7)}  # as a config orders them
TRAIN = {
    **{"steps": 3, "batch_size": 64, "checkpoint_every": 2, "log_every": 2, "trackers": ()},
    "optimizer": {"learning_rate": 0.1},
}
SPACE = {
    **{"network": "small_images", "stem": 8, "stage_widths": (8, 8), "stage_strides": (1, 2), "head": 8},
    **{"depths": (1, 2), "kernels": (3, 5), "expands": (1, 2), "widths": (1.0,), "divisor": 4},
}
GENERATOR = {
    **{"steps": 6, "batch_size": 16, "cost_scenarios": 7, "embedding": 8, "units": 8},
    **{"unions": ("round+open",), "multi_path_too": True},
}


DATA = {"name": "digits", "holdout": 120, "train_limit": 400, "test_limit": 96}


def config_of(**sections):
    content = {
        "data": DATA,
        "superclasses": {"groups": GROUPS},
        "eas": SPACE,
        "teacher": TRAIN,
        "train": {
            **{**TRAIN, "steps": 4, "sandwich_rule": {"random_subnets": 1}},
            "progressive_shrinking": {"largest_share": 0.0, "order": ("kernel", "depth", "expand")},
        },
        "collect": {"subnets": 14, "calibration_images": 64},
        "predict": {"epochs": 4},
        "generator": GENERATOR,
        "search": {"budgets": 2, "samples": 6, "population": 8, "generations": 3, "calibration_images": 64},
        "evaluate": {"calibration_images": 64},
        "export": {"precisions": ("fp32",), "calibration_images": 16, "runs": 3, "warm_up": 1},
    }
    return settings.as_dict(ConfigDict({**content, **sections}))


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The working directory of a whole run. Copy it before changing it."""
    path = tmp_path_factory.mktemp("superclasses") / "run"
    pipeline.run(config_of(), path)
    return path


@pytest.fixture(scope="module")
def ready(run):
    config = config_of()
    return job.prepare(Workdir(run, pipeline.kinds.of(config).stages, config), config)


def read(path):
    return json.loads(path.read_text())


def sliced_logits(ready, genome, images):
    """Logits of the extracted subnet with its own statistics: not by masks."""
    calibrated = ready.calibration_batches(64)
    variables = job.supernet_variables(ready)
    net, own = calibration.extract_calibrated(ready.supernet, variables, genome, calibrated)
    return np.asarray(jax.jit(net.apply)(own, images)[0])


def right_within(logits, labels, classes):
    """Image by image, by the best of the logits of some classes."""
    return [max(classes, key=lambda c: logits[row, c]) == label for row, label in enumerate(labels) if label in classes]


def test_records_are_by_the_logits_of_the_superclass_alone(run, ready):
    store = records.open(run / "collect" / "records.zarr", ready.supernet.space.fingerprint)
    holdout = ready.images.holdout
    for row in (0, 5):
        logits = sliced_logits(ready, store.read("genome", [row])[0], holdout.images)
        expected = np.zeros(len(holdout), bool)
        for group in GROUPS.values():
            mine = np.isin(holdout.labels, group)
            expected[mine] = right_within(logits, holdout.labels, group)
        assert (store.read("correct", [row])[0, :, 0] == expected).mean() > 0.98
    told = superclass_predict.accuracies(ready, store.read("correct")[..., -1])
    own = [told[name][0] for name in GROUPS]
    assert told["all"][0] == pytest.approx(np.mean(own))


def test_every_method_answers_every_scenario_within_its_budget(run, ready):
    found, table = read(run / "search" / "found.json"), macs.table(ready.supernet)
    scenarios = [(name, budget) for name in GROUPS for budget in found["budgets"]]
    assert found["least_budget"] < found["budgets"][0] < found["budgets"][1] < found["most_budget"]
    for told in found["methods"].values():
        assert [(net["superclass"], net["budget"]) for net in told["nets"]] == scenarios
        for net in told["nets"]:
            assert net["macs"] == net["cost"] == table.exact(ready.supernet.space.from_json(net["genome"]))
            assert net["cost"] <= net["budget"]
        assert told["search_s"] > 0
    for single in ("eas_v", "ofa_v"):
        nets = found["methods"][single]["nets"]
        assert len({(net["budget"], str(net["genome"])) for net in nets}) == 2
    assert found["methods"]["ofa_t"]["train_s"] == found["methods"]["ofa_v"]["train_s"] > 0
    assert (
        found["methods"]["eas"]["train_s"]
        == read(run / "generator" / "generator.json")["generators"]["superclasses"]["seconds"]
    )
    assert found["methods"].keys() == {"eas", "eas_multi_path", "eas_v", "ofa_t", "ofa_v", "random"}
    assert found["answering"]["scenarios"] == 50


def test_the_evaluation_is_that_of_the_sliced_subnets(run, ready):
    told, test = read(run / "evaluate" / "evaluation.json"), ready.images.test
    found = read(run / "search" / "found.json")
    for method, place in (("eas", 1), ("ofa_t", 4)):
        net = found["methods"][method]["nets"][place]
        (entry,) = [
            row
            for row in told["nets"]
            if (row["method"], row["superclass"], row["budget"]) == (method, net["superclass"], net["budget"])
        ]
        logits = sliced_logits(ready, ready.supernet.space.from_json(net["genome"]), test.images)
        expected = np.mean(right_within(logits, test.labels, GROUPS[net["superclass"]]))
        assert entry["accuracy"] == pytest.approx(expected, abs=0.04)


def test_unions_are_those_that_were_not_trained(run, ready):
    told = read(run / "evaluate" / "evaluation.json")
    assert [row["union"] for row in told["unions"]] == ["open+straight", "round+straight"]
    row = told["unions"][0]
    classes = GROUPS["straight"] + GROUPS["open"]
    assert row["images"] == np.isin(ready.images.test.labels, classes).sum()
    assert row["eas"]["cost"] <= row["budget"]


def test_an_unknown_superclass_is_told_by_the_smallest_net(run, ready):
    told = read(run / "evaluate" / "evaluation.json")["unknown"]
    found, labels = read(run / "search" / "found.json"), ready.images.test.labels
    space, owner = ready.supernet.space, ready.superclasses.of_class
    first = sliced_logits(ready, space.smallest, ready.images.test.images)
    own = {
        net["superclass"]: sliced_logits(ready, space.from_json(net["genome"]), ready.images.test.images)
        for net in found["methods"]["eas"]["nets"]
        if net["budget"] == told["budget"]
    }
    chances = np.exp(first - first.max(axis=1, keepdims=True))
    right, spent = [], []
    nets = {net["superclass"]: net for net in found["methods"]["eas"]["nets"] if net["budget"] == told["budget"]}
    for row, label in enumerate(labels):
        name = max(GROUPS, key=lambda n: chances[row, list(GROUPS[n])].sum())
        answer = max(GROUPS[name], key=lambda c: own[name][row, c])
        right.append((name, answer == label, list(GROUPS).index(name) == owner[label]))
        spent.append(nets[name]["macs"] + macs.table(ready.supernet).exact(space.smallest))
    assert told["two_steps"]["accuracy"] == pytest.approx(np.mean([r for _, r, _ in right]), abs=0.04)
    assert told["superclass_accuracy"] == pytest.approx(np.mean([r for _, _, r in right]), abs=0.04)
    assert told["two_steps"]["macs"] == pytest.approx(np.mean(spent), rel=0.02)
    assert told["general"]["macs"] <= told["first_macs"] + max(net["macs"] for net in nets.values())


def test_the_exported_files_know_their_classes_alone(run, ready):
    nets = specialists.Specialists(run / "export" / "x86")
    assert nets.names == ("open", "round", "straight")
    found, test = read(run / "search" / "found.json"), ready.images.test
    for name in ("round", "open", "round"):
        assert nets.switch(name).classifier.labels == [str(c) for c in GROUPS[name]]
        (net,) = [
            n for n in found["methods"]["eas"]["nets"] if (n["superclass"], n["budget"]) == (name, found["budgets"][1])
        ]
        images = test.images[:8]
        logits = sliced_logits(ready, ready.supernet.space.from_json(net["genome"]), images)
        for image, row in zip(images, logits, strict=True):
            assert nets.predict(image).label == str(max(GROUPS[name], key=lambda c: row[c]))
        told = read(run / "export" / "x86" / name / "export.json")
        assert told["files"]["net_fp32"]["macs"] < net["macs"], "the head has fewer logits"
    with pytest.raises(ValueError, match="'rond' is not here, did you mean 'round'"):
        nets.switch("rond")
    assert nets.current == "round"


EXPORT = {"precisions": ("int8",), "onnx": False, "calibration_images": 6, "threads": 1, "runs": 2, "warm_up": 0}


def test_scales_are_of_every_class_of_the_superclass(ready, tmp_path, monkeypatch):
    """Also of one with a single image, which hardly any other drawing takes."""
    train, seen = ready.images.train, []
    rare = np.flatnonzero(train.labels == 3)[1:]
    scarce = ready._replace(images=ready.images._replace(train=train[np.setdiff1d(np.arange(len(train)), rare)]))

    class SeenError(Exception):
        pass

    def export(*_, calibration, **__):
        seen.append(calibration)
        raise SeenError

    monkeypatch.setattr(dynamic, "export", export)
    subnet = superclass_export.Subnet("open", ready.superclasses.members(["open"]), ready.supernet.space.smallest)
    with pytest.raises(SeenError):
        superclass_export.write(scarce, subnet, tmp_path / "open", EXPORT | {"max_accuracy_loss": 0.01})
    known = {image.tobytes(): int(label) for image, label in zip(train.images, train.labels, strict=True)}
    labels = [known[image.tobytes()] for image in seen[0]]
    assert len(labels) == 6
    assert set(labels) == {2, 3, 5}


def test_a_superclass_that_loses_too_much_names_the_layers(ready, tmp_path):
    """Less than nothing may be lost here."""
    subnet = superclass_export.Subnet("open", ready.superclasses.members(["open"]), ready.supernet.space.smallest)
    said = r"^open: net_int8 loses -?\d+\.\d\d points .*max_accuracy_loss=-1.0 allows; .* SQNR .*int8_layers.json$"
    with pytest.raises(ValueError, match=said):
        superclass_export.write(ready, subnet, tmp_path / "open", EXPORT | {"max_accuracy_loss": -1.0})
    assert [path.name for path in tmp_path.rglob("*")] == ["open", "int8_layers.json"]


def test_files_for_the_edge_tpu_go_through_its_compiler(ready, tmp_path, monkeypatch):
    """Where it is there; what it leaves to the CPU fails the export. Elsewhere its command is told."""
    row, options = ("CONV_2D", 3, "Mapped to Edge TPU"), EXPORT | {"max_accuracy_loss": 1.0}
    left = [edgetpu.Compiled("in", "out", 1, 1, 0, 1, 3, unmapped, (row,)) for unmapped in (0, 2)]

    def compiler(paths, folder):
        for path in paths:
            shutil.copyfile(path, folder / f"{path.stem}_edgetpu.tflite")
        return (left[0],)

    coral, space = ready._replace(target="edgetpu"), ready.supernet.space
    subnet = superclass_export.Subnet("open", ready.superclasses.members(["open"]), space.smallest)
    monkeypatch.setattr(edgetpu, "is_installed", lambda: False)
    told = superclass_export.write(coral, subnet, tmp_path / "plain", options)
    assert told["compiler"]["command"].startswith(f"edgetpu_compiler --show_operations --out_dir {tmp_path / 'plain'} ")
    monkeypatch.setattr(edgetpu, "is_installed", lambda: True)
    monkeypatch.setattr(edgetpu, "run_compiler", compiler)
    superclass_export.write(coral, subnet, tmp_path / "compiled", options)
    assert len(read(tmp_path / "compiled" / "export.json")["compiler"]["models"]) == 1
    assert len(list((tmp_path / "compiled").glob("*_int8_edgetpu.tflite"))) == 1
    left.reverse()
    with pytest.raises(ValueError, match="leaves 2 operators to the CPU"):
        superclass_export.write(coral, subnet, tmp_path / "refused", options)
    assert not (tmp_path / "refused").exists()


def test_the_copied_runtime_switches_by_itself(run, ready, tmp_path):
    from PIL import Image

    shutil.copytree(run / "export" / "x86", tmp_path / "device")
    Image.fromarray(ready.images.test.images[0, :, :, 0]).save(tmp_path / "digit.png")
    command = [sys.executable, "specialists.py", "open", str(tmp_path / "digit.png")]
    told = subprocess.run(command, cwd=tmp_path / "device", capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split(": ")[1][0] in "235"
    wrong = subprocess.run([*command[:2], "opne", command[3]], cwd=tmp_path / "device", capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "required: name, IMAGE"), (["open", "a.png", "--precision=int4"], "invalid"), (["a", "b", "--x"], "--x")],
)
def test_a_mistake_about_the_copied_runtime_is_one_plain_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        specialists.main(arguments)
    wrong = capsys.readouterr().err
    assert (stopped.value.code, wrong.count("\n")) == (2, 1), wrong
    assert wrong.startswith("specialists.py: ")
    assert said in wrong


def test_the_report_shows_every_part(run):
    content = (run / "report.html").read_text()
    assert "Energy of training alone: " in content
    assert {stage for stage in ("teacher", "train") if (run / stage / "energy.json").is_file()} == {"teacher", "train"}
    # Superclass dropout needs another run beside this one, and the paper's nine tables and figures their datasets.
    assert content.count("not run") == 1 + 9 + 1
    rows = (run / "report" / "tables" / "accuracies.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 6
    for name in ("methods", "generators", "archs_of_budgets", "archs_of_superclasses", "similarity"):
        assert (run / "report" / "figures" / f"{name}.png").stat().st_size > 1000


def test_a_run_without_dropout_beside_this_one(run, tmp_path):
    path, other = tmp_path / "run", tmp_path / "without"
    shutil.copytree(run, path)
    shutil.copytree(run, other)
    for folder, rate in ((path, 0.6), (other, 0.0)):
        told = read(folder / "evaluate" / "evaluation.json")
        assert told["superclass_dropout"] == 0.6
        (folder / "evaluate" / "evaluation.json").write_text(json.dumps({**told, "superclass_dropout": rate}))
    artifacts_of_other = {"evaluation": read(other / "evaluate" / "evaluation.json"), "exports": {}, "benches": {}}
    (path / "baselines").mkdir()
    (path / "baselines" / "without.json").write_text(json.dumps(artifacts_of_other))
    page.write(path)
    assert (path / "report" / "figures" / "dropout.png").stat().st_size > 1000
    rows = (path / "report" / "tables" / "dropout.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["rate", *["0.0"] * 4, *["0.6"] * 4]


def refused(capsys, *arguments):
    """The one line that the command line ends in, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    return error


def costs_of(ready, cost=macs.table):
    """(a table of costs, that of the smallest subnet, that of the largest)."""
    table = cost(ready.supernet)
    return table, *(table.exact(getattr(ready.supernet.space, end)) for end in ("smallest", "largest"))


def test_specialize_writes_a_file_for_a_set(run, ready, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    _, least, most = costs_of(ready)
    budget = (least + most) // 2
    main(["specialize", f"--workdir={path}", "--superclass=straight+open", f"--max_macs={budget}"])
    told = json.loads(capsys.readouterr().out)
    assert told["superclass"] == "open+straight"
    assert told["macs"] <= budget
    nets = specialists.Specialists(path / "specialize" / "x86").switch("open+straight")
    assert nets.classifier.labels == [str(c) for c in sorted(GROUPS["straight"] + GROUPS["open"])]


def test_specialize_for_another_target(run, ready, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    budget = costs_of(ready)[2]
    asked = ["--superclass=open", f"--max_macs={budget}", "--target=pi4", "--precisions=dynamic_range"]
    main(["specialize", f"--workdir={path}", *asked, "--name=most"])
    told = json.loads(capsys.readouterr().out)
    assert list(told["files"].values()) == [str(path / "specialize" / "pi4" / "most" / "model_dynamic_range.tflite")]
    assert specialists.Specialists(path / "specialize" / "pi4").switch("most").classifier.labels == ["2", "3", "5"]


def test_specialize_refuses_in_one_line(run, ready, capsys):
    _, least, most = costs_of(ready)
    budget = (least + most) // 2
    for arguments, message in (
        (["--superclass=opne", f"--max_macs={budget}"], "superclass 'opne' is unknown, did you mean 'open'"),
        (["--superclass=open", f"--max_macs={least - 1}"], "no subnet of this space is that cheap"),
        (["--superclass=open", "--max_macs=nan"], "no subnet of this space is that cheap"),
        (["--superclass=open", f"--max_macs={most + 1}"], "outside the space"),
        (["--superclass=open", "--max_latency_ms=1"], "for budgets in macs, not in latency_ms; pass --max_macs"),
        *(
            (["--superclass=open", f"--max_macs={budget}", f"--name={name}"], "cannot be the name of a folder")
            for name in ("a/b", ".", "..", "runtime.py", "specialists.py", ".hidden", "a.")
        ),
        (["--superclass=open", f"--max_macs={budget}", "--target=pi6"], "target is 'pi6'"),
        (["--superclass=open", f"--max_macs={budget}", "--precisions=fp64"], "--precisions= is ('fp64',), choose from"),
        (
            ["--superclass=open", f"--max_macs={budget}", "--target=edgetpu", "--precisions=fp32"],
            "target edgetpu runs nothing but int8",
        ),
        (["--superclass=open"], "one of the arguments --max_macs --max_latency_ms is required"),
    ):
        assert message in refused(capsys, "specialize", f"--workdir={run}", *arguments)


def test_quick_evaluation_takes_the_most_accurate_sample(run, ready, tmp_path, capsys):
    """Against every sample by itself, extracted, on the held-out images of the superclass."""
    path, holdout = tmp_path / "run", ready.images.holdout
    shutil.copytree(run, path)
    budget = costs_of(ready)[2] - 1
    asked = ["specialize", f"--workdir={path}", "--superclass=round+open", f"--max_macs={budget}"]
    main([*asked, "--quick_evaluation"])
    taken = json.loads(capsys.readouterr().out)
    trained = superclass_generator.load(run, ready.supernet, "x86")
    members = ready.superclasses.members("round+open")[None]
    found = trained.answerer(ready.supernet, samples=6)(members, np.asarray([budget], np.float32), jax.random.key(0))
    classes = GROUPS["round"] + GROUPS["open"]

    def accuracy(genome):
        return np.mean(right_within(sliced_logits(ready, genome, holdout.images), holdout.labels, classes))

    inside = np.unique(np.asarray(found.genome[0])[np.asarray(found.feasible[0])], axis=0)
    assert len(inside) > 1, "there is something to choose from"
    assert taken["macs"] <= budget
    # Masked and extracted nets differ by rounding, in an image or two.
    assert accuracy(ready.supernet.space.from_json(taken["genome"])) >= max(map(accuracy, inside)) - 0.03


@pytest.fixture(scope="module")
def by_latency(run, ready, made_up_table, tmp_path_factory):
    """(the working directory of the run with its generator trained on milliseconds, its config, the table's file)."""
    folder = tmp_path_factory.mktemp("latency")
    path, file = folder / "run", folder / "table.json"
    latency.save(made_up_table(ready.supernet, 0.05), file)
    shutil.copytree(run, path)
    config = config_of(generator={**GENERATOR, "latency_table": str(file), "multi_path_too": False})
    stages = ("teacher", "train", "collect", "predict", "generator", "search", "evaluate")
    pipeline.run(config, path, names=stages, redo="generator")
    return path, config, file


def test_budgets_in_milliseconds_are_kept(by_latency, ready):
    path, _, file = by_latency
    table = latency.load(file).of(ready.supernet)
    found, told = read(path / "search" / "found.json"), read(path / "evaluate" / "evaluation.json")
    assert found["unit"] == told["unit"] == "latency_ms"
    ends = [table.exact(getattr(ready.supernet.space, end)) for end in ("smallest", "largest")]
    assert [found["least_budget"], found["most_budget"]] == pytest.approx(ends)
    for method in found["methods"].values():
        for net in method["nets"]:
            assert net["cost"] == table.exact(ready.supernet.space.from_json(net["genome"]))
            assert net["cost"] <= net["budget"]
    trained = superclass_generator.load(path, ready.supernet, "x86")
    budgets = np.linspace(*ends, 40, dtype=np.float32)[1:]
    members = np.eye(3, dtype=bool)[np.arange(39) % 3]
    answered = trained.answerer(ready.supernet)(members, budgets, jax.random.key(2))
    assert all(table.exact(g) <= budget for g, budget in zip(answered.chosen, budgets, strict=True))


def test_specialize_for_milliseconds(by_latency, ready, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(by_latency[0], path)
    table, least, most = costs_of(ready, latency.load(by_latency[2]).of)
    asked = "specialize", f"--workdir={path}", "--superclass=round"
    main([*asked, f"--max_latency_ms={(least + most) / 2}"])
    told = json.loads(capsys.readouterr().out)
    genome = ready.supernet.space.from_json(told["genome"])
    assert told["latency_ms"] == table.exact(genome) <= (least + most) / 2
    assert told["macs"] == macs.table(ready.supernet).exact(genome)
    for arguments, message in (
        (["--max_macs=1e6"], "for budgets in latency_ms, not in macs; pass --max_latency_ms"),
        ([f"--max_latency_ms={most}", "--target=pi4"], "for milliseconds on x86, not on pi4"),
        ([f"--max_latency_ms={0.9 * least}"], "no subnet of this space is that cheap"),
        ([f"--max_latency_ms={1.1 * most}"], "outside the space"),
    ):
        assert message in refused(capsys, *asked, *arguments)


def test_a_latency_table_that_changed_under_a_run(by_latency, tmp_path):
    path, config, file = tmp_path / "run", by_latency[1], by_latency[2]
    shutil.copytree(by_latency[0], path)
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "overhead_ms": 9.0}))
    try:
        with pytest.raises(ValueError, match="generator.latency_table names has changed since stage 'generator'"):
            pipeline.run(config, path, names=("generator",))
    finally:
        file.write_text(before)


def test_export_for_another_target(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    pipeline.export(path, "pi4", precisions=("dynamic_range",))
    nets = specialists.Specialists(path / "export" / "pi4")
    assert nets.names == ("open", "round", "straight")
    assert nets.switch("straight").classifier.labels == ["1", "4", "7"]
    assert "pi4" in (path / "report.html").read_text(), "the report has been made anew"


def test_a_generator_of_another_space_is_refused(run, ready, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run / "generator", path / "generator")
    facts = read(path / "generator" / "generator.json")
    (path / "generator" / "generator.json").write_text(json.dumps({**facts, "space": "0" * 16}))
    with pytest.raises(ValueError, match="a generator of space '0+', but this space is"):
        superclass_generator.load(path, ready.supernet, "x86")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"superclasses": {"groups": {**GROUPS, "open": (2, 3, 5, 0)}}}, "class '0' is in 'open' and in 'round'"),
        ({"superclasses": {"groups": {**GROUPS, "open": (2, 3)}}}, "class '5' is in no group"),
        ({"train": {**TRAIN, "superclass_dropout": 1.5}}, "superclass_dropout is 1.5"),
        ({"generator": {"steps": 2, "least_budget": 1.0}}, "generator.least_budget is 1 macs, outside the space"),
        ({"generator": {"steps": 2, "unions": ("round+closed",)}}, "superclass 'closed' is unknown"),
        ({"generator": {}}, "generator.steps is missing"),
        ({"generator": {"steps": 2, "paths": "multi", "multi_path_too": True}}, "multi_path_too does nothing"),
        ({"generator": {"steps": 2, "latency_table": "no.json"}}, "no.json"),
        ({"generator": {"steps": 2, "cost_weight": -1.0}}, "generator.cost_weight is -1.0"),
        ({"superclasses": {"groups": {**GROUPS, "odd": ()}}}, "'odd' has no classes"),
        ({"data": {**DATA, "test_limit": 1}}, "has none of the 1 test .data.test_limit. images"),
        ({"data": {**DATA, "holdout": 1}}, "has none of the 1 held-out .data.holdout. images"),
        ({"search": {"samples": 0}}, "budgets 5 and samples 0 must be at least 1"),
        ({"export": {"budget": 7}}, "export.budget is 7"),
    ],
)
def test_bad_input_is_told_before_training(sections, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pipeline.run(config_of(**sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_groups_from_a_file_are_kept_in_the_run(tmp_path):
    file = tmp_path / "groups.txt"
    file.write_text("".join(f"[{name}]\n" + "\n".join(map(str, group)) + "\n" for name, group in GROUPS.items()))
    opened = pipeline.opened(config_of(superclasses={"file": str(file)}), tmp_path / "run")
    assert {name: [int(c) for c in g] for name, g in opened.config["superclasses"]["groups"].items()} == {
        name: list(group) for name, group in GROUPS.items()
    }
