"""The table of a small space: real TFLite files on a device whose time is a known function of what runs on it."""

import itertools
import json
import math

import jax
import numpy as np
import pytest

from dynnas_jax.costs import latency, macs
from dynnas_jax.dynamic import protocol
from dynnas_jax.dynamic.routers import STATISTICS, Router
from dynnas_jax.export import flatbuffer, machine, rounds
from dynnas_jax.networks import big_little, fixed, multi_supernet
from dynnas_jax.stages import cost_tables, table

CALL_S, PER_MAC_S, IN_A_NET = 3e-6, 1e-9, 1.25  # in a net its weights are not in the cache any more
OPTIONS = {"precision": "fp32", "threads": 1, "nets": 8, "rounds": 3}


@pytest.fixture(scope="module")
def supernet(small_space):
    """Eight blocks, twelve subnets of five or six."""
    return small_space(
        stem=8,
        stage_widths=(8,),
        stage_strides=(2,),
        head=16,
        widths=(1.0,),
        depths=(1, 2),
        kernels=(3,),
        expands=(1, 2, 3),
    )


@pytest.fixture(scope="module")
def subnets(supernet):
    return [np.asarray(g, np.int32) for g in itertools.product(*map(range, supernet.space.sizes))]


class Device:
    """Opens files as LiteRT would; a run takes a time of the file's MACs, on a clock that stands still else.

    In all a block takes CALL_S and PER_MAC_S for each MAC, a net CALL_S and IN_A_NET times that.
    """

    def __init__(self, supernet, subnets, folder, breaks_after=None):
        self.now, self.runs, self.breaks_after, self.scratch = 0.0, 0, breaks_after, folder / "scratch.tflite"
        self.round = 0  # runs of one: the warm-up of each part, and as many as a burst has
        self.nets = {macs.table(supernet).exact(genome) for genome in subnets}

    def open(self, content, threads):
        assert threads == 1
        self.scratch.write_bytes(content)
        count = sum(own.macs for own in flatbuffer.work(self.scratch).values())
        seconds = CALL_S + PER_MAC_S * count * (IN_A_NET if count in self.nets else 1)
        self.round += 2 + min(math.ceil(rounds.BURST_S / seconds), rounds.MOST)

        def run():
            self.runs += 1
            if self.runs == self.breaks_after:
                raise KeyboardInterrupt
            self.now += seconds

        return run

    def options(self):
        return {**OPTIONS, "open_model": self.open, "clock": lambda: self.now}


@pytest.fixture(scope="module")
def built(supernet, subnets, tmp_path_factory):
    """(the file of a table that was interrupted twice, how many files were there when it went on)."""
    folder = tmp_path_factory.mktemp("table")
    output, partial = folder / "table.json", folder / "table.json.partial"
    counts = []
    for breaks_after in (1, 2000, None):
        counts.append({path: path.stat().st_mtime_ns for path in partial.glob("*.tflite")})
        device = Device(supernet, subnets, folder, breaks_after)
        if breaks_after is None:
            table.of_supernet(supernet, output, "x86", **device.options())
        else:
            with pytest.raises(KeyboardInterrupt):
                table.of_supernet(supernet, output, "x86", **device.options())
            assert not output.exists()
    return output, counts, device


def test_the_sum_of_the_rows_is_the_whole_net(supernet, subnets, built):
    cost = latency.load(built[0]).of(supernet)
    for genome in subnets:
        work = PER_MAC_S * macs.table(supernet).exact(genome)
        assert cost.exact(genome) == pytest.approx(1e3 * (CALL_S + IN_A_NET * work), rel=1e-5)


@pytest.mark.parametrize("reuse", [(), ("stage1_block0",)], ids=["plain", "input reuse"])
def test_every_exit_of_a_net_is_a_part_that_its_blocks_add_up_to(supernet, reuse):
    several = multi_supernet.build(supernet, exits=3, ratios=(0.5, 1.0), reuse=reuse)
    blocks = {name: macs.jaxpr_macs(one.traced.jaxpr.jaxpr) for name, one in latency.distinct(several).items()}
    for genome in (several.space.smallest, several.space.largest, several.space.sample(jax.random.key(1))):
        parts = table.net_parts(several, np.asarray(genome), "conv")
        assert [part.name.split()[-1] for part in parts] == ["exit1", "exit2", "exit3"]
        for part in parts:
            shapes = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in part.function.shapes.items()}
            assert sum(blocks[name] for name in part.blocks) == macs.macs(part.function.call, shapes) > 0


def test_too_few_nets_are_told_before_anything_is_timed(supernet, tmp_path):
    def opened(*_):
        raise AssertionError

    facts = {"image_shape": [16, 16, 3], "classes": [""] * 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    small = {"blocks": 3, "base": 1, "step": 1, "channels": 4, "growth": 4, "factors": (1, 2), "head_width": 4}
    of_three = fixed.build({"name": "msdnet_cifar", **small}, facts)
    for one, options in ((supernet, {"nets": 3}), (of_three, {})):
        with pytest.raises(ValueError, match="3 nets to fit the blocks to, must be at least 4"):
            table.of_supernet(one, tmp_path / "t.json", "x86", **OPTIONS | options, open_model=opened)
    assert not list(tmp_path.iterdir())


def test_what_was_done_before_an_interruption_is_not_done_again(built):
    output, (none, after_one, after_two), device = built
    assert none == {}
    assert after_one
    assert after_two == after_one  # the same files, not written anew
    assert 1000 < device.round < 2000
    assert device.runs == 2 * device.round  # the first of the three had been finished
    assert not output.with_name("table.json.partial").exists()


def test_the_device_stands_in_the_table(supernet, built):
    found = latency.load(built[0])
    assert found.target == "x86"
    assert found.space == supernet.space.fingerprint
    assert found.device["precision"] == "fp32"
    assert found.device["threads"] == 1
    assert found.device["board"]
    assert "ai-edge-litert" in found.device["versions"]
    assert found.fit["nets"] == 8
    assert len(found.rows) == len(latency.distinct(supernet)) == 8


def test_a_folder_that_was_begun_for_something_else(supernet, subnets, tmp_path):
    device = Device(supernet, subnets, tmp_path)
    partial = tmp_path / "table.json.partial"
    partial.mkdir()
    (partial / "plan.json").write_text(json.dumps({"space": "another"}))
    with pytest.raises(ValueError, match="was begun for another table; remove it"):
        table.of_supernet(supernet, tmp_path / "table.json", "x86", **device.options())
    (partial / "plan.json").unlink()
    (partial / "thesis.tex").touch()
    with pytest.raises(ValueError, match="was not made by dynnas"):
        table.of_supernet(supernet, tmp_path / "table.json", "x86", **device.options())


@pytest.mark.parametrize(
    "other",
    [
        {"facts": lambda: {"board": "Raspberry Pi 5", "cpu": None, "architecture": "aarch64"}},
        {"versions": lambda: {"python": "3.11.2", "ai-edge-litert": "9.9.9"}},
    ],
    ids=["another machine", "another LiteRT"],
)
def test_rounds_of_another_device_do_not_go_on(supernet, subnets, tmp_path, monkeypatch, other):
    """A folder on a shared disk, or begun before LiteRT was upgraded: two devices would be one table."""
    device, output = Device(supernet, subnets, tmp_path, breaks_after=1), tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        table.of_supernet(supernet, output, "x86", **device.options())
    device.breaks_after = None
    with monkeypatch.context() as patched:
        for name, function in other.items():
            patched.setattr(table.machine, name, function)
        with pytest.raises(ValueError, match=r"was begun for another table"):
            table.of_supernet(supernet, output, "x86", **device.options())
    table.of_supernet(supernet, output, "x86", **device.options())
    assert latency.load(output).device["versions"] == table.machine.versions()


def test_nets_spread_evenly_over_the_cost(supernet):
    cost = macs.table(supernet)
    genomes = table.stratified(supernet, cost, 5, table.jax.random.key(0))
    found = [cost.exact(genome) for genome in genomes]
    every = {cost.exact(np.asarray(g)) for g in itertools.product(*map(range, supernet.space.sizes))}
    assert len(set(found)) == 5
    assert (found[0], found[-1]) == (min(every), max(every))
    assert found == sorted(found)


CONFIG = {"seed": 0, "data": {"name": "digits"}, "supernet": {"network": "small_images"}}


def test_jax_times_the_blocks_where_there_is_no_litert(supernet, tmp_path):
    table.of_supernet(supernet, tmp_path / "table.json", "x86", **OPTIONS | {"runtime": "jax", "nets": 4, "rounds": 1})
    found = latency.load(tmp_path / "table.json")
    assert found.device["runtime"] == "JAX on cpu"
    assert found.device["board"] == (table.machine.facts()["board"] or table.machine.facts()["cpu"])
    assert "jax" in found.device["versions"]
    assert len(found.rows) == len(latency.distinct(supernet))
    assert found.of(supernet).exact(supernet.space.largest) > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"runtime": "tensorrt"}, "runtime is 'tensorrt', choose from"),
        ({"runtime": "jax", "precision": "int8"}, "runtime jax times blocks in fp32"),
        ({"runtime": "jax", "threads": 2}, "with threads of its own"),
        ({"threads": 0}, "threads is 0, must be a number of at least 1"),
        ({"threads": 3_000_000_000}, "threads=3000000000: give a whole number of at least 1 and at most 1024"),
        ({"nets": 3}, "nets is 3, must be a number of at least 4"),
        ({"rounds": 0}, "rounds is 0, must be a number of at least 1"),
        ({"precision": "int4"}, "precision is 'int4', choose from"),
    ],
)
def test_options_that_cannot_serve(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        table.build({"supernet": {}}, tmp_path / "table.json", target="x86", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("gpu", "target is 'gpu'"),
        ("edgetpu", "there are no latency tables of blocks"),
        ("pi4", "is no pi4: run the same command on one"),
    ],
)
@pytest.mark.parametrize("runtime", ["litert", "jax"])
def test_a_target_that_this_machine_is_not(tmp_path, runtime, target, said):
    with pytest.raises(ValueError, match=said):
        table.build(CONFIG, tmp_path / "t.json", target=target, runtime=runtime)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["pi4", "jetson_nano", "android"])
def test_another_board_of_the_same_architecture(tmp_path, monkeypatch, target):
    facts = {"board": "Raspberry Pi 5 Model B Rev 1.0", "cpu": None, "architecture": "aarch64"}
    monkeypatch.setattr(table.machine, "facts", lambda: facts)
    with pytest.raises(ValueError, match=rf"this machine \(Raspberry Pi 5 Model B Rev 1.0\) is no {target}"):
        table.build(CONFIG, tmp_path / "t.json", target=target)
    assert list(tmp_path.iterdir()) == []


def test_boards_that_may_be_of_the_target():
    own = {"board": "Raspberry Pi 4 Model B Rev 1.4", "architecture": "aarch64"}
    table._check_machine(table.targets.target("pi4"), own)
    table._check_machine(table.targets.target("pi4"), {**own, "board": None})  # in a container, say
    table._check_machine(table.targets.target("android"), {**own, "board": "Google Tensor"})
    with pytest.raises(ValueError, match="is no pi4"):
        table._check_machine(table.targets.target("pi4"), {**own, "board": "linux,dummy-virt"})


def test_a_table_that_another_board_was_measured_for(supernet, made_up_table, tmp_path):
    found = made_up_table(supernet, 0.25)
    latency.save(
        found._replace(target="pi4", device={**found.device, "board": "Raspberry Pi 5 Model B"}), tmp_path / "t"
    )
    with pytest.raises(ValueError, match="says target 'pi4', but was measured on a Raspberry Pi 5"):
        cost_tables.read_latency_table(tmp_path / "t", supernet, "pi4")


def test_what_makes_a_table_s_milliseconds_others_than_the_files_is_said(supernet, made_up_table, monkeypatch, capsys):
    """A computer's table on another one, or of another runtime; a precision that no file has. Boards need not be here."""
    cpu, versions = "a cpu", {"ai-edge-litert": "2.3.0"}
    facts = {"board": None, "cpu": cpu, "architecture": "x86_64"}
    monkeypatch.setattr(machine, "facts", lambda: facts)
    monkeypatch.setattr(machine, "versions", lambda: versions)
    found = made_up_table(supernet, 0.25)

    def said(config=None, target=None, **device):
        own = found._replace(device={**found.device, "board": cpu, "versions": versions, **device})
        cost_tables.tell_doubts(own._replace(target=target or "x86"), {"target": "x86", **(config or {})}, target)
        return capsys.readouterr().err

    assert said() == said(target="pi4", board="Raspberry Pi 4 Model B") == ""
    assert "measured on another cpu, this machine is a cpu: budgets are millis" in said(board="another cpu")
    assert "measured with ai-edge-litert 2.1.0, here is 2.3.0" in said(versions={"ai-edge-litert": "2.1.0"})
    fp32 = {"export": {"precisions": ("fp32",)}}
    assert said(fp32, precision="fp32") == ""
    assert said(fp32).splitlines() == [
        "dynnas: the latency table was measured in int8, the run's files for x86 are fp32"
    ]
    assert said(fp32, target="pi4") == ""  # whose files would be of the target's own precisions
    facts["architecture"] = "aarch64"
    assert said(board="another cpu") == ""


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "t.json").write_text("mine")
    with pytest.raises(ValueError, match="exists already; remove it"):
        table.build(CONFIG, tmp_path / "t.json", target="x86")
    assert (tmp_path / "t.json").read_text() == "mine"
    with pytest.raises(ValueError, match="there is no folder"):
        table.build(CONFIG, tmp_path / "gone" / "t.json", target="x86")


def test_a_table_of_a_device_that_restricts_more_than_the_config_s_own_is_of_the_config_s_space(tmp_path, monkeypatch):
    """A finished run is searched for another device: its space is the run's, kernels of 7x7 included."""
    section = {"stage_widths": [4], "stage_strides": [2], "stem": 4, "head": 4, "kernels": [3, 5, 7], "image_size": 8}
    section |= {"widths": [1.0], "depths": [1, 2], "expands": [1]}
    config = {**CONFIG, "target": "x86", "supernet": {"network": "small_images", **section}}
    facts = {"board": "Raspberry Pi 4 Model B Rev 1.4", "cpu": None, "architecture": "aarch64"}
    monkeypatch.setattr(table.machine, "facts", lambda: facts)
    path = tmp_path / "pi4.json"
    table.build(config, path, target="pi4", precision="fp32", nets=4, rounds=1)
    own, restricted = (table.supernet_of({**config, "target": name}) for name in ("x86", "pi4"))
    assert own.space.fingerprint != restricted.space.fingerprint
    found = cost_tables.read_latency_table(path, own, "pi4")
    assert found.target == "pi4"
    assert found.of(own).exact(own.space.largest) > 0
    with pytest.raises(ValueError, match="with the run's own config, --config.target with it, builds one"):
        cost_tables.read_latency_table(path, restricted, "pi4")


@pytest.mark.parametrize(
    "router",
    [
        Router("learned", units=4),
        Router("difficulty", statistics=("mean",)),
        Router("difficulty", "stem", "margin", tuple(STATISTICS)),
    ],
)
def test_a_router_is_timed_at_every_feature_map_that_it_may_look_at(supernet, subnets, router):
    """For each pair there is one part: on what the router sees of it, with the work that it is counted with."""
    parts = {part.name: part for part in table._router_parts(supernet, latency.distinct(supernet), router)}
    spec, seen = latency.router_spec(router.to_json()), set()
    for genome in subnets[::5]:
        pair = big_little.build(supernet, genome, supernet.space.largest)
        features, _ = protocol.looked_at(pair, router.place)
        part = parts[latency.identity((tuple(features.shape),), spec)]
        seen.add(part.name)
        params = table.drawn_variables(table._router_shapes(router, features.shape))
        seen_of = {name: np.ones(shape, np.float32) for name, shape in part.function.shapes.items()}
        work = macs.macs(part.function.call, seen_of)
        assert work == protocol.router_cost(pair, router, params).macs > 0
        assert part.function.call(seen_of)["output0"].shape == (1,)
    assert seen == set(parts)


def test_a_confidence_is_no_part_of_a_file(supernet):
    assert table._router_parts(supernet, latency.distinct(supernet), Router()) == []
