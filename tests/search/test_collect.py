"""A thousand subnets through one compiled program, and what they answered against the sliced nets."""

import collections
import logging

import jax
import numpy as np
import pytest

from dynnas_jax import confidence, devices
from dynnas_jax.costs import macs
from dynnas_jax.data.resize import resized
from dynnas_jax.data.splits import Split
from dynnas_jax.elastic import positions
from dynnas_jax.networks import coupled, ofa
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import collect
from dynnas_jax.search import width as width_of
from dynnas_jax.search_space import Gene, SearchSpace
from dynnas_jax.train.calibration import batches, extract_calibrated

COUNT = 1000


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def split():
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (10, 8, 8, 1), dtype=np.uint8)
    return Split(images, generator.integers(0, 3, 10).astype(np.int32), np.arange(100, 110))


@pytest.fixture(scope="module")
def genomes(tiny):
    return collect.distinct(tiny.supernet.space, jax.random.key(0), COUNT)


@pytest.fixture(scope="module")
def evaluate(tiny, split):
    positions(tiny.supernet)
    return collect.Evaluator(tiny.supernet, tiny.images[:8], split, calibration_batch=4, chunk=64)


@pytest.fixture(scope="module")
def collected(tiny, evaluate, genomes, tmp_path_factory):
    """(records, names of the functions jax compiled meanwhile)."""
    cost = macs.table(tiny.supernet).exact
    path = tmp_path_factory.mktemp("collect") / "records.zarr"
    compiled = []

    class Listener(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("Compiling "):
                compiled.append(record.getMessage().split(" with ")[0])

    listener, logger = Listener(), logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(listener)
    try:
        with jax.log_compiles():
            return collect.run(evaluate, tiny.variables, genomes, cost, path), compiled
    finally:
        logger.removeHandler(listener)


def test_a_thousand_subnets_are_distinct(tiny, genomes):
    assert genomes.shape == (COUNT, len(tiny.supernet.space.genes))
    assert len({tiny.supernet.arch(genome) for genome in genomes}) == COUNT
    np.testing.assert_array_equal(genomes[0], tiny.supernet.space.smallest)
    np.testing.assert_array_equal(genomes[1], tiny.supernet.space.largest)


def test_one_program_is_compiled_for_all(collected, evaluate):
    records, compiled = collected
    assert records.done().sum() == COUNT
    assert evaluate.program.jitted._cache_size() == 1
    assert len(compiled) == 1, compiled


def test_records_hold_genomes_and_costs(tiny, collected, genomes, split):
    records = collected[0]
    np.testing.assert_array_equal(records.read("genome"), genomes)
    np.testing.assert_array_equal(records.read("image_id"), split.image_id)
    costs = records.read("cost")[:, 0]
    assert [macs.table(tiny.supernet).exact(genome) for genome in genomes[::100]] == costs[::100].tolist()


@pytest.mark.parametrize("row", [0, 7, 999])
def test_answers_are_those_of_the_sliced_and_recalibrated_net(tiny, collected, genomes, split, row):
    net, own = extract_calibrated(tiny.supernet, tiny.variables, genomes[row], batches(tiny.images[:8], 4))
    logits = np.asarray(jax.jit(lambda v, x: net.apply(v, x)[0])(own, split.images), np.float64)
    score, correct = confidence.max_softmax(logits), logits.argmax(-1) == split.labels
    rows = slice(row, row + 1)
    np.testing.assert_allclose(collected[0].read("score", rows)[0, :, 0], score, atol=2e-3)
    np.testing.assert_array_equal(collected[0].read("correct", rows)[0, :, 0], correct)
    assert collected[0].accuracy()[row, 0] == correct.mean()
    assert np.ptp(score) > 0.01


class Interruption(Exception):
    pass


def test_an_interrupted_run_does_no_row_twice(tiny, evaluate, genomes, collected, tmp_path):
    genomes, path, asked = genomes[:200], tmp_path / "records.zarr", []

    def interrupted(genome):
        if len(asked) == 100:
            raise Interruption
        asked.append(genome)
        return 1

    with pytest.raises(Interruption):
        collect.run(evaluate, tiny.variables, genomes, interrupted, path)
    again = []
    records = collect.run(evaluate, tiny.variables, genomes, lambda genome: again.append(genome) or 1, path)
    # The first chunk of 64 was complete, the second was broken off.
    np.testing.assert_array_equal(again, genomes[64:])
    assert records.done().all()
    for name in ("genome", "score", "correct"):
        np.testing.assert_array_equal(records.read(name), collected[0].read(name, slice(200)))
    collect.run(evaluate, tiny.variables, genomes, pytest.fail, path)


def test_answers_that_are_no_numbers_are_recorded_as_wrong(tiny, evaluate, genomes, tmp_path):
    """argmax would take the first class for them, and some image is of it."""
    broken = jax.tree.map(lambda leaf: leaf, tiny.variables)
    classifier = broken["params"]["head"]["classifier"]
    classifier["kernel"] = np.full_like(classifier["kernel"], np.nan)
    store = collect.run(evaluate, broken, genomes[:3], lambda genome: 1, tmp_path / "records.zarr")
    assert store.done().all()
    assert not store.read("score").any()
    assert not store.read("correct").any()


def test_records_of_other_genomes(tiny, evaluate, genomes, tmp_path):
    path = tmp_path / "records.zarr"
    collect.run(evaluate, tiny.variables, genomes[:3], lambda genome: 1, path)
    for other in (genomes[1:4], genomes[:2]):
        with pytest.raises(ValueError, match=r"holds records of other genomes; pass --redo=collect"):
            collect.run(evaluate, tiny.variables, other, pytest.fail, path)


def test_wrong_options(tiny, split):
    with pytest.raises(ValueError, match=r"score is 'softmax', choose from \['max_softmax', 'margin', 'entropy'\]"):
        collect.Evaluator(tiny.supernet, tiny.images, split, score="softmax")
    for options, said in (
        ({"form": "map"}, r"form is 'map', choose from \['auto', 'mapped', 'vmapped'\]"),
        ({"width": -1}, "width is -1, must be at least 0"),
        ({"form": "mapped", "width": 2}, "width is 2, must be 1, or 0, in the form mapped"),
    ):
        with pytest.raises(ValueError, match=said):
            collect.Evaluator(tiny.supernet, tiny.images, split, **options)


def test_the_width_is_bounded_by_what_a_device_has_and_by_the_images(monkeypatch):
    small = 256 * 32 * 32  # pixels
    width = lambda each, pixels=small, form="auto", asked=0: width_of.chosen(form, asked, each, pixels)  # noqa: E731
    assert [width(each) for each in (1, 2, 3, 4, 6, 7, 16)] == [1, 2, 3, 4, 3, 1, 4]
    assert [width(16, pixels) for pixels in (small // 64, 2 * small, 4 * small, 256 * 224 * 224)] == [4, 2, 1, 1]
    assert [width(16, asked=asked) for asked in (1, 2, 3, 8, 100)] == [1, 2, 2, 8, 16]
    assert (width(16, form="mapped"), width(16, form="vmapped"), width(16, form="vmapped", asked=8)) == (1, 16, 8)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert width(16) == 1


def test_distinct_genomes_of_a_space_that_holds_few():
    space = SearchSpace((Gene("depth", (1, 2)), Gene("kernel", (3, 5), needs=("depth", 1))))
    found = collect.distinct(space, jax.random.key(0), 50)
    assert sorted(map(tuple, found.tolist())) == [(0, 0), (1, 0), (1, 1)]


def test_genomes_that_are_drawn_as_pairs(tiny):
    space = tiny.supernet.space
    apart, paired = (collect.distinct(space, jax.random.key(0), 100, pairs=pairs) for pairs in (False, True))
    for found in (apart, paired):
        assert len(np.unique(np.asarray(jax.vmap(space.canonical)(found)), axis=0)) == 100
        np.testing.assert_array_equal(found[:2], [space.smallest, space.canonical(space.largest)])
    many = [PairSpace(space).fits(found[2:], found[2:]).sum() - 98 for found in (apart, paired)]
    assert many[1] > 40
    assert many[1] > 1.5 * many[0]


def test_both_roles_of_a_subnet_are_recorded(tiny, split, noisy_variables, tmp_path):
    """As the sliced net of either head, with its own statistics."""
    supernet = coupled.coupled(tiny.supernet)
    other = noisy_variables(supernet.largest_net(), (8, 8, 1), seed=5)
    variables = supernet.coupling.add(tiny.variables, other, jax.random.key(2))
    genomes = collect.distinct(supernet.space, jax.random.key(0), 4, pairs=True)
    options = {"calibration_batch": 4, "chunk": 4, "mesh": devices.data_mesh(1)}
    evaluate = collect.Evaluator(supernet, tiny.images[:8], split, **options)
    store = collect.run(evaluate, variables, genomes, macs.table(supernet).exact, tmp_path / "records.zarr")
    assert evaluate.program.jitted._cache_size() == 1
    score, correct, cost = (store.read(name) for name in ("score", "correct", "cost"))
    assert score.shape == (4, 10, 2)
    np.testing.assert_array_equal(cost[:, 0], cost[:, 1])
    for role, own in enumerate((coupled.as_little(variables), variables)):
        net, cut = extract_calibrated(supernet, own, genomes[3], batches(tiny.images[:8], 4))
        logits = np.asarray(jax.jit(lambda v, x, net=net: net.apply(v, x)[0])(cut, split.images), np.float64)
        np.testing.assert_allclose(score[3, :, role], confidence.max_softmax(logits), atol=2e-3)
        np.testing.assert_array_equal(correct[3, :, role], logits.argmax(-1) == split.labels)
    assert np.abs(score[..., 0] - score[..., 1]).max() > 0.05
    alone = collect.Evaluator(tiny.supernet, tiny.images[:8], split, **options)
    with pytest.raises(ValueError, match="records of .* 2 choices, not .* 1; pass --redo=collect"):
        collect.run(alone, tiny.variables, genomes, pytest.fail, tmp_path / "records.zarr")


@pytest.fixture(scope="module")
def two_sizes(noisy_variables):
    """A supernet whose subnets read images of 6 or of 8 pixels, and its variables."""
    supernet = ofa.small_images(
        image_size=8,
        resolutions=(6,),
        channels=1,
        mean=(0.4,),
        std=(0.3,),
        classes=3,
        stem=8,
        stage_widths=(8,),
        stage_strides=(2,),
        head=16,
        widths=(0.5, 1.0),
        depths=(1, 2),
        kernels=(3,),
        expands=(1, 2),
        divisor=4,
    )
    return supernet, noisy_variables(supernet.largest_net(), (8, 8, 1))


def test_each_resolution_is_one_program_and_equals_the_sliced_net(two_sizes, tiny, split):
    supernet, variables = two_sizes
    genomes = collect.distinct(supernet.space, jax.random.key(1), 12)
    evaluate = collect.Evaluator(supernet, tiny.images[:8], split, calibration_batch=4, chunk=4)  # less than asked
    found = evaluate(variables, genomes)
    resolutions = [supernet.arch(genome).resolution for genome in genomes]
    assert evaluate.program.jitted._cache_size() == 2
    few = slice(5)
    assert set(resolutions[few]) == {6, 8}
    answers = zip(genomes[few], resolutions[few], found.score[few], found.correct[few], strict=True)
    for genome, side, score, correct in answers:
        net, own = extract_calibrated(supernet, variables, genome, batches(tiny.images[:8], 4))
        logits = net.apply(own, resized(split.images, side))[0]
        np.testing.assert_allclose(score, confidence.max_softmax(logits), atol=1e-5)
        np.testing.assert_array_equal(correct, np.asarray(logits).argmax(-1) == split.labels)


def evaluator_of(two_sizes, tiny, split, **options):
    return collect.Evaluator(two_sizes[0], tiny.images[:8], split, calibration_batch=4, **options)


@pytest.fixture(scope="module")
def on_one_device(two_sizes, tiny, split):
    """(13 genomes, their answers, one by one on one device)"""
    genomes = collect.distinct(two_sizes[0].space, jax.random.key(1), 13)
    alone = evaluator_of(two_sizes, tiny, split, chunk=5, form="mapped", mesh=devices.data_mesh(1))
    assert alone.at_once == 5
    return genomes, alone(two_sizes[1], genomes)


@pytest.mark.parametrize(
    ("mesh", "options", "width"),
    [
        ((8,), {"chunk": 4}, 1),
        ((8, 2), {"form": "mapped", "chunk": 20}, 1),
        ((1,), {"form": "vmapped", "chunk": 5}, 5),
        ((2,), {"chunk": 12, "width": 2}, 2),
    ],
)
def test_devices_and_forms_answer_alike(two_sizes, tiny, split, on_one_device, mesh, options, width):
    genomes, expected = on_one_device
    evaluate = evaluator_of(two_sizes, tiny, split, **options, mesh=devices.data_mesh(*mesh))
    assert evaluate.width == width
    found = evaluate(evaluate.placed(two_sizes[1]), genomes)
    np.testing.assert_array_equal(found.correct, expected.correct)
    np.testing.assert_allclose(found.score, expected.score, atol=0 if width == 1 else 1e-6)
    assert evaluate.program.jitted._cache_size() == 2
    assert np.ptp(expected.score) > 0.01


def test_each_device_does_its_part(tiny, split, monkeypatch):
    seen = []

    def watched(logits):
        jax.debug.callback(lambda device: seen.append(int(device)), jax.lax.axis_index("data"))
        return confidence.max_softmax(logits)

    monkeypatch.setitem(collect.SCORES, "watched", watched)
    evaluate = collect.Evaluator(
        tiny.supernet, tiny.images[:8], split, calibration_batch=4, score="watched", form="mapped"
    )
    assert evaluate.mesh.size == 8
    assert evaluate.subnets_per_s is None
    evaluate(tiny.variables, collect.distinct(tiny.supernet.space, jax.random.key(0), 13))
    jax.effects_barrier()
    assert collections.Counter(seen) == {device: 2 if device < 5 else 1 for device in range(8)}
    assert evaluate.subnets_per_s is None  # the call that compiled tells no speed
    evaluate(tiny.variables, np.zeros((3, len(tiny.supernet.space.genes)), np.int32))
    assert evaluate.subnets_per_s > 0
