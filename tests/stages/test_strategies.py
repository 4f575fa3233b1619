"""The search stage by every strategy on the tiny run: the pair, its target, what the search tells of itself, what is refused."""

import shutil

import jax
import numpy as np
import pytest

from dynnas_jax import job, pipeline, recipe, sections, settings
from dynnas_jax.__main__ import main
from dynnas_jax.costs import macs
from dynnas_jax.dynamic import thresholds
from dynnas_jax.elastic import init_supernet
from dynnas_jax.networks import big_little
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import collect, differentiable
from dynnas_jax.stages import pair as pair_of
from dynnas_jax.stages import strategies
from dynnas_jax.train import bilevel
from dynnas_jax.workdir import Workdir, read_json

EACH = 2 * (64 + 100)  # images of a pair: both nets' statistics, and the held-out ones
EVALUATED = {"evolutionary": 12, "once_for_all": 14, "random": 14, "differentiable": 1}
EFFORT = 14 * EACH + 5  # what is left over pays for no pair
OWN = {"once_for_all": {"epochs": 5, "population": 8, "generations": 5}, "evolutionary": {"population": 4}}


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


def asking(tiny_run, strategy, effort_images=EFFORT, **options):
    section = {**tiny_run.config["search"], "strategy": strategy, "effort_images": effort_images, **options}
    if strategy in OWN:
        section[strategy] = OWN[strategy]
    return {**tiny_run.config, "search": section, "dynamic": {"max_macs_fraction": 0.7, "big_net": "largest"}}


def searched(tiny_run, config, path):
    """`found.json` of a copy of the tiny run, searched anew."""
    path.mkdir()
    for name in ("train", "collect", "predict"):
        shutil.copytree(tiny_run.workdir / name, path / name)
    shutil.copy(tiny_run.workdir / "config.json", path)
    pipeline.run(config, path, names=("search",))
    return read_json(path / "search/found.json")


@pytest.fixture(scope="module", params=strategies.STRATEGIES)
def run(request, tiny_run, quick_programs, tmp_path_factory):
    """(strategy, working directory, `found.json`, images that each call of an evaluated net forwarded)."""
    path, forwarded = tmp_path_factory.mktemp(request.param) / "W", []
    answer_one = collect.answer_one

    def watched(supernet, score, variables, calibration, images, labels, genome, **options):
        count = calibration.shape[0] * calibration.shape[1]
        jax.debug.callback(lambda _, labels: forwarded.append(count + int((labels >= 0).sum())), genome, labels)
        return answer_one(supernet, score, variables, calibration, images, labels, genome, **options)

    with pytest.MonkeyPatch.context() as patch, quick_programs():
        patch.setattr("dynnas_jax.search.pair_fitness.collect.answer_one", watched)
        found = searched(tiny_run, asking(tiny_run, request.param), path)
        jax.effects_barrier()
    return request.param, path, found, forwarded


def test_the_effort_is_what_was_forwarded(run):
    strategy, _, found, forwarded = run
    front = len(found["front"]) + 2  # evaluated besides: single subnets, before and after the strategy
    effort = found["effort"]
    assert len(forwarded) - front == 2 * effort["architectures"]
    assert sum(forwarded) - front * EACH // 2 == effort["architectures"] * EACH
    relaxed = 0
    if strategy == "differentiable":
        each = bilevel.images_each(found["details"]["batch_size"])
        relaxed = differentiable.images_of(each, found["details"]["steps"])
    assert effort["images"] == effort["architectures"] * EACH + relaxed
    assert effort["images"] <= effort["asked_images"] == EFFORT
    assert effort["architectures"] == EVALUATED[strategy]
    assert effort["device_s"] > 0
    assert effort["compile_s"] > 0
    assert effort["peak_memory_bytes"] > 2**20
    assert effort["peak_memory_of"] == "process"


def test_the_history_ends_at_what_is_found(run):
    strategy, _, found, _ = run
    assert found["strategy"] == strategy
    history = found["history"]
    assert [row["images"] for row in history] == sorted({row["images"] for row in history})
    assert history[-1]["images"] == found["effort"]["images"]
    values = [-1 if row["fitness"] is None else row["fitness"] for row in history]
    assert values == sorted(values)
    assert values[-1] == found["details"]["fitness"] == pytest.approx(found["pair"]["holdout"]["accuracy"])
    if strategy == "once_for_all":
        assert -1 <= found["details"]["kendall_tau"] <= 1
        assert found["details"]["fitted"] + found["details"]["held_out"] <= 13


def test_the_pair_keeps_the_target_that_all_strategies_have(run, tiny_run):
    _, path, found, _ = run
    supernet, pair = job.supernet_of_run(path), found["pair"]
    little, big = (supernet.space.from_json(pair[which]["genome"]) for which in ("little", "big"))
    assert (little <= big).all()
    most = 0.7 * macs.table(supernet).exact(supernet.space.largest)
    assert pair["target"] == {"max_macs": pytest.approx(most), "min_accuracy": None}
    assert pair["feasible"]
    assert pair["holdout"]["average_macs"] <= most
    assert pair["cost"] == list(big_little.cost(big_little.build(supernet, little, big)).cumulative)
    nets = job.load_variables(path / "search/pair.msgpack")
    assert set(nets) == {"little", "big"}
    config = asking(tiny_run, found["strategy"])
    prepared = job.prepare(Workdir(path, pipeline.STAGES, config), config)
    evaluate = job.evaluator(prepared, 64, 2)
    score, correct = evaluate(job.supernet_variables(prepared), np.stack([little, big]))
    point = thresholds.choose(score.T, correct.T, pair["cost"], max_cost=most)
    assert pair["holdout"]["accuracy"] == point.accuracy
    assert pair["thresholds"] == list(point.thresholds)
    # The subnets beside it are those of the run that made its pair of them.
    mine, other = (folder / "search/found.json" for folder in (path, tiny_run.workdir))
    assert read_json(mine)["front"] == read_json(other)["front"]


def test_a_seed_decides_what_is_found(run, tiny_run, tmp_path):
    strategy, _, found, _ = run
    again = searched(tiny_run, asking(tiny_run, strategy), tmp_path / "W")
    assert again["pair"] == found["pair"]
    assert again["history"] == found["history"]


def test_records_are_counted_too(tiny_run):
    found = read_json(tiny_run.workdir / "search/found.json")
    nets = 16 + len(found["front"])
    assert found["effort"] == {"images": nets * EACH // 2, "architectures": nets}
    assert (found["strategy"], found["history"]) == ("records", [])


@pytest.fixture(scope="module")
def coupled(tiny_run, quick_programs, tmp_path_factory):
    """What a search is given of a coupled supernet that was not trained, with records of it."""
    config = asking(tiny_run, "random")
    config |= {"supernet": {**config["supernet"], "coupled": True}}
    path = tmp_path_factory.mktemp("coupled") / "W"
    prepared = job.prepare(Workdir(path, pipeline.STAGES, config), config)
    supernet, space = prepared.supernet, prepared.supernet.space
    variables = jax.tree.map(np.asarray, init_supernet(supernet, jax.random.key(0), (8, 8, 1)))
    genomes, tables = collect.distinct(space, jax.random.key(1), 6, pairs=True), {"macs": macs.table(supernet)}
    with quick_programs():
        evaluate = job.evaluator(prepared, 64, 6)
        collect.run(evaluate, variables, genomes, tables["macs"].exact, path / "collect/records.zarr")
        answers = evaluate(variables, genomes)
    tables["params"] = macs.params_table(supernet)
    return pair_of.Evaluated(prepared, variables, tables, evaluate, genomes, answers)


def test_coupled_nets_answer_with_their_own_heads(coupled):
    pair, told = strategies.run(coupled, "random", 64, effort_images=6 * EACH)
    assert told["effort"]["images"] == 6 * EACH
    halves, answers = (pair.littles, pair.bigs), []
    for genomes, role in zip(halves, collect.roles(coupled.job.supernet, coupled.variables), strict=True):
        answers.append(coupled.evaluate(role, genomes))
    assert np.abs(answers[0].score - coupled.evaluate(coupled.variables, pair.littles).score).max() > 1e-3
    score, correct = (np.stack([little[0], big[0]], 1) for little, big in zip(*answers, strict=True))
    cost = big_little.cost(big_little.build(coupled.job.supernet, pair.littles[0], pair.bigs[0])).cumulative
    point = thresholds.choose(score, correct, cost, max_cost=pair.chosen.max_cost)
    assert pair.chosen.point == point
    assert told["details"]["fitness"] == pytest.approx(point.accuracy)


def test_records_of_coupled_nets_count_twice(coupled):
    pair, told = strategies.of_records(coupled, 64)
    assert len(pair.littles) > 1
    nets = len(coupled.genomes) + len(pair.littles)
    assert told["effort"] == {"images": (2 * 6 + nets) * EACH // 2, "architectures": 6 + nets}


# What a config may not ask.


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (
            {"strategy": "grid"},
            r"search.strategy is 'grid', choose from \['records', 'evolutionary', 'once_for_all', 'random'",
        ),
        ({"effort_images": 10**6}, "search.effort_images does nothing for strategy 'records'; write search.strategy="),
        (
            {"strategy": "random", "evolutionary": {"population": 4}},
            "write search.strategy='evolutionary', or leave it",
        ),
        (
            {"strategy": "evolutionary", "evolutionary": {"generations": 4}},
            "unknown config key 'search.evolutionary.gen",
        ),
        ({"strategy": "evolutionary", "evolutionary": {"population": 1}}, "must be a number of at least 2"),
        ({"strategy": "once_for_all", "once_for_all": {"records": 1.5}}, "once_for_all.records is 1.5, must be"),
        ({"strategy": "random", "cost_weight": -0.1}, "search.cost_weight is -0.1, must be a number of at least 0"),
        ({"strategy": "differentiable", "cost_weight": 0.1}, "cost_weight does nothing for strategy 'differentiable'"),
        ({"strategy": "random", "effort_images": 2e6}, "search.effort_images is 2000000.0, must be a whole number"),
        ({"strategy": "random", "effort_images": 0}, "search.effort_images is 0, must be a number of at least 1"),
    ],
)
def test_what_a_config_may_not_ask(tiny_run, tmp_path, search, said):
    config = {**tiny_run.config, "search": {**tiny_run.config["search"], **search}}
    with pytest.raises(ValueError, match=said):
        recipe.check(config)
    with pytest.raises(ValueError, match=said):
        pipeline.run(config, tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_a_target_of_accuracy_is_no_budget(tiny_run):
    config = asking(tiny_run, "random") | {"dynamic": {"max_accuracy_loss": 0.01}}
    with pytest.raises(ValueError, match="bounds the accuracy; give dynamic.max_macs_fraction"):
        recipe.check(config)


@pytest.mark.parametrize(("strategy", "fewest"), [("random", 1), ("evolutionary", 8), ("once_for_all", 11)])
def test_an_effort_that_pays_for_too_little_is_found_before_training(tiny_run, tmp_path, strategy, fewest):
    config = asking(tiny_run, strategy, fewest * EACH - 1)
    with pytest.raises(ValueError, match=rf"a pair takes {EACH} images .* give at least {fewest * EACH}$"):
        pipeline.run(config, tmp_path / "W")
    assert not (tmp_path / "W" / "train").exists()


def test_the_command_line_asks_for_a_strategy(tiny_run, capsys, tmp_path):
    arguments = [f"--config={tiny_run.config_file}", "--config.search.strategy=evolutionary"]
    arguments += ["--config.search.effort_images=9000", "--config.search.evolutionary.population=4"]
    section = settings.as_dict(settings.load(arguments, sections.options))["search"]
    assert (section["strategy"], section["effort_images"]) == ("evolutionary", 9000)
    assert section["evolutionary"] == {"population": 4}
    with pytest.raises(SystemExit) as stopped:
        main(["run", arguments[0], "--config.search.strategy=annealing", f"--workdir={tmp_path / 'W'}"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "search.strategy is 'annealing', choose from ['records'" in line


def test_a_pair_of_one_genome_is_described_as_one_of_candidates(tiny_run):
    """The pair that records led to, made of its genome for the same cost."""
    config, found = tiny_run.config, read_json(tiny_run.workdir / "search/found.json")["pair"]
    prepared = job.prepare(Workdir(tiny_run.workdir, pipeline.STAGES, config), config)
    space, variables = prepared.supernet.space, job.supernet_variables(prepared)
    halves = np.stack([space.from_json(found[which]["genome"]) for which in ("little", "big")])
    evaluate = job.evaluator(prepared, 64, 2)
    tables = {"macs": macs.table(prepared.supernet), "params": macs.params_table(prepared.supernet)}
    seen = pair_of.Evaluated(prepared, variables, tables, evaluate, halves, evaluate(variables, halves))
    pair = pair_of.of_genome(seen, halves.reshape(-1), found["target"]["max_macs"])
    assert PairSpace(space).halves(halves.reshape(-1)).little.tolist() == pair.littles[0].tolist()
    assert list(pair.chosen.point.thresholds) == found["thresholds"]
    assert pair.chosen.point.accuracy == found["holdout"]["accuracy"]
    assert pair.chosen.point.average_cost == found["holdout"]["average_macs"]
