"""Search by latency: in a run, and in a finished one for another budget."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dynnas_jax import job, pipeline, records
from dynnas_jax.__main__ import main
from dynnas_jax.costs import latency, macs
from dynnas_jax.networks import big_little
from dynnas_jax.stages import search

OVERHEAD_MS = 0.25


@pytest.fixture(scope="module")
def supernet(tiny_run):
    return job.supernet_of_run(tiny_run.workdir)


@pytest.fixture(scope="module")
def table_file(supernet, made_up_table, tmp_path_factory):
    path = tmp_path_factory.mktemp("latency") / "table.json"
    latency.save(made_up_table(supernet, OVERHEAD_MS), path)
    return path


@pytest.fixture(scope="module")
def cost(supernet, table_file):
    return latency.load(table_file).of(supernet)


@pytest.fixture
def copy(tiny_run, tmp_path):
    return Path(shutil.copytree(tiny_run.workdir, tmp_path / "workdir"))


def asked(capsys, *arguments):
    main(["search", *(str(argument) for argument in arguments)])
    return json.loads(capsys.readouterr().out)


def test_the_best_subnet_within_a_latency(tiny_run, supernet, table_file, cost, capsys):
    """The predictor's favourite among many drawn subnets of that latency is no better."""
    genomes = np.asarray(supernet.space.sample(search.jax.random.key(3), 400))
    budget = float(np.median([cost.exact(genome) for genome in genomes]))
    options = (f"--workdir={tiny_run.workdir}", f"--table={table_file}", "--target=x86")
    found = asked(capsys, *options, f"--max_latency_ms={budget}")
    genome = supernet.space.from_json(found["genome"])
    assert found["latency_ms"] == cost.exact(genome) <= budget
    assert found["macs"] == macs.table(supernet).exact(genome)
    assert supernet.arch.from_file(found["arch"]) == supernet.arch(genome)
    larger = asked(capsys, *options, f"--max_latency_ms={10 * budget}")
    assert larger["predicted_accuracy"] >= found["predicted_accuracy"]


def test_latencies_stand_beside_macs_where_a_table_is_given(tiny_run, table_file, supernet, cost, capsys):
    found = asked(capsys, f"--workdir={tiny_run.workdir}", f"--table={table_file}", "--max_macs=1e7")
    assert found["latency_ms"] == cost.exact(supernet.space.from_json(found["genome"]))
    assert found["latency_device"] == latency.load(table_file).device
    without = asked(capsys, f"--workdir={tiny_run.workdir}", "--max_macs=1e7")
    assert not {"latency_ms", "latency_device"} & set(without)


def test_a_table_of_another_machine_is_said(tiny_run, table_file, capsys):
    """A line on stderr, beside the JSON; a search for MACs alone, for whatever device, has no such line."""
    budget = f"--max_latency_ms={1e6}"
    main(["search", f"--workdir={tiny_run.workdir}", f"--table={table_file}", budget])
    said = capsys.readouterr()
    assert json.loads(said.out)["latency_device"]["board"] == "a board"
    (line,) = said.err.splitlines()
    assert line.startswith("dynnas: the latency table was measured on a board, this machine is ")
    main(["search", f"--workdir={tiny_run.workdir}", "--max_macs=1e7", "--target=pi4"])
    assert capsys.readouterr().err == ""


def shared_ms(supernet, cost, genome):
    """What the shared blocks take, by leaving the others out one by one."""
    names = {block.name for block in supernet.blocks(supernet.arch(genome))}
    stem = set(big_little.build(supernet, genome, genome).stem)
    return cost.exact(genome) - OVERHEAD_MS - sum(cost.only((name,)).exact(genome) for name in names - stem)


def test_the_best_pair_within_a_latency(tiny_run, supernet, table_file, cost, capsys):
    """Its figures are those that the records give; a second call of the runtime costs a second overhead."""
    options = (f"--workdir={tiny_run.workdir}", f"--table={table_file}", "--pair")
    store = records.open(tiny_run.workdir / "collect/records.zarr")
    genomes = store.read("genome")
    budget = float(np.quantile([cost.exact(genome) for genome in genomes], 0.7))
    found = asked(capsys, *options, f"--max_latency_ms={budget}")
    rows = []
    for which in ("little", "big"):
        genome = supernet.space.from_json(found[which]["genome"])
        rows.append(int(np.flatnonzero((genomes == genome).all(axis=1))[0]))
        assert found[which]["latency_ms"] == cost.exact(genome)
        assert found[which]["holdout_accuracy"] == store.accuracy()[rows[-1], 0]
    little, big = (cost.exact(genomes[row]) for row in rows)
    second = big - shared_ms(supernet, cost, genomes[rows[1]])
    assert found["latency_ms"] == pytest.approx([little, little + second])
    score, correct = (store.read(name, np.asarray(rows))[..., 0] for name in ("score", "correct"))
    exits = score[0].astype(np.float32) > np.float32(found["thresholds"][0])
    holdout = found["holdout"]
    assert holdout["accuracy"] == np.where(exits, *correct).mean()
    assert holdout["average_latency_ms"] == pytest.approx(little + (1 - exits.mean()) * second)
    assert holdout["average_latency_ms"] <= budget
    assert holdout["average_macs"] == pytest.approx(np.where(exits, *found["cost"]).mean())
    assert found["target"] == {"max_latency_ms": budget, "min_accuracy": None}


def test_the_best_pair_within_macs(tiny_run, capsys):
    found = asked(capsys, f"--workdir={tiny_run.workdir}", "--pair", "--max_macs=1e6")
    assert found["holdout"]["average_macs"] <= 1e6
    assert "latency_ms" not in found


@pytest.fixture
def refused(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["search", *(str(argument) for argument in arguments)])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def test_what_cannot_be_searched(tiny_run, table_file, refused, copy, tmp_path, tiny, made_up_table):
    workdir = f"--workdir={tiny_run.workdir}"
    assert "pass --table=FILE; `dynnas table` builds one" in refused(workdir, "--max_latency_ms=1")
    given = (workdir, f"--table={table_file}")
    assert "must be above 0" in refused(*given, "--max_latency_ms=nan")
    assert "target is 'gpu'" in refused(*given, "--max_latency_ms=1", "--target=gpu")
    assert "target is 'gpu'" in refused(workdir, "--max_macs=1e7", "--target=gpu")
    assert "was measured for target 'x86', not for 'pi4'" in refused(*given, "--max_latency_ms=1", "--target=pi4")
    assert "no subnet was found within 0.001 ms; the fastest takes" in refused(*given, "--max_latency_ms=0.001")
    assert "the cheapest takes" in refused(*given, "--max_latency_ms=0.001", "--pair")
    latency.save(made_up_table(tiny.supernet, 0.0), tmp_path / "other.json")
    other = f"--table={tmp_path / 'other.json'}"
    assert f"is of space '{tiny.supernet.space.fingerprint}'" in refused(workdir, other, "--max_latency_ms=1")
    assert "gone.json is missing" in refused(workdir, f"--table={tmp_path / 'gone.json'}", "--max_latency_ms=1")
    (copy / "collect" / "manifest.json").unlink()
    assert "stage 'collect' is not done" in refused(f"--workdir={copy}", "--max_macs=1e6", "--pair")


# In a run.


@pytest.fixture(scope="module")
def by_latency(tiny_run, table_file):
    """The tiny run's config, searching by latency."""
    section = {**tiny_run.config["search"], "latency_table": str(table_file)}
    return {**tiny_run.config, "search": section, "dynamic": {"max_latency_fraction": 0.9, "big_net": "largest"}}


def test_a_run_that_searches_by_latency(by_latency, supernet, cost, table_file, copy, capsys):
    pipeline.run(by_latency, copy, names=("train", "collect", "predict", "search"), redo="search")
    assert capsys.readouterr().err.count("the latency table was measured on a board") == 1
    found = json.loads((copy / "search/found.json").read_text())
    assert found["cost"] == "latency_ms"
    assert found["latency_device"] == latency.load(table_file).device
    assert found["smallest_latency_ms"] == cost.exact(supernet.space.smallest)
    for entry in found["front"]:
        genome = supernet.space.from_json(entry["genome"])
        assert entry["latency_ms"] == cost.exact(genome)
        assert entry["feasible"] == (entry["latency_ms"] <= entry["budget"])
    pair = found["pair"]
    big = pair["big"]["latency_ms"]
    assert pair["target"] == {"max_latency_ms": 0.9 * big, "min_accuracy": None}
    assert pair["feasible"] == (pair["holdout"]["average_latency_ms"] <= 0.9 * big)
    exits, answered = pair["holdout"]["exit_rate"]
    for unit, costs in (("latency_ms", pair["latency_ms"]), ("macs", pair["cost"])):
        assert pair["holdout"][f"average_{unit}"] == pytest.approx(exits * costs[0] + answered * costs[1])
    # The table has changed since: what it was searched with is gone, what was trained before is as good as ever.
    content = json.loads(table_file.read_text())
    (copy / "table.json").write_text(json.dumps({**content, "overhead_ms": 9.0}))
    section = {**by_latency["search"], "latency_table": str(copy / "table.json")}
    with pytest.raises(ValueError, match="stage 'search' was made with another config"):
        pipeline.run({**by_latency, "search": section}, copy, names=("train", "search"))


def test_a_table_that_changed_under_a_run(by_latency, table_file, copy, tmp_path):
    mine = Path(shutil.copy(table_file, tmp_path / "mine.json"))
    config = {**by_latency, "search": {**by_latency["search"], "latency_table": str(mine)}}
    pipeline.run(config, copy, names=("train", "collect", "predict", "search"), redo="search")
    mine.write_text(json.dumps({**json.loads(mine.read_text()), "overhead_ms": 9.0}))
    pipeline.run(config, copy, names=("train", "collect", "predict"))
    with pytest.raises(ValueError, match="what search.latency_table names has changed since stage 'search'"):
        pipeline.run(config, copy, names=("search",))


def test_a_wrong_table_is_found_before_anything_is_trained(by_latency, tmp_path, made_up_table, tiny):
    latency.save(made_up_table(tiny.supernet, 0.0), tmp_path / "other.json")
    section = {**by_latency["search"], "latency_table": str(tmp_path / "other.json")}
    with pytest.raises(ValueError, match="but this space is"):
        pipeline.run({**by_latency, "search": section}, tmp_path / "workdir")
    assert not (tmp_path / "workdir" / "train").exists()
    without = {**by_latency, "search": {**section, "latency_table": None}}
    with pytest.raises(ValueError, match="max_latency_fraction needs search.latency_table"):
        pipeline.run(without, tmp_path / "workdir")
