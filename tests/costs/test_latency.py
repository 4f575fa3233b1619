"""Latency tables: look-up against walking the arch by hand, and files that are none."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from dynnas_jax.costs import latency
from dynnas_jax.elastic import image_struct, walk
from dynnas_jax.networks import fixed, multi_costs, multi_supernet, ofa
from dynnas_jax.search import evolution

OVERHEAD_MS = 0.0625


@pytest.fixture(scope="module")
def two_resolutions():
    return ofa.small_images(
        image_size=10,
        resolutions=(8, 10),
        channels=1,
        mean=(0.4,),
        std=(0.3,),
        stem=8,
        stage_widths=(8, 16),
        stage_strides=(1, 2),
        widths=(0.5, 1.0),
        depths=(1, 2),
        kernels=(3, 5),
        expands=(1, 2),
        divisor=4,
    )


def by_hand(supernet, table, genome):
    """The blocks of the genome's arch one after the other, each looked for among all rows; its depth comes from the arch."""
    arch = supernet.arch(genome)
    blocks, total = supernet.blocks(arch), OVERHEAD_MS
    for block, traced in zip(blocks, walk(blocks, image_struct(arch)).values(), strict=True):
        (row,) = [
            row
            for row in table.rows
            if (row.inputs, row.block) == (tuple(a.shape for a in traced.jaxpr.in_avals), latency.spec(block.module))
        ]
        total += row.latency_ms
    return total


def test_the_latency_of_a_genome_is_that_of_its_blocks(made_up_table, two_resolutions):
    supernet, space = two_resolutions, two_resolutions.space
    table = made_up_table(supernet, OVERHEAD_MS)
    cost = table.of(supernet)
    genomes = np.concatenate([[space.smallest, space.largest], space.sample(jax.random.key(0), 20)])
    expected = [by_hand(supernet, table, genome) for genome in genomes]
    np.testing.assert_allclose([cost.exact(genome) for genome in genomes], expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(cost)(genomes), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(cost))(genomes), expected, rtol=1e-6)
    assert {supernet.arch(genome).resolution for genome in genomes} == {8, 10}


@pytest.mark.parametrize("made", ["searched", "fixed"])
def test_an_exit_takes_what_all_blocks_before_it_take_and_a_call_for_each_exit(made_up_table, two_resolutions, made):
    several = multi_supernet.build(two_resolutions, exits=2, ratios=(0.5, 1.0))
    if made == "fixed":
        several = fixed.of_net(several.net(several.arch(several.space.largest)))
    table, space = made_up_table(several, OVERHEAD_MS), several.space
    ms = {(row.inputs, json.dumps(row.block)): row.latency_ms for row in table.rows}
    spent = multi_costs.spent(several, multi_costs.exit_tables(several, table.of(several)))
    for genome in (space.smallest, space.largest, *np.asarray(space.sample(jax.random.key(0), 6))):
        genome = multi_costs.settled(several, genome)
        arch, total, expected = several.arch(genome), 0.0, []
        blocks = several.blocks(arch)
        for block, traced in zip(blocks, walk(blocks, image_struct(arch)).values(), strict=True):
            total += ms[tuple(a.shape for a in traced.jaxpr.in_avals), json.dumps(latency.spec(block.module))]
            if block.name in ("exit1", "exit2"):
                total += OVERHEAD_MS
                expected.append(total)
        np.testing.assert_allclose(spent(genome), expected, rtol=1e-12)


def test_every_distinct_block_stands_in_the_table_once(two_resolutions):
    """By hand: what tells the blocks of this space apart, counted over all of a hundred archs."""
    supernet = two_resolutions
    seen = set()
    for genome in np.asarray(supernet.space.sample(jax.random.key(1), 400)):
        arch = supernet.arch(genome)
        side, channels = arch.resolution, arch.stem_out
        seen.add(("stem", side))
        for _, spec in arch.named_blocks():
            seen.add((side, channels, spec))
            side, channels = -(-side // spec.stride), spec.out
        seen.add(("head", side, channels, arch.head_conv))
    assert len(latency.distinct(supernet)) == len(seen)


def test_the_normalisation_does_not_matter(two_resolutions):
    """The same space for images of another mean: the table serves both."""
    other = two_resolutions._replace(
        blocks=lambda arch: two_resolutions.blocks(dataclasses.replace(arch, mean=(0.1,), std=(0.9,)))
    )
    assert list(latency.distinct(other)) == list(latency.distinct(two_resolutions))


def test_a_search_under_a_latency_budget_finds_the_best(made_up_table, two_resolutions, quick_programs):
    """Against every genome of a tiny space; the fitness is a sum over the genes that prefers slow blocks."""
    supernet = two_resolutions
    template = supernet.arch.template
    tiny = ofa.build(dataclasses.replace(template, stages=template.stages[:1], resolutions=(8,)))
    table = made_up_table(tiny, OVERHEAD_MS)
    cost, space = table.of(tiny), tiny.space
    everything = np.stack([x.ravel() for x in np.meshgrid(*map(range, space.sizes), indexing="ij")], -1).astype(
        np.int32
    )
    weights = np.random.default_rng(1).normal(size=sum(space.sizes)).astype(np.float32)

    def fitness(genome):
        return (space.encode(genome) * weights).sum()

    with quick_programs():
        values = np.asarray(jax.jit(jax.vmap(fitness))(everything))
    exact = np.asarray([cost.exact(genome) for genome in everything])
    budgets = np.quantile(exact, [0.05, 0.3, 0.8]).astype(np.float32)
    search = jax.jit(
        jax.vmap(lambda key, b: evolution.run(key, space, fitness, cost, b, population=32, generations=30))
    )
    with quick_programs():
        found = search(jax.random.split(jax.random.key(0), len(budgets)), budgets)
    for i, limit in enumerate(budgets * (1 + 1e-5)):
        assert found.feasible[i]
        assert cost.exact(np.asarray(found.genome[i])) <= limit
        np.testing.assert_allclose(found.fitness[i], values[exact <= limit].max(), rtol=1e-6)
    assert len(set(exact.tolist())) > 30


# Files.


def test_a_table_survives_its_file(made_up_table, tmp_path, tiny):
    table = made_up_table(tiny.supernet, OVERHEAD_MS)
    latency.save(table, tmp_path / "table.json")
    assert latency.load(tmp_path / "table.json") == table


def test_a_router_is_known_by_its_weights_and_what_it_looks_at(made_up_table, tmp_path, tiny):
    fields = {"name": "learned", "place": "little", "confidence": "max_softmax", "statistics": [], "units": 16}
    own, shape = latency.router_spec(fields), (1, 4, 4, 24)
    table = made_up_table(tiny.supernet, OVERHEAD_MS)
    with_router = table._replace(rows=(*table.rows, latency.Row((shape,), own, 0.125, 0.01)))
    latency.save(with_router, tmp_path / "table.json")
    read = latency.load(tmp_path / "table.json")
    assert read.router_ms(shape, latency.router_spec({**fields, "confidence": "margin"})) == 0.125
    assert read.router_ms(shape, latency.router_spec({**fields, "units": 8})) is None
    assert read.router_ms((1, 4, 4, 32), own) is None
    assert table.router_ms(shape, own) is None
    smallest = tiny.supernet.space.smallest
    assert read.of(tiny.supernet).exact(smallest) == table.of(tiny.supernet).exact(smallest)


def test_a_table_of_another_space(made_up_table, tiny, two_resolutions):
    with pytest.raises(ValueError, match=f"but this space is '{two_resolutions.space.fingerprint}'"):
        made_up_table(tiny.supernet, OVERHEAD_MS).of(two_resolutions)


def test_a_table_without_one_of_the_blocks(made_up_table, tiny):
    table = made_up_table(tiny.supernet, OVERHEAD_MS)
    with pytest.raises(ValueError, match="no row for stem"):
        table._replace(rows=table.rows[1:]).of(tiny.supernet)


def change(content, path, value):
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("version",), 1, "no latency table of version 2"),
        (("rows",), [], "it has no rows"),
        (("rows",), {}, "rows is {}"),
        (("rows", 1, "latency_ms"), -1, "row 1 is"),
        (("rows", 1, "latency_ms"), "fast", "row 1 is"),
        (("rows", 2, "inputs"), [[1, 0, 8]], "row 2 is"),
        (("rows", 2, "inputs"), [1, 8], "row 2 is"),
        (("rows", 0, "resolution"), "large", "row 0 is"),
        (("rows", 3), 7, "row 3 is 7"),
        (("device", "threads"), None, "device.threads is None"),
        (("overhead_ms",), True, "overhead_ms is True"),
        (("overhead_ms",), float("nan"), "overhead_ms is nan"),
        (("overhead_ms",), 10**400, "overhead_ms is 1000"),
        (("space",), 3, "space is 3"),
    ],
)
def test_a_damaged_table(made_up_table, tmp_path, tiny, path, value, said):
    file = tmp_path / "table.json"
    latency.save(made_up_table(tiny.supernet, OVERHEAD_MS), file)
    content = json.loads(file.read_text())
    change(content, path, value)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        latency.load(file)


def test_a_file_that_is_no_table(tmp_path):
    with pytest.raises(ValueError, match="table.json is missing; `dynnas table` builds one"):
        latency.load(tmp_path / "table.json")
    (tmp_path / "table.json").write_text('{"version": 1, "rows"')
    with pytest.raises(ValueError, match="table.json is corrupt"):
        latency.load(tmp_path / "table.json")
    (tmp_path / "table.json").write_text('{"rows": ' + "[" * 100_000)
    with pytest.raises(ValueError, match="table.json is corrupt"):
        latency.load(tmp_path / "table.json")
    (tmp_path / "table.json").write_text('{"macs": 3}')
    with pytest.raises(ValueError, match="is no latency table"):
        latency.load(tmp_path / "table.json")
