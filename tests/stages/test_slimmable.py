"""The stages of a run of a dynamic slimmable network, on one tiny run."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from dynnas_jax import job, pipeline, settings
from dynnas_jax.dynamic import gates
from dynnas_jax.export import runtime
from dynnas_jax.masking import mask_variables
from dynnas_jax.networks import ds_net, gate, gated, gated_parts
from dynnas_jax.reports import artifacts, gate_plots, gate_sections
from dynnas_jax.reports import page as make_page
from dynnas_jax.stages import export, slimmable, slimmable_evaluate, slimmable_transfer
from dynnas_jax.train.calibration import recalibrate
from dynnas_jax.workdir import Workdir

EXPORT = {"precisions": ("fp32",), "calibration_images": 16, "runs": 3, "warm_up": 1, "max_accuracy_loss": 1.0}
CHOOSING = "stage2_block0/gate/choose_conv"  # the slimming head
CORAL = {"target": "edgetpu", "export": {**EXPORT, "precisions": ("int8",)}}
NETWORK = {
    "network": "ds_mobilenet_small",
    "ratios": (0.5, 1.0),
    "stem": 4,
    "fixed": ((8, 1, 1),),
    "gated": ((64, 1, 2),),
}
SEVERAL_GATES = {  # and group norm
    "network": "ds_resnet_small",
    "ratios": (0.5, 1.0),
    "stem": 4,
    "depths": (1, 1),
    "widths": (8, 16),
    "strides": (2, 2),
    "groups": 4,
}


def config_of(**sections):
    train = {"steps": 4, "batch_size": 64, "checkpoint_every": 2, "log_every": 2, "trackers": ()}
    given = {
        "data": {"name": "digits", "holdout": 100, "train_limit": 400, "test_limit": 96},
        "slimmable": NETWORK,
        "dynamic": {"target_macs_fraction": 0.8},
        "train": {**train, "optimizer": {"learning_rate": 0.1}, "bootstrapping": {"random_paths": 1}},
        "gate": {"steps": 4, "batch_size": 64, "calibration_images": 128, "log_every": 2},
        "evaluate": {"timed_batches": 1, "calibration_images": 128},
        "export": EXPORT,
    }
    return settings.as_dict(ConfigDict({**given, **sections}))


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The working directory of a whole run. Copy it before changing it."""
    path = tmp_path_factory.mktemp("slimmable") / "run"
    pipeline.run(config_of(), path)
    return path


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """(config, the working directory) of a run with two gates, without an export. Copy it before changing it."""
    learning = {**config_of()["gate"], "steps": 20, "optimizer": {"learning_rate": 0.3}}  # until both gates pick both
    config = config_of(slimmable=SEVERAL_GATES, gate=learning, dynamic={"target_macs_fraction": 0.6})
    path = tmp_path_factory.mktemp("several") / "run"
    pipeline.run(config, path, names=("train", "gate", "evaluate"))
    make_page.write(path)
    return config, path


def prepared(path, config):
    return job.prepare(Workdir(path, pipeline.kinds.of(config).stages, config), config)


def read(path):
    return json.loads(path.read_text())


def test_only_the_slimming_head_learns_in_stage_two(run):
    before = job.load_variables(run / "train" / "slimmable.msgpack")["params"]
    after = job.load_variables(run / "gate" / "gated.msgpack")["params"]
    heads = gate.trained(after)
    assert list(heads) == ["stage2_block0"]
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
    assert all(jax.tree.leaves(gate.trained(changed)))
    still = gate.with_trained(changed, jax.tree.map(lambda leaf: False, gate.trained(changed)))
    assert not any(jax.tree.leaves(still))


def test_both_trainings_are_metered_and_told(run):
    told = {stage: read(run / stage / "energy.json") for stage in ("train", "gate")}
    assert all(each["seconds"] > 0 and each["energy_j"] > 0 for each in told.values())
    assert artifacts.read(run).trainings == told


def test_every_path_has_statistics_of_its_own(run):
    ready, variables = prepared(run, config_of()), job.load_variables(run / "gate" / "gated.msgpack")
    supernet, images = ready.supernet, ready.calibration_batches(128)
    for number, genome in enumerate(gates.paths(supernet)):
        plain = gated.with_statistics(variables, number)
        masked = recalibrate(supernet.masked_net(), mask_variables(supernet, plain, genome), images)["batch_stats"]
        # Of the channels that the path has: masked norms leave nothing of the others.
        both = (
            gated.path(supernet, {**plain, "batch_stats": stats}, genome)[1] for stats in (masked, plain["batch_stats"])
        )
        jax.tree.map(lambda own, found: np.testing.assert_allclose(own, found, rtol=1e-3, atol=1e-4), *both)


def test_calibration_images_and_weights_are_no_constants_of_the_program(noisy_variables):
    """They would be copied into its text, and there be folded and hashed: of ImageNet 154 MB."""
    supernet = ds_net.ds_mobilenet_small(
        classes=3, resolution=8, channels=1, mean=(0.4,), std=(0.3,), ratios=(0.5, 1.0), gated=((16, 1, 2),)
    )
    variables, images = noisy_variables(supernet.largest_net(), (8, 8, 1)), np.zeros((2, 64, 8, 8, 1), np.uint8)
    told = jax.make_jaxpr(lambda: slimmable.with_path_statistics(supernet, variables, images))()
    programs = [equation.params["jaxpr"] for equation in told.eqns if "jaxpr" in equation.params]
    assert programs, "or the test shows nothing"
    assert sum(np.size(constant) for program in programs for constant in program.consts) < 1000 < images.size


def test_the_evaluation_tells_what_the_network_does(run):
    ready, variables = prepared(run, config_of()), job.load_variables(run / "gate" / "gated.msgpack")
    told, out = read(run / "evaluate" / "evaluation.json"), np.load(run / "evaluate" / "outputs.npz")
    cost = np.asarray(gates.cost(ready.supernet))
    right, spent = [], []
    for number, genome in enumerate(gates.paths(ready.supernet)):
        rows = np.flatnonzero(out["path"][:, 0] == number)
        net, own = gated.path(ready.supernet, variables, genome)
        answers = np.asarray(net.apply(own, ready.images.test.images)[0])
        np.testing.assert_allclose(out["logits"][rows], answers[rows], atol=1e-4)
        right.append((answers.argmax(-1) == ready.images.test.labels)[rows])
        spent.append(np.full(len(rows), cost[number]))
    assert told["dynamic"]["accuracy"] == pytest.approx(np.concatenate(right).mean())
    assert told["dynamic"]["macs"] == pytest.approx(np.concatenate(spent).mean())
    assert told["one_by_one"]["same_path"] == told["one_by_one"]["images"] == 96, "every test image"
    np.testing.assert_array_equal(out["choice"], out["path"][:, 0])
    assert [row["macs"] for row in told["paths"]] == sorted(cost.tolist())
    assert told["paths_in_all"] == len(cost)
    seconds = told["seconds"]
    assert (seconds["batch"], seconds["gated_chunks"]) == (96, [64, 32])
    paths = len(np.unique(out["path"]))
    assert (seconds["alone_paths"], paths <= seconds["alone_images"] <= 32) == (paths, True)
    assert seconds["gated_rows"] == [count / 96 for count in gates.rows(ready.supernet, out["path"])]
    assert list(seconds["largest_by_chunk"]) == ["16", "32", "64", "96"]
    assert seconds["largest"] == seconds["largest_by_chunk"][str(seconds["largest_chunk"])]
    assert seconds["largest"] == min(seconds["largest_by_chunk"].values())
    (spread,) = told["gates"]
    np.testing.assert_allclose(spread["share"], np.bincount(out["path"][:, 0], minlength=2) / 96)


def test_several_gates_answer_as_the_paths_that_they_pick(several):
    """Images of a batch, gathered behind each gate, against each image alone, and against nets cut out of the supernet."""
    config, run = several
    ready, variables = prepared(run, config), job.load_variables(run / "gate" / "gated.msgpack")
    told, out = read(run / "evaluate" / "evaluation.json"), np.load(run / "evaluate" / "outputs.npz")
    supernet, images = ready.supernet, ready.images.test.images
    assert len(np.unique(out["choice"])) > 2, "or the test shows little"
    switched, cut = jax.jit(gates.switched(supernet)), gated_parts.cut(supernet, variables)
    for image, path, logits in zip(images, out["path"], out["logits"], strict=True):
        alone = switched(cut, image[None])
        np.testing.assert_array_equal(alone.path[0], path)
        np.testing.assert_allclose(alone.logits[0], logits, atol=1e-5)
    for number, genome in enumerate(gates.paths(supernet)):
        rows = np.flatnonzero(out["choice"] == number)
        net, own = gated.path(supernet, variables, genome)
        np.testing.assert_allclose(out["logits"][rows], net.apply(own, images)[0][rows], atol=1e-4)
    assert told["one_by_one"]["same_path"] == told["one_by_one"]["images"] == 96
    for index, spread in enumerate(told["gates"]):
        assert sum(spread["share"]) == pytest.approx(1)
        np.testing.assert_allclose(spread["share"], np.bincount(out["path"][:, index], minlength=2) / 96)


def test_the_report_has_a_row_for_every_gate(several, tmp_path, monkeypatch):
    _, run = several
    rows = (run / "report" / "tables" / "gates.csv").read_text().splitlines()
    names = ["stage1.ratio", "stage2.ratio"]
    assert [row.split(",")[0] for row in rows[1:]] == names
    assert all(f"<td>{name}</td>" in (run / "report.html").read_text() for name in names)
    assert "classes 4 are drawn" not in (run / "report.html").read_text()
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr(gate_plots, "MOST_CLASSES", 4)
    assert "Of 10 classes 4 are drawn: those whose images run at" in make_page.write(tmp_path / "run").read_text()


def test_an_evaluation_fails_where_images_alone_answer_otherwise(run):
    ready, variables = prepared(run, config_of()), job.load_variables(run / "gate" / "gated.msgpack")
    supernet, images = ready.supernet, ready.images.test.images[:6]
    switched, out = jax.jit(gates.switched(supernet)), np.load(run / "evaluate" / "outputs.npz")

    def compared(variables, path, logits):
        cut = gated_parts.cut(supernet, variables)
        return slimmable_evaluate.one_by_one(supernet, switched, cut, images, gates.Answers(logits, path))

    path, logits = out["path"][:6], out["logits"][:6]
    assert compared(variables, path, logits)["same_path"] == 6
    other = path.copy()
    other[2] = 1 - other[2]
    with pytest.raises(RuntimeError, match="1 of 6 images that ran alone took another path"):
        compared(variables, other, logits)
    with pytest.raises(RuntimeError, match="0 of 6 images .* logits of the same path differ by up to 0.1"):
        compared(variables, path, logits + 0.1 * np.eye(6, 10, dtype=np.float32))
    # Scores all alike: which path is taken is up to rounding.
    heads = jax.tree.map(np.zeros_like, gate.trained(variables["params"]))
    tied = {**variables, "params": gate.with_trained(variables["params"], heads)}
    alone = [switched(gated_parts.cut(supernet, tied), images[row : row + 1]) for row in range(6)]
    told = compared(tied, np.eye(6, 1, -2, np.int32), np.concatenate([np.asarray(one.logits) for one in alone]))
    assert (told["same_path"], told["ties"]) == (5, 1)


def test_held_out_images_meet_the_target_from_below(run):
    found = read(run / "gate" / "found.json")
    assert found["target_macs"] == pytest.approx(0.8 * found["largest_macs"])
    one = (found["largest_macs"] - found["smallest_macs"]) / 100  # an image more at the widest path
    assert found["target_macs"] - one <= found["holdout"]["average_macs"] <= found["target_macs"]
    assert not found["target_missed"]
    costs, (share,) = (found["smallest_macs"], found["largest_macs"]), found["holdout"]["share"]
    assert np.dot(costs, share) == pytest.approx(found["holdout"]["average_macs"])


def test_the_exported_folder_answers_as_jax_does(run):
    out, ready = np.load(run / "evaluate" / "outputs.npz"), prepared(run, config_of())
    classifier = runtime.DynamicClassifier(run / "export" / "x86")
    assert [model.name for model in classifier.in_turn] == ["to_gate", "path1", "path2"]
    classifier.warm_up()
    for row in range(0, 96, 7):
        answer = classifier.predict(ready.images.test.images[row])
        assert (answer.choice, answer.class_index) == (out["path"][row, 0], out["logits"][row].argmax())
    facts = read(run / "export" / "x86" / "export.json")["files"]
    costs = [facts["to_gate_fp32"]["macs"] + facts[f"path{number}_fp32"]["macs"] for number in (1, 2)]
    assert costs == list(gates.cost(ready.supernet)) == classifier.cost


def test_the_report_shows_the_gates(run):
    page = (run / "report.html").read_text()
    assert "not run" not in page
    assert not re.search(r"\b(little|unsure)\b", page), "words of other kinds of runs"
    assert "Energy of training alone: " in page
    assert "took the path that they took in a batch" in page
    assert "The files hold 2 paths; 100.0 % of the test images take one of them." in page
    assert "In batches of 96 images; the widest path in chunks of " in page
    assert re.search(r" Alone: \d+ images, equally many of each of the [12] paths that test images take", page)
    assert len((run / "report" / "tables" / "paths.csv").read_text().splitlines()) == 3
    for name in ("gates", "accuracy_against_macs", "gate_training", "samples"):
        assert (run / "report" / "figures" / f"{name}.png").stat().st_size > 1000


def test_the_report_tells_what_was_asked_for(run, tmp_path):
    """Of the target, held-out and test images; and a warning where no tilt of the gates met it."""
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "gate" / "found.json"
    found, told = read(path), read(run / "evaluate" / "evaluation.json")
    expected = {
        "asked for on average": found["target_macs"],
        "gated, held-out images": found["holdout"]["average_macs"],
        "gated, test images": told["dynamic"]["macs"],
    }
    rows = {row["network"]: row for row in gate_sections.in_short(artifacts.read(run))[0]}
    assert {name: rows[name]["macs"] for name in expected} == expected
    page = (run / "report.html").read_text()
    assert all(name in page and f"{macs / 1e6:,.3f}" in page for name, macs in expected.items())
    assert 'class="warning"' not in page
    path.write_text(json.dumps({**found, "target_missed": True}))
    page = make_page.write(tmp_path / "run").read_text()
    assert 'class="warning">The gates did not meet the ' in page
    assert "asked for on average, missed" in page
    evaluated = tmp_path / "run" / "evaluate" / "evaluation.json"
    evaluated.write_text(json.dumps({**told, "paths_in_all": 256}))
    assert "Measured are 2 of 256 paths" in make_page.write(tmp_path / "run").read_text()
    path.write_text(json.dumps({**found, "target_macs": None}))
    assert "asked for on average" not in make_page.write(tmp_path / "run").read_text()


def test_a_supernet_and_its_gates_go_to_other_images(run, tmp_path):
    config = config_of()
    config["train"]["transfer_from"] = str(run)
    config["gate"] |= {"transfer_from": str(run), "steps": 0}
    ready = prepared(tmp_path / "new", config)
    source = job.load_variables(run / "gate" / "gated.msgpack")
    fresh = jax.tree.map(np.zeros_like, job.load_variables(run / "train" / "slimmable.msgpack"))
    fresh["params"]["head"]["classifier"]["bias"] = np.zeros(7, np.float32)
    moved = slimmable_transfer.supernet(ready, str(run), fresh)
    choosing = [f"params/{CHOOSING}/{leaf}" for leaf in ("bias", "kernel")]
    assert sorted(moved.listed["fresh"]) == ["params/head/classifier/bias", *choosing], (
        "no supernet trains slimming heads"
    )
    assert len(moved.listed["taken"]) == len(jax.tree.leaves(fresh)) - 3
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gate.trained(moved.variables["params"])))
    heads = slimmable_transfer.heads(ready, str(run), fresh)
    own, tilted = (gate.trained(v["params"])["stage2_block0"]["choose_conv"] for v in (heads.variables, source))
    np.testing.assert_array_equal(own["kernel"], tilted["kernel"])
    assert sorted(heads.listed["taken"]) == choosing
    shared = [f"params/stage2_block0/gate/reduce_conv/{leaf}" for leaf in ("bias", "kernel")]
    assert sorted(heads.listed["of_this_run"]) == shared, "what the heads read"
    config["slimmable"] = {**NETWORK, "ratios": (0.25, 1.0)}
    with pytest.raises(ValueError, match="which differ from those here"):
        slimmable_transfer.source(prepared(tmp_path / "new", config), str(run), "train")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"stem": 8, "fixed": ((8, 1, 1),)}, "which differ from those here"),  # the first link reads the stem
        ({"act": "swish"}, "act is 'relu6', here it is 'swish'"),
        ({"epsilon": 0.01}, "epsilon is .*, here it is 0.01"),
        ({"padding": "symmetric"}, "padding is .*, here it is 'symmetric'"),
    ],
)
@pytest.mark.parametrize("stage", ["train", "gate"])
def test_a_network_of_other_weights_is_no_source(run, tmp_path, option, message, stage):
    ready = prepared(tmp_path / "new", config_of(slimmable={**NETWORK, **option}))
    with pytest.raises(ValueError, match=f"{stage}.transfer_from: .*{message}"):
        slimmable_transfer.source(ready, str(run), stage)


def test_a_residual_network_behind_another_stem_is_no_source(run, tmp_path, monkeypatch):
    """Its links do not say what the first of them reads."""
    options = {"network": "ds_resnet_small", "depths": (1,), "widths": (16,), "strides": (1,), "groups": 4}
    other = prepared(tmp_path / "other", config_of(slimmable={**options, "stem": 16})).supernet
    ready = prepared(tmp_path / "new", config_of(slimmable={**options, "stem": 32}))
    monkeypatch.setattr(slimmable_transfer, "supernet_of_run", lambda folder: other)
    with pytest.raises(ValueError, match="stem_out is 16, here it is 32"):
        slimmable_transfer.source(ready, str(run), "train")


def test_a_run_on_other_images_starts_from_another(run, tmp_path):
    """Five classes in the place of ten; a source whose gates were never trained, only tilted to its target."""
    shutil.copytree(run, tmp_path / "source")
    source_gate = {**config_of()["gate"], "steps": 0}
    pipeline.run(config_of(gate=source_gate), tmp_path / "source", names=("gate",), redo="gate")
    tilt = read(tmp_path / "source" / "gate" / "found.json")["tilt"]
    images = prepared(run, config_of()).images
    arrays = {
        f"{name}_{what}": value
        for name in ("train", "test")
        for what, value in (("images", getattr(images, name).images), ("labels", getattr(images, name).labels % 5))
    }
    np.savez(tmp_path / "five.npz", **arrays)
    config = config_of(
        data={"name": str(tmp_path / "five.npz"), "holdout": 60},
        dynamic={},
        train={**config_of()["train"], "steps": 1, "optimizer": {"learning_rate": 0.0}},
        gate={"steps": 0, "calibration_images": 128, "transfer_from": str(tmp_path / "source")},
    )
    config["train"]["transfer_from"] = str(tmp_path / "source")
    pipeline.run(config, tmp_path / "new", names=("train", "gate"))

    before = job.load_variables(run / "train" / "slimmable.msgpack")["params"]
    after = job.load_variables(tmp_path / "new" / "train" / "slimmable.msgpack")["params"]
    listed = read(tmp_path / "new" / "train" / "transferred.json")
    anew = [f"params/{layer}/{leaf}" for layer in ("head/classifier", CHOOSING) for leaf in ("bias", "kernel")]
    assert sorted(listed["fresh"]) == anew
    leaves = traverse_util.flatten_dict(job.load_variables(run / "train" / "slimmable.msgpack"))
    assert len(listed["taken"]) == len(leaves) - 4
    assert after["head"]["classifier"]["bias"].shape == (5,)
    for path, leaf in traverse_util.flatten_dict({**before, "head": {}}).items():
        if "choose_conv" in path:
            continue
        now = traverse_util.flatten_dict(after)[path]
        np.testing.assert_allclose(now, leaf, rtol=1e-6, err_msg=str(path))  # a step of no length, and an average

    found, trained = read(tmp_path / "new" / "gate" / "found.json"), gate.trained(before)
    gated_there = job.load_variables(tmp_path / "source" / "gate" / "gated.msgpack")["params"]
    heads = gate.trained(job.load_variables(tmp_path / "new" / "gate" / "gated.msgpack")["params"])
    bias = gate.trained(gated_there)["stage2_block0"]["choose_conv"]["bias"]
    assert np.abs(bias - trained["stage2_block0"]["choose_conv"]["bias"]).max() == pytest.approx(abs(tilt)) != 0
    jax.tree.map(lambda own, its: np.testing.assert_allclose(own, its, atol=1e-6), heads, trained)
    assert (found["tilt"], found["target_macs"]) == (0.0, None)
    listed = read(tmp_path / "new" / "gate" / "transferred.json")
    assert listed["tilt_taken_off"] == tilt


def test_files_of_their_own_are_of_the_paths_that_held_out_images_use_most(run, tmp_path):
    config = config_of(slimmable={**NETWORK, "ratios": (0.25, 0.5, 0.75, 1.0)}, target="edgetpu")
    ready = prepared(tmp_path / "new", config)
    seen = {"gate/found.json": {"holdout": {"share": [[0.1, 0.4, 0.2, 0.3]]}}}
    seen["evaluate/evaluation.json"] = {"gates": [{"share": [0.5, 0.25, 0.125, 0.125]}]}
    for name, content in seen.items():
        (tmp_path / "new" / name).parent.mkdir(parents=True)
        (tmp_path / "new" / name).write_text(json.dumps(content))
    kept = export.kept(ready)
    assert kept == {"paths": [1, 2, 3], "share": 0.5}, "not the one that test images use most; the share is theirs"
    unused = {"holdout": {"share": [[0.6, 0.0, 0.0, 0.4]]}}
    (tmp_path / "new" / "gate" / "found.json").write_text(json.dumps(unused))
    assert export.kept(ready) == {"paths": [0, 3], "share": 0.625}, "none of a path that they do not take"
    (tmp_path / "new" / "gate" / "found.json").write_text('{"holdout": {"share": [[0.0, 0.0, 0.0, 1.0]]}}')
    assert export.kept(ready)["paths"] == [0, 3], "two, that there is a choice"
    assert export.kept(ready._replace(target="x86")) == {"paths": [0, 1, 2, 3], "share": 1.0}
    (tmp_path / "new" / "gate" / "found.json").write_text('{"holdout": {}}')
    with pytest.raises(ValueError, match="--redo=gate"):
        export.kept(ready)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"slimmable": {"network": "small_images"}},
            "'small_images', a network without gates; choose from ds_resnet50",
        ),
        ({"slimmable": {**NETWORK, "ratios": (1.0, 0.5)}}, "must ascend without repeats"),
        ({"target": "edgetpu"}, r"export.precisions is \('fp32',\), but target edgetpu runs nothing but int8"),
        ({"slimmable": {**NETWORK, "gated": ()}, "dynamic": {}}, "gated is empty"),
        ({"slimmable": {**NETWORK, "gated": ((64, 0, 1),)}}, "must be at least 1 and whole"),
        ({"dynamic": {"target_macs": 10.0}}, "outside what the paths span"),
        (
            {"slimmable": {"network": "ds_resnet_small", "groups": 4, "stem": 4}, **CORAL},
            "the network has 3 gates, whose parts are too many",
        ),
        (
            {
                "slimmable": {
                    "network": "ds_resnet_small",
                    "depths": (1,),
                    "widths": (16,),
                    "strides": (1,),
                    "groups": 4,
                },
                **CORAL,
            },
            "the network has group norm, and edgetpu takes batch norm",
        ),
        ({"gate": {"steps": 4, "batch_size": 64, "sparsification": {"hard": "never"}}}, "hard is 'never', choose from"),
        (
            {"dynamic": {"target_macs_fraction": "half"}},
            "dynamic: {'target_macs_fraction': 'half'} holds a value of another type",
        ),
        (
            {"train": {"steps": 4, "bootstrapping": {"temperature": "1"}}},
            "train.bootstrapping: .* holds a value of another type",
        ),
        (
            {"train": {"steps": 4, "bootstrapping": {"ensemble": "no"}}},
            "train.bootstrapping.ensemble is 'no', must be True or False",
        ),
        (
            {"gate": {"steps": 4, "sparsification": {"complexity": "0.5"}}},
            "gate.sparsification: .* holds a value of another type",
        ),
        (
            {"gate": {"steps": 4, "sparsification": {"complexity": float("inf")}}},
            "gate.sparsification.complexity is inf, must be a finite number of at least 0",
        ),
        (
            {"gate": {"steps": 4, "optimizer": {"learning_rate": "0.1"}}},
            "gate.optimizer: .* holds a value of another type",
        ),
        (
            {"gate": {"steps": 4, "batch_size": 64, "log_every": 0}},
            "gate.log_every is 0, must be a number of at least 1",
        ),
        ({"gate": {"steps": 4, "batch_size": 64, "checkpoint_every": 0}}, "gate.checkpoint_every is 0, must be"),
        ({"gate": {"steps": 4, "batch_size": 64, "transfer_from": None}}, "gate.transfer_from is empty: name the"),
        ({"evaluate": {"timed_batches": 0}}, "evaluate.timed_batches is 0, must be a number of at least 1"),
        ({"evaluate": {"one_by_one_images": 0}}, "evaluate.one_by_one_images is 0, must be a number of at least 1"),
        ({"evaluate": {"batch": 2.5}}, "evaluate.batch is 2.5, must be a whole number of images from 1"),
        ({"evaluate": {"capacity": 2.5}}, "evaluate.capacity is 2.5, must be a whole number of images from 1"),
        (
            {**CORAL, "slimmable": {**NETWORK, "gated": ((4000, 1, 2), (4000, 1, 1))}},
            r"has 32.2 million weights at least, 30.67 MiB in int8, which do not fit in 8.00 MiB \(edgetpu\)",
        ),
    ],
)
def test_what_cannot_be_is_told_before_training(tmp_path, sections, message):
    with pytest.raises(ValueError, match=message):
        pipeline.run(config_of(**sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stage_two_needs_stage_one_of_the_same_space(run, tmp_path):
    with pytest.raises(ValueError, match="stage 'gate' needs train, not done yet"):
        pipeline.run(config_of(), tmp_path / "run", names=("gate",))
    shutil.copytree(run, tmp_path / "copy")
    for stage in ("gate", "evaluate", "export", "report"):
        shutil.rmtree(tmp_path / "copy" / stage)
    with pytest.raises(ValueError, match="stage 'train' was made with another config"):
        pipeline.run(config_of(slimmable={**NETWORK, "stem": 8}), tmp_path / "copy", names=("gate",))


def test_of_many_paths_those_near_the_gated_network_are_measured():
    cost = np.random.default_rng(0).permutation(256) * 10.0
    chosen = cost[slimmable_evaluate.measured_paths(cost, 1203.0)]
    assert (np.diff(chosen) > 0).all()
    assert (chosen[0], chosen[-1]) == (0, 2550)
    near = np.arange(1050, 1360, 10)
    assert np.isin(near, chosen).all(), "all 31 of them"
    assert slimmable_evaluate.EVENLY < len(chosen) <= slimmable_evaluate.EVENLY + slimmable_evaluate.NEAREST
    assert np.diff(chosen).max() <= 50
    np.testing.assert_array_equal(slimmable_evaluate.measured_paths(cost[:64], 0.0), np.argsort(cost[:64]))


def test_what_is_timed_has_its_weights_on_the_device(run, monkeypatch):
    """A way that is given arrays of NumPy copies them at every call, and the gated network would look faster than it is."""
    ready, variables = prepared(run, config_of()), job.load_variables(run / "gate" / "gated.msgpack")
    timed, out = {}, np.load(run / "evaluate" / "outputs.npz")

    def in_turns(ways, batches, runs):
        timed.update({name: (own, batches) for name, (_, own) in ways.items()})
        return dict.fromkeys(ways, np.ones(len(batches)))

    monkeypatch.setattr(slimmable_evaluate, "_in_turns", in_turns)
    cut = jax.jit(lambda v: gated_parts.cut(ready.supernet, v))(variables)
    answering = slimmable.Answering(ready.supernet)
    whole, split = (variables, cut), (ready.images.test.images, out["path"])
    slimmable_evaluate._timed(answering, None, ready.supernet, whole, split, 1)
    assert {"gated", "gated_alone", "largest_alone", "largest_16"} <= set(timed)
    for name, own in timed.items():
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(own)), name


def test_images_that_run_alone_weigh_as_their_paths_do_in_the_split(run):
    """The first images of a split take other paths than the others: path 0 takes 1 s, path 1 3 s."""
    supernet = prepared(run, config_of()).supernet
    path = np.repeat([[0], [1]], [40, 60], axis=0)
    images = np.arange(100, dtype=np.float32)[:, None]
    singles, weights, paths = slimmable_evaluate._alone(supernet, images, path)
    assert (len(singles), paths) == (32, 2)
    rows = np.concatenate(singles).ravel().astype(int)
    np.testing.assert_array_equal(np.bincount(path[rows, 0]), [16, 16])
    assert weights @ np.where(path[rows, 0] == 0, 1.0, 3.0) == pytest.approx(0.4 * 1 + 0.6 * 3)
    path[:99] = 0
    singles, weights, _ = slimmable_evaluate._alone(supernet, images, path)
    assert len(singles) == 17, "one image alone took path 1"
    np.testing.assert_allclose(weights, [0.99 / 16] * 16 + [0.01])


@pytest.mark.parametrize("size", [5, 12])
def test_a_net_in_chunks_answers_as_on_the_batch(size):
    images = np.arange(24, dtype=np.float32).reshape(12, 2)
    found = slimmable_evaluate._in_chunks(lambda v, x: v * x[:, :1], size)(2.0, images)
    np.testing.assert_array_equal(found, 2 * images[:, :1])


def test_batches_of_any_size_are_answered(run):
    ready, variables = prepared(run, config_of()), job.load_variables(run / "gate" / "gated.msgpack")
    whole = np.load(run / "evaluate" / "outputs.npz")["logits"]
    found = slimmable.Answering(ready.supernet, batch=20)(variables, ready.images.test.images)
    np.testing.assert_allclose(found.logits, whole, atol=1e-5)
