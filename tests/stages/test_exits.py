"""The stages of runs of nets of several exits, on one tiny run of each kind."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dynnas_jax import elastic, finished, job, pipeline, records, settings
from dynnas_jax.__main__ import main
from dynnas_jax.costs import latency
from dynnas_jax.data.splits import in_batches
from dynnas_jax.dynamic import metric, protocol
from dynnas_jax.elastic import extract
from dynnas_jax.export import runtime
from dynnas_jax.networks import exits, multi_costs, weights
from dynnas_jax.search import exit_rewards
from dynnas_jax.stages import exits_search, starting
from dynnas_jax.stages.exits_search import first_alone
from dynnas_jax.train.calibration import batches, recalibrate
from dynnas_jax.workdir import Workdir, write_json

DATA = {"name": "digits", "holdout": 100, "train_limit": 400, "test_limit": 96}
EXPORT = {"precisions": ("fp32",), "calibration_images": 16, "runs": 3, "warm_up": 1, "max_accuracy_loss": 1.0}
SINGLE = {
    **{
        "network": "small_images",
        "stem": 8,
        "stage_widths": (8, 8),
        "stage_strides": (1, 2),
        "head": 8,
        "depths": (1, 2),
    },
    **{"kernels": (3, 5), "expands": (2,), "widths": (1.0,), "divisor": 4},
}
TRAIN = {"steps": 4, "batch_size": 64, "checkpoint_every": 2, "log_every": 2, "trackers": ()}
DYNAMIC = {"target_macs_fractions": (0.6, 0.9), "omega": 0.2, "deployed": 1}


def config_of(**sections):
    return settings.as_dict(ConfigDict({"data": DATA, "export": EXPORT, "dynamic": DYNAMIC, **sections}))


def searched(**train):
    return config_of(
        multi_exit={**SINGLE, "exits": 2, "ratios": (0.5, 1.0), "reuse": ("stage1_block0",)},
        train={**TRAIN, "optimizer": {"learning_rate": 0.1}, "sandwich_rule": {"random_subnets": 1}, **train},
        collect={"subnets": 14, "calibration_images": 64},
        predict={"epochs": 4},
        search={"population": 8, "generations": 3, "calibration_images": 64, "recorded_candidates": 2},
    )


def fixed(**sections):
    small = {"blocks": 3, "base": 1, "step": 1, "channels": 4, "growth": 4, "factors": (1, 2), "head_width": 4}
    train = {**TRAIN, "optimizer": {"learning_rate": 0.1}}
    return config_of(exit_network={"name": "msdnet_cifar", **small}, train=train, **sections)


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Working directories of a searched and of a fixed net of several exits. Copy them before changing them."""
    folder = tmp_path_factory.mktemp("exits")
    for name, config in (("searched", searched()), ("fixed", fixed())):
        pipeline.run(config, folder / name)
    return SimpleNamespace(folder=folder, **{path.name: path for path in folder.iterdir()})


def prepared(path, config):
    return job.prepare(Workdir(path, pipeline.kinds.of(config).stages, config), config)


def read(path):
    return json.loads(path.read_text())


def test_records_are_what_each_exit_answers(runs):
    ready = prepared(runs.searched, searched())
    store = records.open(runs.searched / "collect" / "records.zarr", ready.supernet.space.fingerprint)
    assert store.read("score").shape == (14, 100, 2)
    variables, calibration = job.supernet_variables(ready), batches(ready.calibration(64), 64)
    for row in (0, 1, 9):
        genome = store.read("genome", [row])[0]
        net, own = extract(ready.supernet, variables, genome)
        own = recalibrate(net, own, calibration)
        out = protocol.answers(protocol.multi_exit(net), own, ready.images.holdout)
        np.testing.assert_allclose(out.score, store.read("score", [row])[0], atol=2e-3)
        assert (out.correct == store.read("correct", [row])[0]).mean() > 0.99
        assert store.read("cost", [row])[0].tolist() == list(exits.costs(net).macs)


def test_the_search_keeps_the_best_candidate_with_its_best_thresholds(runs):
    ready = prepared(runs.searched, searched())
    found, spent = read(runs.searched / "search" / "found.json"), multi_costs.spent(ready.supernet)
    whole, store = finished.found_exits(ready), records.open(runs.searched / "collect" / "records.zarr")
    rows, evaluate = np.arange(14), job.evaluator(ready, 64, 3)
    genomes, cost, variables = store.read("genome"), store.read("cost"), job.supernet_variables(ready)
    of_records = exit_rewards.of_records(store, rows, cost, [n["target"] for n in found["nets"]], 0.2)
    for number, entry in enumerate(found["nets"]):
        genome, told = ready.supernet.space.from_json(entry["genome"]), entry["holdout"]
        assert entry["macs"] == spent(genome)
        worth = metric.reward(told["accuracy"], told["average_macs"], entry["target"], 0.2)
        assert entry["reward"] == pytest.approx(worth)
        rivals = np.stack([genome, *genomes[np.argsort(-of_records[number], kind="stable")[:2]]])
        answers, points = evaluate(variables, rivals), []
        for one, score, correct in zip(rivals, answers.score, answers.correct, strict=True):
            point = exit_rewards.best(score, correct, np.asarray(spent(one)), entry["target"], 0.2)
            points.append((exit_rewards.worth(point, entry["target"], 0.2), point.thresholds))
        assert points[0] == (pytest.approx(entry["reward"]), pytest.approx(tuple(entry["thresholds"])))
        assert entry["reward"] == max(reward for reward, _ in points)
        # Sliced, with the statistics that are kept for it: rounding moves an image or two of a hundred.
        out = protocol.answers(whole.dynamic(number), whole.variables[number], ready.images.holdout)
        assert (out.correct == answers.correct[0]).mean() > 0.97
        np.testing.assert_allclose(out.score, answers.score[0], atol=2e-3)


def test_the_single_net_is_the_best_first_exit_within_the_average_cost(runs):
    ready = prepared(runs.searched, searched())
    store = records.open(runs.searched / "collect" / "records.zarr")
    evaluate, variables = job.evaluator(ready, 64, 3), job.supernet_variables(ready)
    genomes, cost, accuracy = store.read("genome"), store.read("cost")[:, 0], store.accuracy()[:, 0]
    for entry in read(runs.searched / "search" / "found.json")["nets"]:
        single, most = entry["single"], entry["holdout"]["average_macs"]
        assert single["macs"] <= most
        within = np.flatnonzero(cost <= most)
        rivals = genomes[within[np.argsort(-accuracy[within], kind="stable")[:2]]]
        answers = evaluate(variables, np.stack([ready.supernet.space.from_json(single["genome"]), *rivals]))
        measured = answers.correct[:, :, 0].mean(axis=1)
        assert single["holdout_accuracy"] == pytest.approx(measured[0])
        assert measured[0] == measured.max()
        assert single["feasible"]


@pytest.mark.parametrize(
    ("found", "known", "chosen"),
    [
        (4, [2, 3], (4, "evolution", True)),
        (9, [2, 3], (3, "records", True)),  # what evolution found costs too much
        (9, [7, 8], (9, "evolution", False)),
        (1, [2, 3, 8], (3, "records", True)),
    ],
)
def test_a_single_net_that_costs_too_much_gives_way_or_is_marked(monkeypatch, found, known, chosen):
    """Genomes of one gene, which is what they cost, and the number of ten images they have right."""
    monkeypatch.setattr(exits_search.predictor, "load", lambda *_: None)
    cost = np.asarray(known, np.float64)
    ready = SimpleNamespace(
        supernet=SimpleNamespace(space=None),
        workdir=SimpleNamespace(folder=Path),
        key=jax.random.key,
    )
    aims = SimpleNamespace(targets=SimpleNamespace(costs=(5.0,)), spent=lambda _: lambda genome: [float(genome[0])])
    search = SimpleNamespace(
        job=ready,
        aims=aims,
        variables={},
        evaluate=lambda _, genomes: SimpleNamespace(correct=(np.arange(10) < genomes)[:, :, None]),
        evolve_single=lambda *_: np.asarray([found]),
        recorded=exits_search._Recorded(np.asarray(known)[:, None], None, cost, cost / 10),
    )
    single = exits_search._single(search, 5.0, 2)
    assert (single.genome[0], single.origin, single.feasible) == chosen


def test_the_first_exit_alone_is_an_ordinary_net(runs):
    ready = prepared(runs.searched, searched())
    genome = ready.supernet.space.from_json(
        read(runs.searched / "search" / "found.json")["nets"][0]["single"]["genome"]
    )
    arch, variables = ready.supernet.arch(genome), job.supernet_variables(ready)
    net, own = extract(ready.supernet, variables, genome)
    alone = ready.supernet.net(first_alone(arch))
    images, _ = in_batches(ready.images.test, 32)
    np.testing.assert_allclose(alone.apply(own, images[0])[0], net.apply(own, images[0])[1]["exit1"], atol=1e-6)


@pytest.mark.parametrize("name", ["searched", "fixed"])
def test_the_evaluation_tells_what_the_outputs_hold(runs, name):
    path = getattr(runs, name)
    told, out = read(path / "evaluate" / "evaluation.json"), np.load(path / "evaluate" / "outputs.npz")
    net = told["nets"][told["deployed"]]
    limits = np.asarray([*net["thresholds"], -1.0], np.float32)
    choice = (out["score"] > limits).argmax(axis=1)  # the first exit that is sure enough; the last always answers
    choice = np.where((out["score"][:, :-1] > limits[:-1]).any(axis=1), choice, len(limits) - 1)
    np.testing.assert_array_equal(out["choice"], choice)
    rows = np.arange(len(choice))
    assert net["accuracy"] == pytest.approx(out["correct"][rows, choice].mean())
    assert net["average_macs"] == pytest.approx(np.asarray(net["macs"])[choice].mean())
    np.testing.assert_allclose(net["exit_rate"], np.bincount(choice, minlength=len(limits)) / len(choice))
    assert net["all_images_accuracy"] == pytest.approx(out["correct"].mean(axis=0).tolist())
    answered = [(r, a) for r, a in zip(net["exit_rate"], net["exit_accuracy"], strict=True) if r]
    assert sum(r * a for r, a in answered) == pytest.approx(net["accuracy"])


@pytest.mark.parametrize("name", ["searched", "fixed"])
def test_the_exported_folder_answers_as_jax_does(runs, name):
    path = getattr(runs, name)
    out = np.load(path / "evaluate" / "outputs.npz")
    classifier = runtime.DynamicClassifier(path / "export" / "x86")
    ready = prepared(path, searched() if name == "searched" else fixed())
    for row in range(0, 96, 7):
        found = classifier.predict(ready.images.test.images[row])
        exit = out["choice"][row]
        assert found.choice == exit
        assert found.class_index == out["prediction"][row, exit]
    facts = read(path / "export" / "x86" / "export.json")["files"]
    assert {fact["path"] for fact in facts.values()} == {"model_fp32.tflite"}
    whole = sum(fact["macs"] for fact in facts.values())
    assert whole == read(path / "search" / "found.json")["nets"][1]["macs"][-1], "the increments add up to the net"


@pytest.mark.parametrize("name", ["searched", "fixed"])
def test_the_report_shows_every_net(runs, name):
    path = getattr(runs, name)
    page = (path / "report.html").read_text()
    assert "not run" not in page
    rows = (path / "report" / "tables" / "summary.csv").read_text().splitlines()
    assert len(rows) == 3
    shares = (path / "report" / "tables" / "exits.csv").read_text().splitlines()
    assert len(shares) == 1 + 2 * (2 if name == "searched" else 3)
    assert (path / "report" / "figures" / "exits.png").stat().st_size > 1000


def test_a_finished_run_gives_its_dynamic_network(runs):
    for path in (runs.searched, runs.fixed):
        found = finished.dynamic_of_run(path)
        entry = read(path / "search" / "found.json")["nets"][1]
        assert found.dynamic.cost == tuple(entry["macs"])
        assert found.thresholds == tuple(entry["thresholds"])
        assert found.resolution == 8


def test_the_cost_of_a_net_that_was_found_and_of_none_of_that_run(runs, tmp_path, capsys):
    entry, file = read(runs.searched / "search" / "found.json")["nets"][0], tmp_path / "arch.json"
    cost = ["cost", f"--workdir={runs.searched}", f"--arch={file}"]
    write_json(file, entry["arch"])
    main(cost)
    assert json.loads(capsys.readouterr().out)["macs"] == entry["macs"]
    write_json(file, {"resolution": 8, "width": 1, "kernel": [[3], [3]], "expand": [[2], [2]]})
    with pytest.raises(SystemExit) as ended:
        main(cost)
    assert ended.value.code == 2
    assert 'an object with the keys "resolution", "kernel" and "ratio"' in capsys.readouterr().err


def test_another_target_needs_the_records_only(runs, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(runs.searched, path)
    shutil.rmtree(path / "train" / "checkpoints", ignore_errors=True)
    (path / "train" / "multi_exit.msgpack").unlink()  # no net can run
    least = read(path / "search" / "found.json")["nets"][0]["macs"][0]
    store, target = records.open(path / "collect" / "records.zarr"), 3 * least
    for omega, asked in ((0.2, ()), (1.5, ("--omega=1.5",))):
        main(["search", f"--workdir={path}", f"--max_macs={target}", *asked])
        recorded = json.loads(capsys.readouterr().out)["recorded"]
        near = exit_rewards.of_records(store, np.arange(14), store.read("cost"), (target,), omega)[0]
        row = int(near.argmax())
        exact = exit_rewards.best(
            store.read("score")[row], store.read("correct")[row], store.read("cost")[row], target, omega
        )
        assert recorded["thresholds"] == list(exact.thresholds)
        assert recorded["reward"] == pytest.approx(exit_rewards.worth(exact, target, omega))
        assert recorded["reward"] >= near.max() - 1e-6
    with pytest.raises(SystemExit) as ended:
        main(["search", f"--workdir={path}", f"--max_macs={target}", "--omega=-1"])
    assert (ended.value.code, "omega" in capsys.readouterr().err) == (2, True)
    with pytest.raises(SystemExit) as ended:
        main(["search", f"--workdir={path}", "--max_macs=10"])
    assert ended.value.code == 2
    assert "a target of 10 MACs on average is below the" in capsys.readouterr().err


def test_a_target_that_no_net_meets_is_told_before_training(runs, tmp_path):
    config = searched()
    config["dynamic"] = {"target_macs": (10.0,)}
    with pytest.raises(ValueError, match="below the .* of the cheapest net's first exit"):
        pipeline.run(config, tmp_path / "run")
    config = fixed()
    config["dynamic"] = {"target_macs": (10.0,)}
    with pytest.raises(ValueError, match="below the .* of the cheapest net's first exit"):
        pipeline.run(config, tmp_path / "other")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("search", {"recorded_candidates": -1}, "search.recorded_candidates is -1, must be a number of at least 0"),
        ("predict", {"gap_subnets": -1}, "predict.gap_subnets is -1, must be a number of at least 0"),
        ("predict", {"learning_rate": -1.0}, "predict.learning_rate is -1.0, must be a number of at least 0"),
        ("predict", {"learning_rate": "x"}, "predict.learning_rate is 'x', must be a number of at least 0"),
        ("predict", {"weight_decay": "x"}, "predict.weight_decay is 'x', must be a number of at least 0"),
        ("dynamic", {"score": ["margin"]}, r"dynamic.score is \['margin'\], choose from"),
        ("search", {"children": 9}, "9 children cannot all live in a population of 8"),
        ("search", {"children": None, "tournament": 0}, "search.tournament is 0"),
        ("multi_exit", {"ratios": 1.0}, "multi_exit: a value has another type"),
        ("multi_exit", {"reuse": 3}, "multi_exit: a value has another type"),
        ("report", {"published": 3}, "report.published is 3, must be a tuple of points"),
    ],
)
def test_settings_of_later_stages_are_told_before_training(tmp_path, section, values, said):
    config = searched()
    config[section] = config.get(section, {}) | values
    with pytest.raises(ValueError, match=said):
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_net_is_exported_without_searching_anew(runs, tmp_path):
    for name, config in (("searched", searched()), ("fixed", fixed())):
        path = shutil.copytree(getattr(runs, name), tmp_path / name)
        before = {stage: (path / stage / "manifest.json").read_bytes() for stage in ("train", "search")}
        config["dynamic"] = {**DYNAMIC, "deployed": 0}
        with pytest.raises(ValueError, match="stage 'evaluate' was made with another config .*--redo=evaluate"):
            pipeline.run(config, path)
        pipeline.run(config, path, redo="evaluate")
        assert {stage: (path / stage / "manifest.json").read_bytes() for stage in before} == before
        entry = read(path / "search" / "found.json")["nets"][0]
        assert read(path / "evaluate" / "evaluation.json")["deployed"] == 0
        assert finished.dynamic_of_run(path).thresholds == tuple(entry["thresholds"])
        exported = runtime.DynamicClassifier(path / "export" / "x86")
        assert list(exported.thresholds) == pytest.approx(entry["thresholds"])


@pytest.fixture(scope="module")
def by_latency(runs, made_up_table):
    """(a run whose targets are latencies, from the records of the searched one; its table; the milliseconds of the largest)."""
    path, table = runs.folder / "by_latency", runs.folder / "table.json"
    shutil.copytree(runs.searched, path)
    supernet = prepared(path, searched()).supernet
    latency.save(made_up_table(supernet, 0.25), table)
    dynamic = {"target_latency_fractions": (0.5, 0.8), "latency_table": str(table), "omega": 0.2, "deployed": 1}
    before = (path / "collect" / "manifest.json").read_bytes()
    pipeline.run(searched() | {"dynamic": dynamic}, path, redo="predict")
    assert (path / "collect" / "manifest.json").read_bytes() == before, "neither trained nor recorded anew"
    tables = multi_costs.exit_tables(supernet, latency.load(table).of(supernet))
    return SimpleNamespace(path=path, table=table, spent=multi_costs.spent(supernet, tables), supernet=supernet)


def test_targets_may_be_latencies(by_latency):
    found, evaluation = (read(by_latency.path / name) for name in ("search/found.json", "evaluate/evaluation.json"))
    whole = by_latency.spent(by_latency.supernet.space.largest)[-1]
    assert (found["cost"], found["largest_latency_ms"]) == ("latency_ms", pytest.approx(whole))
    out = np.load(by_latency.path / "evaluate" / "outputs.npz")
    for part, entry in zip((0.5, 0.8), found["nets"], strict=True):
        assert entry["target"] == pytest.approx(part * whole)
        assert entry["latency_ms"] == by_latency.spent(by_latency.supernet.space.from_json(entry["genome"]))
        told = entry["holdout"]
        worth = metric.reward(told["accuracy"], told["average_latency_ms"], entry["target"], 0.2)
        assert entry["reward"] == pytest.approx(worth)
        assert entry["single"]["feasible"]
        assert entry["single"]["latency_ms"] <= told["average_latency_ms"]
    taken = np.asarray(evaluation["nets"][1]["latency_ms"])[out["choice"]]
    assert evaluation["nets"][1]["average_latency_ms"] == pytest.approx(taken.mean())
    page = (by_latency.path / "report.html").read_text()
    for said in ("target (ms)", "average latency (ms)", "latency up to it (ms)"):
        assert said in page
    assert (by_latency.path / "report" / "figures" / "accuracy_against_latency.png").stat().st_size > 1000


def test_another_latency_needs_the_records_only(by_latency, runs, capsys):
    most = by_latency.spent(by_latency.supernet.space.largest)[-1]
    main(["search", f"--workdir={by_latency.path}", f"--max_latency_ms={0.6 * most}"])
    found = json.loads(capsys.readouterr().out)
    assert found["latency_ms"] == by_latency.spent(by_latency.supernet.space.from_json(found["genome"]))
    assert found["recorded"]["average_latency_ms"] > 0
    main(["search", f"--workdir={runs.searched}", f"--max_latency_ms={0.6 * most}", f"--table={by_latency.table}"])
    assert json.loads(capsys.readouterr().out)["recorded"] == found["recorded"]
    for path, option, said in (
        (runs.searched, "--max_latency_ms=5", "needs a latency table: pass --table=FILE"),
        (by_latency.path, "--max_latency_ms=0.001", "a target of 0.001 ms on average is below the"),
        (by_latency.path, "--pair", "there are no pairs in it"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["search", f"--workdir={path}", option, *(["--max_macs=5"] if option == "--pair" else [])])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


@pytest.fixture
def a_source(tmp_path):
    """(changes of the section `supernet`) -> the directory of a run as its training leaves it, with fresh variables."""

    def made(**section):
        config = config_of(supernet={**SINGLE, **section}, dynamic={"max_macs_fraction": 0.9})
        path, ready = tmp_path / "single", prepared(tmp_path / "single", config)
        variables = elastic.init_supernet(ready.supernet, jax.random.key(7), (8, 8, 1))
        job.save_variables(path / "train" / "supernet.msgpack", variables)
        write_json(path / "config.json", config)
        write_json(path / "train" / "data.json", job.described(ready.images))
        return path, ready.supernet, variables

    return made


def made_on(tmp_path, **section):
    config = searched()
    config["multi_exit"] |= section
    return prepared(tmp_path / "new", config)


# What there is to choose may be more or less, as long as the largest nets have the same leaves.
LIKE_CIFAR10 = {"widths": (0.5, 1.0), "expands": (1, 2)}
LIKE_OFA = {"resolutions": (6,), "kernel_transforms": True, "expands": (1, 2)}


@pytest.mark.parametrize(
    ("of_single", "of_several"),
    [
        (LIKE_CIFAR10, {"kernel_transforms": True}),
        (LIKE_OFA, {"resolutions": (4, 6), "kernel_transforms": True, "expands": (1, 2)}),
    ],
)
def test_weights_of_single_nets_are_transferred_and_listed(tmp_path, a_source, of_single, of_several):
    """Of the source's own choices: its largest net, and that of half the hidden channels, are still there."""
    ready, (path, source, variables) = made_on(tmp_path, reuse=(), **of_several), a_source(**of_single)
    started = starting.of_supernet(ready, transfer_from=str(path))
    told, space, theirs = started.transferred, ready.supernet.space, source.space
    assert told["taken"]["params/exit1_stem/conv/kernel"] == "params/stem/conv/kernel"
    assert not told["unused"]
    assert {leaf.split("/")[1] for leaf in told["fresh"]} == (set() if of_single is LIKE_OFA else {"kernel_transforms"})
    images = ready.images.test.images[:16]
    smallest = [size - 1 if g.name.endswith("width") else 0 for g, size in zip(theirs.genes, theirs.sizes, strict=True)]
    for genome, same in ((space.largest, theirs.largest), (space.smallest, np.asarray(smallest, np.int32))):
        net, own = extract(ready.supernet, started.variables, genome)
        single, subnet = extract(source, variables, same)
        answers = jax.jit(net.apply)(own, images)[1]["exit1"]
        np.testing.assert_allclose(answers, jax.jit(single.apply)(subnet, images)[0], rtol=1e-4, atol=1e-5)


def test_training_goes_on_from_what_was_transferred(tmp_path, a_source):
    """At a rate of next to nothing the weights stay what they were."""
    small = {"stage_widths": (8,), "stage_strides": (1,)}
    path, _, variables = a_source(**small)
    config = searched(transfer_from=str(path), steps=2, optimizer={"learning_rate": 1e-9})
    config["multi_exit"] |= small
    pipeline.run(config, tmp_path / "run", names=("train",))
    started = starting.of_supernet(prepared(tmp_path / "new", config), transfer_from=str(path))
    assert read(tmp_path / "run" / "train" / "transferred.json") == json.loads(json.dumps(started.transferred))
    found = job.load_variables(tmp_path / "run" / "train" / "multi_exit.msgpack")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found["params"], started.variables["params"])
    for name in ("exit1", "exit2"):
        kernel = found["params"][name]["classifier"]["kernel"]
        np.testing.assert_allclose(kernel, variables["params"]["head"]["classifier"]["kernel"], atol=1e-6)


def test_training_may_start_from_a_file_of_weights(tmp_path, a_source):
    """A state dict, as the authors' is, of the source's largest net."""
    path, source, variables = a_source(padding="symmetric", epsilon=1e-3)
    file, ready = tmp_path / "weights.npz", made_on(tmp_path, padding="symmetric", epsilon=1e-3)
    np.savez(file, **weights.to_state_dict(source.largest_net(), variables, "once-for-all"))
    sources = ({"start_from": str(file)}, {"transfer_from": str(path)})
    of_file, of_run = (starting.of_supernet(ready, **source) for source in sources)
    assert of_file.transferred == of_run.transferred
    jax.tree.map(np.testing.assert_array_equal, of_file.variables, of_run.variables)
    with pytest.raises(ValueError, match="give multi_exit.padding='symmetric' and multi_exit.epsilon="):
        starting.of_supernet(made_on(tmp_path), start_from=str(file))


def test_a_transfer_may_put_all_channels_in_order(tmp_path, a_source):
    ready, path = made_on(tmp_path, expands=(1, 2)), a_source(**LIKE_CIFAR10)[0]
    read = {}
    for order in starting.SORTED:
        started = starting.of_supernet(ready, transfer_from=str(path), transfer_sorted=order)
        kernel = started.variables["params"]["exit1_stage1_block1"]["project_conv"]["kernel"]
        read[order] = np.abs(kernel).sum(axis=(0, 1, 3))
    assert (np.diff(read["all"]) <= 0).all()
    assert (np.diff(read["kept"]) > 0).any()
    assert sorted(read["kept"].tolist()) == pytest.approx(sorted(read["all"].tolist()))


def test_pairs_have_weights_of_single_nets_too(tmp_path, a_source):
    ready, (path, *_) = made_on(tmp_path), a_source(coupled=True)
    told = starting.of_supernet(ready, transfer_from=str(path)).transferred
    assert {leaf.split("/")[2] for leaf in told["fresh"]} == {"reuse_conv"}, "single nets have nothing like it"
    assert told["unused"]


@pytest.mark.parametrize(
    ("of_single", "said"),
    [
        ({"head": 12}, r"does not fit: its batch_stats/head/norm/mean is \(12,\), here it is \(8,\)"),
        ({"depths": (1,)}, "does not fit: it has no .*stage1_block1"),
        ({"padding": "symmetric"}, "does not fit: its padding is 'symmetric', here it is 'SAME'"),
        ({"stage_strides": (2, 1)}, "does not fit: its stage1's stride is 2, here it is 1"),
        ({"squeeze_excite": True}, "does not fit: its stage1's squeeze-excite is True, here it is False"),
        ({"depths": (3, 4)}, "does not fit: its stage1 has 3 or 4 blocks, here it has 2"),
        ({"kernel_transforms": True}, "its nets compute with params/kernel_transforms/.*, which there is not here"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, a_source, of_single, said):
    path = a_source(**of_single)[0]
    with pytest.raises(ValueError, match=said):
        starting.of_supernet(made_on(tmp_path), transfer_from=str(path))


def test_what_no_net_here_has_any_use_for_may_be_left_over(tmp_path, a_source):
    """Blocks that nets of the source do without too, and transforms of kernels where there is one size of them."""
    path = a_source(depths=(1, 2, 3), kernel_transforms=True)[0]
    told = starting.of_supernet(made_on(tmp_path, kernels=(5,)), transfer_from=str(path)).transferred
    left = {tuple(leaf.split("/")[:3]) for leaf in told["unused"]}
    assert {leaf[1] for leaf in left} == {"stage1_block2", "stage2_block2", "kernel_transforms"}
    assert ("params", "kernel_transforms", "stage1_block0") in left


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": [*"012345678", "ten"]}, "does not fit: its class 9 is 'ten', here it is '9'"),
        ({"std": [0.3]}, r"images are normalised otherwise; give data.mean=\(0.3.*,\) and data.std=\(0.3,\)"),
    ],
)
def test_weights_of_other_images_are_refused(tmp_path, a_source, changes, said):
    path = a_source()[0]
    facts = read(path / "train" / "data.json")
    write_json(path / "train" / "data.json", {**facts, **changes})
    with pytest.raises(ValueError, match=said):
        starting.of_supernet(made_on(tmp_path), transfer_from=str(path))
    write_json(path / "train" / "data.json", {**facts, "mean": [facts["mean"][0] + 0.001 * facts["std"][0]]})
    assert starting.of_supernet(made_on(tmp_path), transfer_from=str(path)).transferred


def test_sources_of_a_transfer_that_are_none(runs, tmp_path):
    ready = made_on(tmp_path)
    for options, said in (
        ({"transfer_from": "a", "start_from": "b"}, "not both"),
        (
            {"transfer_from": str(runs.fixed)},
            "is a run of one fixed network of several exits, must be one of a supernet",
        ),
        ({"transfer_from": "a", "new_classifier": True}, "new_classifier is for train.start_from"),
        ({"transfer_from": "a", "transfer_sorted": "none"}, "transfer_sorted is 'none', choose from"),
    ):
        with pytest.raises(ValueError, match=said):
            starting.of_supernet(ready, **options)


def test_sections_of_the_wrong_network():
    config = fixed()
    config["exit_network"] = {"name": "mobilenet_v2"}
    with pytest.raises(
        ValueError, match=r"exit_network.name is 'mobilenet_v2', a network with a single answer; choose from msd"
    ):
        pipeline.recipe.check(config)
