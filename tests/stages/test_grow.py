"""The stages of a run that grows stage by stage, on tiny runs: resuming, choosing, deeper nets' weights, what comes after."""

import contextlib
import json
import os
import shutil
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dynnas_jax import counting, finished, job, kinds, pipeline, recipe, settings, sides
from dynnas_jax.costs import energy, macs
from dynnas_jax.elastic import extract
from dynnas_jax.export import runtime
from dynnas_jax.networks import cifar_resnet, growing
from dynnas_jax.reports import artifacts, growth_sections
from dynnas_jax.reports.source import Source
from dynnas_jax.search import stage_growth, stage_importance
from dynnas_jax.stages import grow, growth_evaluate, growth_nets
from dynnas_jax.train import calibration, preemption
from dynnas_jax.workdir import Workdir

DATA = {"name": "digits", "holdout": 100, "train_limit": 300, "test_limit": 64}
TRAIN = {"steps": 2, "batch_size": 64, "checkpoint_every": 1, "log_every": 1, "trackers": (), "calibration_images": 64}
GROWTH = {"name": "cifar_resnet", "widths": (4, 8), "shortcut": "projection"}
GROW = {"iterations": 1, "initial_modules": 1, "growth": 1, "samples": 120, "pooled_side": 2}
EXPORT = {"precisions": ("fp32",), "calibration_images": 16, "runs": 3, "warm_up": 1, "max_accuracy_loss": 1.0}


def config_of(grow=None, **sections):
    sections = {"growth": GROWTH, "grow": {**GROW, **(grow or {})}, **sections}
    train = {**TRAIN, "optimizer": {"learning_rate": 0.1}}
    return settings.as_dict(ConfigDict({"data": DATA, "train": train, "export": EXPORT, **sections}))


CONTROLLED = {"uniform": True, "choose": {"components": (1, 3)}, "further": {"steps": 1}}


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with all controls. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("grow")
    pipeline.run(config_of(CONTROLLED), folder / "grown")
    return SimpleNamespace(folder=folder, grown=folder / "grown")


def read(path):
    return json.loads(path.read_text())


def prepared(path, config):
    return job.prepare(Workdir(path, kinds.of(config).stages, config), config)


def options_of(**changed):
    return growth_nets.Options(**{"samples": 120, "pooled_side": 2, **changed})


def test_what_the_growth_says_follows_from_its_nets(runs):
    """Scores anew from the variables and the images; decisions from the scores; costs by counting the nets."""
    ready, found = prepared(runs.grown, config_of(CONTROLLED)), read(runs.grown / "grow" / "growth.json")
    nets = growth_nets.Nets(ready, runs.grown / "grow", options_of())
    (iteration,) = found["iterations"]
    for which, role, number in (("initial", "initial", 0), ("temporary", "temporary", 1)):
        depths = tuple(iteration[which])
        net = growing.built(GROWTH, depths, job.facts_of(ready.images)).largest_net()
        name = f"{role}{number or ''}_{'_'.join(map(str, depths))}"
        variables = job.load_variables(runs.grown / "grow" / name / "scored.msgpack")
        images = ready.images.train.images[nets.chosen]
        labels = ready.images.train.labels[nets.chosen]
        assert np.bincount(labels).min() >= 10, "every class in its share"
        maps = jax.jit(growing.stage_maps(net))(variables, images)
        for stage, own in enumerate(maps):
            own = np.asarray(own)
            side = own.shape[1] // 2
            features = own.reshape(120, 2, side, 2, side, -1).mean((2, 4)).reshape(120, -1)
            score = stage_importance.pls(features, labels, **found["options"]).mean()
            assert iteration[f"{which}_scores"][stage] == pytest.approx(score, rel=1e-3)
    assert iteration["grown"] == list(stage_growth.decided(iteration["initial_scores"], iteration["temporary_scores"]))
    assert iteration["candidate"] == [1 + grown for grown in iteration["grown"]]
    for entry in (found["initial"], *found["candidates"], *found["controls"]):
        net = cifar_resnet.cifar_resnet(
            depths=tuple(entry["depths"]),
            widths=(4, 8),
            shortcut="projection",
            channels=1,
            resolution=8,
            mean=(0.5,),
            std=(0.5,),
        )
        assert [entry["macs"], entry["params"]] == list(macs.net_cost(net, (8, 8, 1)))
        assert entry["depth"] == 2 * sum(entry["depths"]) + 3


def test_arch_files_cost_what_the_growth_says(runs, tmp_path):
    """By themselves, as the command counts them; on other data they take those images."""
    (entry,) = read(runs.grown / "grow" / "growth.json")["candidates"]
    content = read(runs.grown / "grow" / "candidate1.json")
    assert list(counting.counted(counting.net("cifar_resnet", content))) == [entry["macs"], entry["params"]]
    facts = {"image_shape": [16, 16, 3], "classes": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.2] * 3}
    arch = job.fixed.build({"name": "cifar_resnet", "arch": content}, facts).largest_net().arch
    assert [arch.resolution, arch.channels, arch.classes] == [16, 3, 3]
    assert list(arch.depths) == entry["depths"]


def test_the_choice_of_the_parameters_is_the_best_on_held_out_images(runs):
    found = read(runs.grown / "grow" / "growth.json")
    assert [one["option"] for one in found["tried"]] == [{"components": 1}, {"components": 3}]
    best = max(found["tried"], key=lambda one: one["worth"])
    assert found["options"] == best["option"]
    names = {f"candidate1_{'_'.join(map(str, one['candidate']))}" for one in found["tried"]}
    kept = {path.parent.name for path in (runs.grown / "grow").glob("*/net.json")}
    assert {name for name in kept if name.startswith("candidate1")} == names
    assert found["trained"]["networks"] == len(kept) == stage_growth.networks(1) + 1 + len(names) - 1


def test_accuracies_and_the_ensemble_are_those_of_the_kept_variables(runs):
    config = config_of(CONTROLLED)
    ready, told = prepared(runs.grown, config), read(runs.grown / "evaluate" / "evaluation.json")
    found, labels, probabilities = read(runs.grown / "grow" / "growth.json"), ready.images.test.labels, []
    for entry in found["candidates"]:
        net = job.grown_net(entry, job.facts_of(ready.images))
        variables = job.load_variables(runs.grown / entry["variables"])
        logits = np.asarray(
            jax.jit(lambda v, x, net=net: net.apply(v, x)[0])(variables, ready.images.test.images), float
        )
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities.append(powers / powers.sum(-1, keepdims=True))
        row = next(row for row in told["networks"] if row["name"] == entry["name"])
        assert row["accuracy"] == (logits.argmax(-1) == labels).mean()
        before = job.load_variables((runs.grown / entry["variables"]).with_name(growth_nets.SCORED))
        answers = np.asarray(jax.jit(lambda v, x, net=net: net.apply(v, x)[0])(before, ready.images.test.images))
        assert row["scored_test_accuracy"] == (answers.argmax(-1) == labels).mean(), "before it was trained further"
        among = [label in np.argsort(-one)[:5] for label, one in zip(labels, logits, strict=True)]
        assert row["top5_accuracy"] == pytest.approx(np.mean(among))
    together = np.mean(probabilities, axis=0)
    assert told["ensemble"]["accuracy"] == (together.argmax(-1) == labels).mean()
    assert told["net"]["accuracy"] == row["accuracy"]


def test_the_exported_folder_answers_as_jax_does_and_the_report_shows_every_net(runs):
    out = np.load(runs.grown / "evaluate" / "outputs.npz")
    ready = prepared(runs.grown, config_of(CONTROLLED))
    classifier = runtime.DynamicClassifier(runs.grown / "export" / "x86")
    for row in range(0, 64, 9):
        assert classifier.predict(ready.images.test.images[row]).class_index == out["prediction"][row, 0]
    page = (runs.grown / "report.html").read_text()
    assert 'class="absent"' not in page, "a stage is missing"
    rows = (runs.grown / "report" / "tables" / "networks.csv").read_text().splitlines()
    assert "held-out after equal training" in page, "candidates are trained further"
    assert len(rows) == 1 + 3 + 1, "initial, candidate, uniform, the ensemble"
    assert len((runs.grown / "report" / "tables" / "decisions.csv").read_text().splitlines()) == 1 + 2
    assert (runs.grown / "report" / "figures" / "modules.png").stat().st_size > 1000


def test_a_net_whose_further_training_is_cut_short_goes_on_to_the_same_net(runs, tmp_path, monkeypatch):
    """What was trained before is not trained again."""
    made, calls, config = growth_nets.network_train.fitted, [], config_of(CONTROLLED)

    def once(*arguments, **options):
        calls.append(None)
        if len(calls) == 2:
            raise preemption.Preempted("stopped")
        return made(*arguments, **options)

    monkeypatch.setattr(growth_nets.network_train, "fitted", once)
    ready, folder = prepared(tmp_path / "W", config), tmp_path / "W" / "grow"
    nets = growth_nets.Nets(ready, folder, options_of(further=CONTROLLED["further"]))
    with pytest.raises(preemption.Preempted):
        nets.make(stage_growth.INITIAL, 0, (1, 1))
    assert not list(folder.glob("*/net.json")), "the net is not whole"
    monkeypatch.undo()
    before = (folder / "initial_1_1" / "metrics.jsonl").read_bytes()
    net = nets.make(stage_growth.INITIAL, 0, (1, 1))
    assert (folder / "initial_1_1" / "metrics.jsonl").read_bytes() == before, "trained once"
    for name in (growth_nets.SCORED, growth_nets.FINAL):
        own, other = (job.load_variables(path / "initial_1_1" / name) for path in (folder, runs.grown / "grow"))
        jax.tree.map(np.testing.assert_array_equal, own, other)
    assert net.facts["holdout_accuracy"] == read(runs.grown / "grow" / "growth.json")["initial"]["holdout_accuracy"]


def test_a_net_that_is_stopped_inside_its_training_goes_on_from_the_checkpoint(runs, tmp_path, monkeypatch):
    """A notice after the first of two steps: the second alone is done then, and the net is that of the unbroken run."""
    notice, config = preemption.notice, config_of(CONTROLLED)

    @contextlib.contextmanager
    def terminated():
        with notice() as asked:
            os.kill(os.getpid(), signal.SIGTERM)
            yield asked

    ready, folder = prepared(tmp_path / "W", config), tmp_path / "W" / "grow"
    nets = growth_nets.Nets(ready, folder, options_of(further=CONTROLLED["further"]))
    monkeypatch.setattr(preemption, "notice", terminated)
    with pytest.raises(preemption.Preempted, match="terminated after step 1 of 2"):
        nets.make(stage_growth.INITIAL, 0, (1, 1))
    monkeypatch.undo()
    own = folder / "initial_1_1"
    assert [path.name for path in (own / "checkpoints").iterdir()] == ["1"]
    first = (own / "metrics.jsonl").read_text()
    nets.make(stage_growth.INITIAL, 0, (1, 1))
    assert (own / "metrics.jsonl").read_text().startswith(first), "the first step is not done again"
    assert [json.loads(line)["step"] for line in first.splitlines()] == [1]
    for name in (growth_nets.SCORED, growth_nets.FINAL):
        one, other = (job.load_variables(path / name) for path in (own, runs.grown / "grow" / "initial_1_1"))
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_growth_that_ended_between_two_nets_makes_what_is_missing_and_no_other(runs, tmp_path, monkeypatch):
    shutil.copytree(runs.grown, tmp_path / "W")
    folder, missing = tmp_path / "W" / "grow", []
    found = read(folder / "growth.json")
    for name in ("manifest.json", "growth.json", f"{found['controls'][0]['name']}/net.json"):
        (folder / name).unlink()
    made = growth_nets.Nets._make
    monkeypatch.setattr(
        growth_nets.Nets, "_make", lambda nets, job, own, facts: (missing.append(own.name), made(nets, job, own, facts))
    )
    pipeline.run(config_of(CONTROLLED), tmp_path / "W", names=("grow",))
    assert missing == [found["controls"][0]["name"]]
    after = read(folder / "growth.json")
    assert {key: after[key] for key in ("iterations", "initial", "candidates", "tried")} == {
        key: found[key] for key in ("iterations", "initial", "candidates", "tried")
    }
    assert after["controls"][0]["holdout_accuracy"] == found["controls"][0]["holdout_accuracy"]


def test_a_last_candidate_whose_features_never_vary_has_no_scores_and_the_reason(runs, tmp_path):
    """Nothing is compared with it: the growth ends as any other. A net that is compared ends it, as before."""
    shutil.copytree(runs.grown, tmp_path / "W")
    folder, config = tmp_path / "W" / "grow", config_of(CONTROLLED)
    before = read(folder / "growth.json")
    file = folder / before["candidates"][-1]["name"] / growth_nets.SCORED
    variables = job.load_variables(file)
    own = {name for name in variables["params"] if name.startswith("stage2_")}
    job.save_variables(
        file,
        {
            kind: {name: jax.tree.map(np.zeros_like, leaves) if name in own else leaves for name, leaves in of.items()}
            for kind, of in variables.items()
        },
    )
    for name in ("manifest.json", "growth.json"):
        (folder / name).unlink()
    ready = prepared(tmp_path / "W", config)
    grow.run(ready, folder, **config["grow"])
    after = read(folder / "growth.json")
    assert after["importances"][0] == before["importances"][0]
    first, last = after["importances"][-1]
    assert first == before["importances"][-1][0]
    assert [last["score"], last["constant"]] == [None, last["features"]]
    assert "features have zero variance over 120 samples" in last["reason"]
    page = growth_sections.BUILDERS["growth_decisions"](
        Source(tmp_path / "W", tmp_path / "R", artifacts.read(tmp_path / "W"))
    )
    assert "Nothing tells an importance: grow: stage 2 of candidate1" in page
    nets = growth_nets.Nets(ready, folder, options_of())
    with pytest.raises(ValueError, match="grow: stage 2 of candidate1.* zero variance"):
        nets.importances(growth_nets.Net(*_last(ready, after)), after["options"])


def _last(ready, found):
    entry = found["candidates"][-1]
    return entry["name"], growing.built(GROWTH, tuple(entry["depths"]), job.facts_of(ready.images)), entry


def test_the_count_of_networks_ends_with_all_of_them(runs, tmp_path, monkeypatch):
    """One for each net, though the candidate that is chosen is asked for twice."""
    shutil.copytree(runs.grown, tmp_path / "W")
    counts = []

    @contextlib.contextmanager
    def counted(what, total, unit):
        steps = []
        counts.append((what, total, steps))
        yield steps.append

    config = config_of(CONTROLLED)
    monkeypatch.setattr(grow.progress, "counted", counted)
    grow.run(prepared(tmp_path / "W", config), tmp_path / "W" / "grow", **config["grow"])
    ((what, total, steps),) = counts
    assert (what, total, sum(steps)) == ("networks", 3 + 1 + 1, 5)
    tried = {tuple(one["candidate"]) for one in read(tmp_path / "W" / "grow" / "growth.json")["tried"]}
    assert steps.count(1) >= 3 + len(tried) - 1 + 1


def test_nets_are_read_off_a_supernet_without_training(tmp_path):
    """The same modules as slicing gives, with statistics of their own; nothing is trained."""
    space = {"network": "elastic_resnet", "deepest": (4, 3), "widths": (4, 8)}
    train = {**TRAIN, "optimizer": {"learning_rate": 0.1}, "sandwich_rule": {"random_subnets": 1}}
    del train["calibration_images"]
    sections = {"data": DATA, "supernet": space, "train": train, "dynamic": {"max_macs_fraction": 0.9}}
    supernet = settings.as_dict(ConfigDict(sections))
    pipeline.run(supernet, tmp_path / "supernet", names=("train",))
    assert read(tmp_path / "supernet" / "train" / "energy.json")["energy_j"] > 0
    options = {"source": str(tmp_path / "supernet"), "read_off": True, "criterion": "il_fs"}
    config = config_of(options)
    pipeline.run(config, tmp_path / "grown", names=("grow",))
    ready, found = prepared(tmp_path / "supernet", supernet), read(tmp_path / "grown" / "grow" / "growth.json")
    for entry in found["candidates"]:
        genome = ready.supernet.space.from_json(
            {
                "space": ready.supernet.space.fingerprint,
                "genes": {f"stage{i}.depth": depth for i, depth in enumerate(entry["depths"], 1)},
            }
        )
        variables = job.load_variables(tmp_path / "supernet" / "train" / "supernet.msgpack")
        net, own = extract(ready.supernet, variables, genome)
        own = calibration.recalibrate(net, own, ready.calibration_batches(64))
        read_off = job.load_variables(tmp_path / "grown" / entry["variables"])
        jax.tree.map(np.testing.assert_array_equal, read_off["params"], jax.tree.map(np.asarray, own["params"]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), read_off, own)
        assert not (tmp_path / "grown" / "grow" / entry["name"] / "metrics.jsonl").exists()
    arch = tmp_path / "grown" / "grow" / "candidate1.json"
    fixed = settings.as_dict(ConfigDict({"data": DATA, "network": {"name": "cifar_resnet", "arch": str(arch)}}))
    net = job.build(pipeline.opened(fixed, tmp_path / "N").config, job.facts_of(ready.images)).largest_net()
    assert list(net.arch.depths) == found["candidates"][0]["depths"]
    # A first temporary net with more modules than the source has, or one of a later iteration.
    for number, changed in enumerate(({"initial_modules": 3}, {"iterations": 3})):
        deep = config_of({**options, **changed})
        with pytest.raises(
            ValueError,
            match=r"grow.source: .* shallower than .*: it has 3 modules in stage2, .*; of fewer grow.iterations",
        ):
            grow.check(prepared(tmp_path / f"D{number}", deep), **deep["grow"])
    wider = config_of(options, growth={**GROWTH, "widths": (4, 12)})
    with pytest.raises(ValueError, match=r"grow.source: .* the source net is another: .* not \(12,\)$"):
        grow.check(prepared(tmp_path / "O", wider), **wider["grow"])
    fits = config_of({**options, "iterations": 2})
    grow.check(prepared(tmp_path / "F", fits), **fits["grow"])
    _check_what_the_source_has_seen(tmp_path / "supernet", prepared(tmp_path / "F", fits))


def test_trainings_begin_with_the_weights_of_the_source(runs, tmp_path):
    """At a rate of next to nothing they end with them: every net has the deeper one's modules, the first of each stage."""
    still = {**TRAIN, "optimizer": {"learning_rate": 1e-12}}
    network = {"name": "cifar_resnet", "depths": (2, 3), "widths": (4, 8), "shortcut": "projection"}
    train = {**TRAIN, "optimizer": {"learning_rate": 0.1}}
    deeper = settings.as_dict(ConfigDict({"data": DATA, "network": network, "train": train}))
    pipeline.run(deeper, tmp_path / "deeper", names=("train",))
    source = job.load_variables(tmp_path / "deeper" / "train" / "network.msgpack")
    pipeline.run(config_of({"source": str(tmp_path / "deeper")}, train=still), tmp_path / "grown", names=("grow",))
    found = read(tmp_path / "grown" / "grow" / "growth.json")
    facts = job.facts_of(prepared(tmp_path / "grown", config_of()).images)
    for entry in (found["initial"], *found["candidates"]):
        net = growing.built(GROWTH, tuple(entry["depths"]), facts).largest_net()
        expected = growing.transferred(source, net)["params"]
        own = job.load_variables(tmp_path / "grown" / entry["variables"])["params"]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), own, expected)
        assert (tmp_path / "grown" / "grow" / entry["name"] / "metrics.jsonl").exists()
    # A growth gives its last candidate.
    last = read(runs.grown / "grow" / "growth.json")["candidates"][-1]
    given = growth_nets.source_variables(str(runs.grown))
    jax.tree.map(np.testing.assert_array_equal, given, job.load_variables(runs.grown / last["variables"]))


def _check_what_the_source_has_seen(source, ready):
    """Images that this run holds out, or other classes; changes what the source tells."""
    check = growth_nets.check_images
    config, data = read(source / "config.json"), read(source / "train" / "data.json")
    (source / "train" / "data.json").write_text(json.dumps({**data, "classes": [*data["classes"][1:], "other"]}))
    check(str(source), ready, as_it_stands=False)
    with pytest.raises(ValueError, match="grow.source: .* tells other classes than this run's images have"):
        check(str(source), ready, as_it_stands=True)
    data["splits"]["holdout"] = "of another seed"
    (source / "train" / "data.json").write_text(json.dumps(data))
    with pytest.raises(
        ValueError, match="grow.source: .* held out other images than this run does, so it was trained on"
    ):
        check(str(source), ready, as_it_stands=True)
    (source / "config.json").write_text(json.dumps({**config, "data": {**config["data"], "name": "elsewhere"}}))
    check(str(source), ready, as_it_stands=True)


def test_depths_that_a_supernet_was_not_trained_with_are_refused(tmp_path):
    """As deep as growing may ask, in steps of 2: of the depths between there are modules, but no net was trained so."""
    folder, space = tmp_path / "supernet", {"network": "elastic_resnet", "deepest": (5, 4), "step": 2, "widths": (4, 8)}
    config = settings.as_dict(ConfigDict({"data": DATA, "supernet": space, "train": TRAIN, "dynamic": {}}))
    facts = {"image_shape": [8, 8, 1], "classes": [str(i) for i in range(10)], "mean": [0.5], "std": [0.5]}
    job.save_variables(folder / "train" / "supernet.msgpack", init_of(job.build(config, facts)))
    for name, content in (("config", config), ("train/data", facts), ("train/manifest", {})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    # Stage 1 has 1, 3 and 5 blocks, stage 2 has 2 and 4.
    for number, (stage, changed) in enumerate(
        (
            ("1 modules in stage 2", {"growth": 2}),
            ("2 modules in stage 1", {"initial_modules": 2, "growth": 2}),
            ("2 modules in stage 1, which growing may ask for, but 1, 3, 5", {}),
        )
    ):
        asked = config_of({**changed, "source": str(folder), "read_off": True})
        with pytest.raises(ValueError, match=f"grow.source: .* no net with {stage}"):
            grow.check(prepared(tmp_path / f"W{number}", asked), **asked["grow"])
    config["supernet"]["deepest"] = (5, 5)
    (folder / "config.json").write_text(json.dumps(config))
    job.save_variables(folder / "train" / "supernet.msgpack", init_of(job.build(config, facts)))
    fits = config_of({"iterations": 2, "growth": 2, "source": str(folder), "read_off": True})
    grow.check(prepared(tmp_path / "F", fits), **fits["grow"])
    with pytest.raises(ValueError, match="no net with 2 modules in stage 1, .* but 1, 3, 5; grow by its steps"):
        grow.check(prepared(tmp_path / "U", fits), **fits["grow"], uniform=True)


def init_of(supernet):
    return supernet.largest_net().init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.uint8))


def test_a_cascade_of_the_first_and_the_last_candidate(runs, tmp_path):
    """Of one run the first candidate is little, the last big; here the control of another run is so."""
    path = tmp_path / "W"
    shutil.copytree(runs.grown, path)
    found = read(path / "grow" / "growth.json")
    if found["candidates"][0]["macs"] <= found["initial"]["macs"]:
        found["candidates"][0] = found["controls"][0]
    found["candidates"] = [found["initial"], found["candidates"][0]]
    (path / "grow" / "growth.json").write_text(json.dumps(found))
    little, big = sides.read_both(little=str(path), big=str(path))
    assert [list(side.net.arch.depths) for side in (little, big)] == [one["depths"] for one in found["candidates"]]
    ready = prepared(runs.grown, config_of(CONTROLLED))
    sides.check(little, big, ready.images)
    images = ready.images.test.images[:8]
    expected = job.grown_net(found["candidates"][1], job.facts_of(ready.images))
    variables = job.load_variables(path / found["candidates"][1]["variables"])
    np.testing.assert_array_equal(big.net.apply(big.variables, images)[0], expected.apply(variables, images)[0])
    others = growth_evaluate.other_members(ready, (str(path),))
    assert [list(one.net.arch.depths) for one in others] == [one["depths"] for one in found["candidates"]]
    for one, entry in zip(others, found["candidates"], strict=True):
        assert one.facts == {key: entry[key] for key in ("macs", "params_with_statistics")}
    (second,) = growth_evaluate.other_members(ready, (str(path),), (2,))
    assert second.name == others[1].name
    with pytest.raises(ValueError, match=r"evaluate.also: .* has none of the iterations in evaluate.together, \(3,\)"):
        growth_evaluate.other_members(ready, (str(path),), (3,))


def test_candidates_of_some_iterations_answer_together(runs, tmp_path):
    """The mean of the probabilities of just these, and of another run's; MACs and params of an ensemble are the sum."""
    ready, (entry,) = (
        prepared(runs.grown, config_of(CONTROLLED)),
        read(runs.grown / "grow" / "growth.json")["candidates"],
    )
    for wrong in ((), (0,), (1, 2), 1):
        with pytest.raises(ValueError, match=r"evaluate.together is .*, must be iterations of 1 to 1, in a tuple"):
            growth_evaluate.check(ready, together=wrong)
    for wrong in (3, "runs/x"):
        with pytest.raises(ValueError, match=r"evaluate.also is .*, must be a tuple of working directories"):
            growth_evaluate.check(ready, also=wrong)
    pipeline.opened(config_of(evaluate={"also": 3}), tmp_path / "A")
    growth_evaluate.check(ready, also=(str(runs.grown),), together=(1,))
    growth_evaluate.run(ready, tmp_path, also=(str(runs.grown),), together=(1,))
    told = read(tmp_path / "evaluation.json")
    alone, joint = told["ensemble"], told["joint_ensemble"]
    assert joint["networks"] == [entry["name"], f"{runs.grown} 1"], "the run as it was given: in a study many end alike"
    for key in ("macs", "params_with_statistics"):
        assert (alone[key], joint[key]) == (entry[key], 2 * entry[key])
    assert joint["accuracy"] == alone["accuracy"] == told["net"]["accuracy"], "twice the same net"


def test_the_candidates_can_seed_a_space(runs):
    """The largest net of a supernet up to the depths that were found is the candidate."""
    (entry,) = read(runs.grown / "grow" / "growth.json")["candidates"]
    section = {"network": "elastic_resnet", "deepest": tuple(entry["depths"]), "widths": GROWTH["widths"]}
    facts = read(runs.grown / "grow" / "data.json")
    supernet = job.build_supernet(section, facts)
    net, grown = supernet.largest_net(), job.grown_net(entry, facts)
    assert net.arch == grown.arch
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    variables = job.load_variables(runs.grown / entry["variables"])
    np.testing.assert_array_equal(net.apply(variables, images)[0], grown.apply(variables, images)[0])
    assert len(supernet.space.genes) == sum(depth > 1 for depth in entry["depths"])


def test_coins_in_place_of_a_criterion(runs):
    ready = prepared(runs.grown, config_of({"criterion": "random"}))
    nets = growth_nets.Nets(ready, runs.grown, options_of(criterion="random"))
    grown = []
    for number in range(300):
        both = [
            growth_nets.Net(f"{role}{number}", None, {"role": role, "depths": [1, 1]})
            for role in ("candidate", "temporary")
        ]
        grown += stage_growth.decided(*(nets.score(net, {}) for net in both))
        assert nets.score(both[1], {}) == nets.score(both[1], {})
    assert abs(np.mean(grown) - 0.5) < 4 * 0.5 / 600**0.5


def test_the_energy_of_trainings_adds_up(runs):
    found = read(runs.grown / "grow" / "growth.json")
    for entry in (found["initial"], *found["candidates"]):
        told = entry["training"]
        assert told["carbon_g"] == pytest.approx(told["energy_j"] / 3.6e6 * energy.GRID_G_PER_KWH["world"])
        folder, more = runs.grown / "grow" / entry["name"], told["further"]
        own, after = (read(path / "energy.json") for path in (folder, folder / "further"))
        for key in ("seconds", "energy_j"):
            assert 0 < more[key] == after[key] < told[key] == pytest.approx(own[key] + after[key])
        assert more["carbon_g"] == pytest.approx(told["carbon_g"] * more["energy_j"] / told["energy_j"])
        assert told["devices"].startswith(f"{jax.process_count()} x ")
    (temporary,) = (runs.grown / "grow").glob("temporary*")
    assert not (temporary / "further").exists()
    assert read(temporary / "net.json")["training"]["further"] == {"seconds": 0, "energy_j": 0, "carbon_g": 0}
    every, further = ([*(runs.grown / "grow").glob(f"{path}energy.json")] for path in ("**/", "*/further/"))
    scoring = runs.grown / "grow" / "scoring" / "energy.json"
    every.remove(scoring)
    assert found["scoring"] == {key: read(scoring)[key] for key in ("seconds", "energy_j")}
    assert found["scoring"]["seconds"] > 0
    assert len(every) == found["trained"]["networks"] + len(further)
    for told, files in ((found["trained"], every), (found["trained"]["further"], further)):
        for key in ("seconds", "energy_j"):
            assert told[key] == pytest.approx(sum(read(file)[key] for file in files))
    page = (runs.grown / "report.html").read_text()
    assert "of them for the further training of those that are kept" in page
    assert "Their importances took" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "lda"}, r"grow.criterion is 'lda', choose from \['pls', 'inf_fs', 'il_fs', 'random'\]"),
        ({"criterion": "random", "choose": {"components": (1,)}}, "'random', which has no options"),
        ({"criterion_options": {"mix": 0.5}}, "the criterion 'pls' has no option 'mix'"),
        ({"choose": {"components": 3}}, "must have a tuple of values"),
        ({"choose": 5}, "grow.choose is 5, must have a tuple of values"),
        ({"choose": ["components"]}, "grow.choose is .*, must have a tuple of values"),
        ({"criterion": ["pls"]}, r"grow.criterion is \['pls'\], choose from"),
        (
            {"criterion": "inf_fs", "criterion_options": {"components": 2}},
            "has no option 'components'; it has mix; leave out .* by --config.grow.criterion_options=None, or take its mode",
        ),
        ({"source": 5}, "grow.source is 5: give the run whose weights nets begin with"),
        ({"source": None}, "grow.source is None: give the run whose weights nets begin with"),
        ({"read_off": True}, "grow.read_off does nothing without grow.source"),
        ({"source": "/nowhere"}, "grow.source: /nowhere is no working directory"),
    ],
)
def test_what_no_growth_takes(options, message, tmp_path):
    config = config_of(options)
    with pytest.raises(ValueError, match=message):
        grow.check(prepared(tmp_path / "W", config), **config["grow"])


@pytest.mark.parametrize("option", ["initial_modules", "growth", "iterations"])
def test_nothing_to_grow_is_refused_before_any_work(option):
    config = {**config_of({option: 0}), "target": "x86"}
    with pytest.raises(ValueError, match=rf"grow.{option} is 0, must be a number of at least 1"):
        recipe.check(config)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"optimizer": {"learning_rate": -1.0}}, "grow.further: optimizer: learning_rate is -1.0, must not be"),
        ({"optimizer": {"momentum": 1.5}}, "grow.further: optimizer: momentum is 1.5, must be at least 0"),
        ({"optimizer": {"drops": (0.7, 0.3)}}, "grow.further: optimizer: drops is .* must be ascending"),
        ({"optimizer": {"drops": 0.5}}, "grow.further: train.optimizer: .* a value of another type"),
        ({"optimizer": {"rate": 0.1}}, "unknown config key 'grow.further.optimizer.rate'"),
        ({"steps": 0}, "grow.further.steps is 0, must be a number of at least 1"),
        ({"log_every": 0}, "grow.further.log_every is 0, must be a number of at least 1"),
        ({"checkpoint_every": 0}, "grow.further.checkpoint_every is 0, must be"),
        ({"calibration_images": 0}, "grow.further.calibration_images is 0, must be"),
        ({"ema_decay": 2}, "grow.further.ema_decay is 2, must be a number of at least 0 and at most 1"),
        ({"on_incident": "go_on"}, "grow.further: train.on_incident is 'go_on', choose from"),
        ({"mixing": {"mixup": -1.0}}, "grow.further: mixup=-1.0"),
    ],
)
def test_a_further_training_that_cannot_be_is_refused_before_the_first(further, message):
    with pytest.raises(ValueError, match=message):
        recipe.check(config_of({"further": further}))
    recipe.check(config_of({"further": {"steps": 1, "optimizer": {"learning_rate": 0.01, "drops": (0.5,)}}}))


def test_what_of_a_further_training_the_images_refuse(tmp_path):
    config = config_of({"further": {"batch_size": 10_000}})
    with pytest.raises(ValueError, match="grow.further: train: batch_size 10000 exceeds the 200 training images"):
        grow.check(prepared(tmp_path / "W", config), **config["grow"])


def test_an_intensity_that_no_grid_has():
    finite = "must be a finite number"
    for wrong, must in ((float("inf"), finite), (None, finite), (float("nan"), "must be a number of at least 0")):
        with pytest.raises(ValueError, match=f"grow.grid_g_per_kwh is {wrong}, {must}"):
            recipe.check(config_of({"grid_g_per_kwh": wrong}))


def test_a_device_whose_power_nothing_tells(tmp_path, monkeypatch):
    config = config_of()
    ready = prepared(tmp_path / "W", config)
    monkeypatch.setattr(grow.spent.jax, "devices", lambda: [SimpleNamespace(platform="tpu", device_kind="TPU v4")])
    monkeypatch.setattr(grow.spent.jax, "device_count", lambda: 1)
    with pytest.raises(
        ValueError, match=r"grow: energy .*: nothing tells the power of TPU v4; give power_w, in grow.power_w"
    ):
        grow.spent.check(None, needed=True)
    grow.spent.check(170.0, needed=True)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="power_w is 0, must be above 0"):
        grow.check(ready, **{**config["grow"], "power_w": 0})
    with pytest.raises(ValueError, match="power_w is 0, must be above 0"):  # of any training
        growth_nets.network_train.check(ready, **config["train"], power_w=0)


def test_an_answer_needs_no_training(runs):
    """The net of the run, wherever one is asked for, is its last candidate."""
    last = read(runs.grown / "grow" / "growth.json")["candidates"][-1]
    assert list(job.supernet_of_run(runs.grown).largest_net().arch.depths) == last["depths"]
    with pytest.raises(ValueError, match="it has none that exits"):
        finished.dynamic_of_run(runs.grown)
