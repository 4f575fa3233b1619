"""The command line: every mistake of a user's is one plain line on stderr and exit code 2."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dynnas_jax import pipeline, progress, recipe, workdir
from dynnas_jax.__main__ import main
from dynnas_jax.stages import spent

DIGITS = Path(__file__).parents[1] / "configs" / "digits.py"
CIFAR = Path(__file__).parents[1] / "configs" / "cifar10.py"


@pytest.fixture
def refused(capsys):
    """refused(arguments...): the one line such a command ends with."""

    def run(*arguments) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert stopped.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("dynnas")
        assert "Traceback" not in lines[0]
        return lines[0]

    return run


@pytest.fixture
def copy(tiny_run, tmp_path):
    return Path(shutil.copytree(tiny_run.workdir, tmp_path / "workdir"))


def config_file(path: Path, body: str) -> Path:
    path.write_text("from ml_collections import ConfigDict\n" + body)
    return path


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: COMMAND"),
        (["explore"], "invalid choice: 'explore'"),
        (["run"], "required: --workdir"),
        (["status"], "required: --workdir"),
        (
            ["run", f"--config={DIGITS}", "--workdir=gs://bucket/run"],
            "--workdir: gs://bucket/run is an address; mount it",
        ),
        (["cost"], "one of the arguments --network --workdir is required"),
        (["search", "--workdir=W"], "one of the arguments --max_macs --max_latency_ms is required"),
        (["search", "--workdir=W", "--max_macs=1", "--max_latency_ms=1"], "not allowed with argument --max_macs"),
        (["table", "--target=x86", "--config=c.py"], "required: --output"),
        (["search", "--workdir=W", "--max_macs=few"], "invalid float value: 'few'"),
        (["status", "--workdir=W", "--verbose"], "unknown argument '--verbose'"),
        (["run", "--workdir=W", "--config=C", "--step=3"], "unknown argument '--step=3'"),
        (["run", "--workdir=W"], "no config given; pass --config=FILE.py"),
        (["run", "--workdir=W", "--config=absent.py"], "there is no file 'absent.py'"),
        (
            ["run", "--workdir=W", f"--config={DIGITS}", "--stages=train,explore"],
            "unknown stage 'explore', choose from",
        ),
        (["run", "--workdir=W", f"--config={DIGITS}", "--redo=explore"], "unknown stage 'explore', choose from"),
    ],
)
def test_wrong_arguments(refused, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_space_may_stand_between_config_and_its_file(refused):
    assert "mode is 'huge', choose from '' and 'tiny'" in refused("run", "--workdir=W", "--config", f"{DIGITS}:huge")


def test_augment_takes_a_config_and_a_png(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "give a name that ends in .png" in refused("augment", f"--config={DIGITS}", "--output=page.jpg")
    assert "no config given" in refused("augment", "--output=page.png")
    assert "required: --output" in refused("augment", f"--config={DIGITS}")
    wrong = refused("augment", f"--config={DIGITS}", "--config.data.augment.rotate=-3.0", "--output=page.png")
    assert "rotate=-3.0 in data.augment.rule: must be 0 or more" in wrong
    assert not list(tmp_path.iterdir())


def test_augment_writes_the_page(tmp_path, quick_programs):
    with quick_programs():
        main(["augment", f"--config={DIGITS}", f"--output={tmp_path / 'page.png'}"])
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


# Configs.


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.stps=3", "unknown config key 'train.stps', did you mean 'train.steps'?"),
        ("train.optimizer.learning_rat=3", "did you mean 'train.optimizer.learning_rate'?"),
        ("trian.steps=3", "did you mean 'train'?"),
        ("seed.x=3", "unknown config key 'seed.x'"),
        ("train.steps", "give a value, as --config.train.steps=VALUE"),
        ("train.steps=many", "'many'"),
        ("train.steps=1.5", "'1.5'"),
        ("train=3", "'3'"),
        ("supernet.squeeze_excite=maybe", "'maybe'"),
        ("supernet.kernels=abc", "supernet.kernels: ('abc',), must be a tuple of ints like (3, 5)"),
        ("supernet.kernels=()", "supernet.kernels: (), must be a tuple of ints like (3, 5)"),
    ],
)
def test_wrong_overrides(refused, tmp_path, override, said):
    assert said in refused("run", f"--workdir={tmp_path}", f"--config={DIGITS}", f"--config.{override}")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1\n", "there is no 'get_config' in it"),
        ("def get_config(:\n", "SyntaxError"),
        ("import absent_module\n", "ModuleNotFoundError: No module named 'absent_module'"),
        ("def get_config(mode=''):\n  return {}\n", "get_config returned dict, must be an ml_collections.ConfigDict"),
        ("def get_config(mode=''):\n  return ConfigDict({'data': {}})\n", "section 'supernet' is missing"),
        ("def get_config(mode=''):\n  return ConfigDict({'dta': {}})\n", "'dta', did you mean 'data'?"),
    ],
)
def test_config_files_that_are_none(refused, tmp_path, body, said):
    file = config_file(tmp_path / "c.py", body)
    line = refused("run", f"--workdir={tmp_path / 'W'}", f"--config={file}")
    assert said in line


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("c.train.stps = 3", "unknown config key 'train.stps', did you mean 'train.steps'?"),
        ("c.data.holdot = 3", "did you mean 'data.holdout'?"),
        ("c.data.augment.flop = True", "did you mean 'data.augment.flip'?"),
        ("c.data.augment.hue = 2.0", "hue=2.0 in data.augment.rule: must be 0 to 0.5"),
        ("c.data.augment.operations = '2'", "operations='2' in data.augment.rule: give a whole number"),
        ("c.train.mixing = {'mixpu': 0.2}", "did you mean 'train.mixing.mixup'?"),
        ("c.train.mixing = {'mixup': -1.0}", "mixup=-1.0 in data.mixing.rule"),
        ("c.train.mixing = {'mixup': 'much'}", "train.mixing: {'mixup': 'much'} holds a value of another type"),
        ("c.supernet.kernel = (3,)", "did you mean 'supernet.kernels'?"),
        ("c.train.optimizer.momentun = 0.5", "did you mean 'train.optimizer.momentum'?"),
        ("c.train.sandwich_rule.temprature = 2.0", "did you mean 'train.sandwich_rule.temperature'?"),
        ("c.search.budget = 3", "did you mean 'search.budgets'?"),
        ("c.dynamic.max_mac_fraction = 0.5", "did you mean 'dynamic.max_macs_fraction'?"),
        ("c.predict.key = 1", "unknown config key 'predict.key'"),
        ("c.train.seed = 1", "unknown config key 'train.seed'"),
        ("c.supernet.network = 'smal_images'", "unknown network 'smal_images', did you mean 'small_images'?"),
        ("c.supernet.network = 'mobilenet_v2'", "a fixed network; choose one with a space"),
        ("c.supernet.act = 'relu7'", "act is 'relu7', choose from"),
        ("c.supernet.padding = 'VALID'", "padding is 'VALID', choose from ['SAME', 'symmetric']"),
        ("c.supernet.epsilon = '1e-3'", "supernet.epsilon is '1e-3', must be a number"),
        ("c.train.start_from = 'absent.pth'", "there is no file of weights 'absent.pth'"),
        ("c.train.initial = {}", "unknown config key 'train.initial'"),
        ("c.train.config = {}", "unknown config key 'train.config'"),
        ("c.train.trackers = ('wanbd',)", "train.trackers: unknown tracker 'wanbd', did you mean 'wandb'?"),
        ("c.train.trackers = 'wandb'", "train.trackers is 'wandb', must be a tuple"),
        ("c.train.wandb = {'projct': 'x'}", "did you mean 'train.wandb.project'?"),
        ("c.train.wandb = {'mode': 'offline'}", "train.wandb is given, but train.trackers does not name 'wandb'"),
        ("c.train.wandb = 'offline'", "section 'train.wandb' is 'offline', must be a dict"),
        ("del c.train.steps", "train.steps is missing"),
        ("del c.data.name", "data.name is missing"),
        ("c.supernet.kernels = ('3',)", "supernet: a value has another type"),
        ("c.search.mutation_share = 1.5", "search.mutation_share is 1.5, must be a number of at least 0 and at most 1"),
        ("c.predict.held_out = 2", "predict.held_out is 2, must be a number of at least 0 and at most 1"),
        ("c.data.holdout = 0", "holdout is 0, but search and thresholds need held-out images"),
        ("c.train.batch_size = 4096", "batch_size 4096 exceeds"),
        ("c.data.augment.pad = 8", "pad must be smaller than the image"),
        ("c.supernet.update(kernels=(3,), expands=(1,), depths=(1,), widths=(1.0,))", "the space has 1 subnets"),
        ("c.collect.subnets = 3", "collect.subnets is 3, must be a number of at least 10"),
        ("c.train.log_every = 0", "train.log_every is 0"),
        ("c.seed = -1", "seed is -1"),
        ("c.dynamic.score = 'luck'", "dynamic.score is 'luck', choose from ['max_softmax'"),
        ("c.dynamic.big_net = 'smallest'", "dynamic.big_net is 'smallest', choose from ['most_accurate', 'largest']"),
        ("c.dynamic.max_accuracy_loss = 0.1", "give exactly one of max_macs_fraction and max_accuracy_loss"),
        ("c.export.precisions = ('fp64',)", "export.precisions is ('fp64',), choose from"),
        ("c.target = 'edgetpu'", "target edgetpu runs nothing but int8: give ('int8',)"),
        ("c.train.new_classifier = True", "train.new_classifier does nothing without train.start_from"),
        ("c.data.mean = (0.5,)", "data.std is None: give both mean and std, 1 numbers each"),
        ("c.data.stream = {}", "'digits' is in memory as a whole"),
        ("c.data.name = 'absent.npz'", "no file"),
        ("c.data.image_size = 100", "image_size is 100, choose from 8 to 64"),
    ],
)
def test_wrong_values_are_noticed_before_any_work(refused, tmp_path, line, said):
    read = f"runpy.run_path({str(DIGITS)!r})['get_config']()"
    body = f"import runpy\ndef get_config(mode=''):\n  c = {read}\n  {line}\n  return c\n"
    file = config_file(tmp_path / "c.py", body)
    assert said in refused("run", f"--workdir={tmp_path / 'W'}", f"--config={file}")
    assert not (tmp_path / "W").exists()


def test_a_missing_dataset_says_where_it_was_looked_for_and_how_to_get_it(refused, tmp_path):
    line = refused("run", f"--workdir={tmp_path / 'W'}", f"--config={CIFAR}:tiny", f"--config.data.data_dir={tmp_path}")
    assert f"dataset 'cifar10' is not prepared in {tmp_path}" in line
    assert "download_and_prepare" in line
    assert "TFDS_DATA_DIR" in line


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((40, 8, 10), np.uint8, "data: images are 8x10, must be square; give data.image_size"),
        ((40, 8, 8), np.float32, "train_images are float32: store uint8 pixels"),
        ((40, 64), np.uint8, "have shape (40, 64): store [n, h, w, c] or [n, h, w]"),
        ((40, 70, 70), np.uint8, "image_size is 70, choose from 8 to 64"),
    ],
)
def test_images_of_a_wrong_shape(refused, tiny_run, tmp_path, shape, dtype, said):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    labels = np.arange(40) % 4
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    options = (f"--config.data.name={tmp_path / 'own.npz'}", "--config.data.holdout=10")
    assert said in refused("run", f"--workdir={tmp_path / 'W'}", f"--config={tiny_run.config_file}", *options)


@pytest.fixture
def own_data(tmp_path):
    """own_data(seed): writes tmp_path/own.npz, 8x8 images of two classes."""

    def write(seed):
        generator = np.random.default_rng(seed)
        images, labels = generator.integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 2
        arrays = {
            f"{split}_{what}": x for split in ("train", "test") for what, x in (("images", images), ("labels", labels))
        }
        np.savez(tmp_path / "own.npz", **arrays)
        return tmp_path / "own.npz"

    return write


def test_images_that_changed_since_a_stage_was_done(refused, tiny_run, own_data, tmp_path):
    """Training is marked as done, since it is the manifest that tells."""
    command = (
        "run",
        f"--workdir={tmp_path / 'W'}",
        f"--config={tiny_run.config_file}",
        f"--config.data.name={own_data(0)}",
    )
    config = {**tiny_run.config, "data": {**tiny_run.config["data"], "name": str(own_data(0))}}
    begun = workdir.Workdir(tmp_path / "W", pipeline.STAGES, config, recipe.sources(config))
    begun.claim()
    begun.start("train")
    begun.finish("train", ())
    assert begun.complete("train")
    own_data(1)
    line = refused(*command)
    assert "what data.name names has changed since stage 'train' was made from it; pass --redo=train" in line


# Working directories.


def test_a_workdir_of_another_config(refused, tiny_run):
    line = refused("run", f"--workdir={tiny_run.workdir}", f"--config={tiny_run.config_file}", "--config.train.steps=9")
    assert "stage 'train' was made with another config" in line
    assert "--redo=train" in line


def test_a_half_written_and_a_corrupt_artifact(refused, tiny_run, copy):
    found = copy / "search" / "found.json"
    found.write_bytes(found.read_bytes()[:-10])
    command = ("run", f"--workdir={copy}", f"--config={tiny_run.config_file}")
    assert f"{found} is missing or damaged; pass --redo=search" in refused(*command)
    (copy / "search" / "manifest.json").write_text("{")
    line = refused(*command)
    assert "manifest.json is corrupt" in line
    assert "--redo=search" in line


def test_a_genome_out_of_the_space(refused, tiny_run, copy):
    """A foreign value in `found.json`, its manifest made to fit."""
    found = copy / "search" / "found.json"
    front, pair = found.read_text().split('"pair"')
    changed, count = re.subn(r'("stage1.block0.expand": )\d', r"\g<1>9", pair, count=1)
    assert count == 1
    found.write_text(f'{front}"pair"{changed}')
    shutil.rmtree(copy / "evaluate")
    pipeline_workdir = workdir.Workdir(copy, pipeline.STAGES, workdir.read_config(copy))
    pipeline_workdir.finish("search", ("found.json", "pair.msgpack"))
    line = refused("run", f"--workdir={copy}", f"--config={tiny_run.config_file}", "--stages=evaluate")
    assert "stage1.block0.expand is 9, choose from [1, 2]" in line


@pytest.mark.parametrize("option", ["--stages=", "--redo="])
def test_an_empty_name_of_a_stage(refused, tmp_path, option):
    assert "unknown stage ''" in refused("run", f"--workdir={tmp_path / 'W'}", f"--config={DIGITS}", option)


def test_a_file_where_the_workdir_should_be(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "is a file, must be a directory" in refused("run", f"--workdir={tmp_path / 'file'}", f"--config={DIGITS}")
    assert "is no working directory of dynnas" in refused("status", f"--workdir={tmp_path / 'file'}")


@pytest.mark.parametrize("command", [["status"], ["report"], ["search", "--max_macs=1e6"]])
def test_a_workdir_that_is_none(refused, tmp_path, command):
    assert "is no working directory of dynnas: it has no config.json" in refused(*command, f"--workdir={tmp_path}")
    (tmp_path / "config.json").write_text("{")
    assert "config.json is corrupt" in refused(*command, f"--workdir={tmp_path}")


def test_status(tiny_run, capsys):
    main(["status", f"--workdir={tiny_run.workdir}"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        [name, "done"] for name in pipeline.NAMES
    ]


def test_a_reader_that_has_enough(tiny_run):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "dynnas_jax", "status", f"--workdir={tiny_run.workdir}"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_report_anew(tiny_run, copy, capsys):
    (copy / "report.html").unlink()
    main(["report", f"--workdir={copy}"])
    said = capsys.readouterr().out
    assert f"report: {copy / 'report.html'}" in said
    assert (copy / "report.html").read_bytes() == (tiny_run.workdir / "report.html").read_bytes()


def test_search_within_a_budget(refused, tiny_run, copy, capsys):
    found = json.loads((tiny_run.workdir / "search" / "found.json").read_text())
    budget = (found["smallest_macs"] + found["largest_macs"]) // 2
    main(["search", f"--workdir={tiny_run.workdir}", f"--max_macs={budget}"])
    best = json.loads(capsys.readouterr().out)
    assert found["smallest_macs"] <= best["macs"] <= budget
    assert best["genome"]["space"] == found["space"]
    assert set(best["arch"]) == {"resolution", "width", "kernel", "expand"}
    for impossible in ("nan", "0", "-5"):
        assert "must be above 0" in refused("search", f"--workdir={copy}", f"--max_macs={impossible}")
    (copy / "predict" / "manifest.json").unlink()
    assert "stage 'predict' is not done" in refused("search", f"--workdir={copy}", f"--max_macs={budget}")


def test_search_within_an_impossible_budget(refused, tiny_run):
    least = json.loads((tiny_run.workdir / "search" / "found.json").read_text())["smallest_macs"]
    line = refused("search", f"--workdir={tiny_run.workdir}", f"--max_macs={least - 1}")
    assert f"no subnet of this space costs {least - 1} MACs or less; the smallest costs {least}" in line


# A full disk.


def no_space(path) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_full_disk_while_an_artifact_is_written(tiny_run, copy, monkeypatch, capsys, quick_programs):
    shutil.rmtree(copy / "evaluate")
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    make = workdir.tempfile.mkstemp

    def full(dir, prefix):
        if "evaluation" in prefix:
            raise no_space(dir)
        return make(dir=dir, prefix=prefix)

    command = ["run", f"--workdir={copy}", f"--config={tiny_run.config_file}", "--stages=evaluate"]
    with monkeypatch.context() as patch:
        patch.setattr(workdir.tempfile, "mkstemp", full)
        with pytest.raises(SystemExit) as stopped:
            main(command)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"dynnas: no space left on the disk for {copy / 'evaluate'}; what was complete is kept\n"
    )
    assert {file: file.read_bytes() for file in before} == before
    assert not (copy / "evaluate" / "manifest.json").exists()
    with quick_programs():  # as the run that it is compared with
        main(command)
    assert (copy / "evaluate/evaluation.json").read_bytes() == (
        tiny_run.workdir / "evaluate/evaluation.json"
    ).read_bytes()


def test_a_full_disk_while_training_resumes(tiny_run, copy, monkeypatch, capsys):
    (copy / "train" / "manifest.json").unlink()
    other = {"tensorboard", progress.TIMES, spent.FILE}  # what was spent until then is added up
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file() and not other & {*file.parts}}
    write = Path.write_text

    def half(path, text, *more, **options):
        if "metrics" in path.name:
            write(path, text[: len(text) // 2])
            raise no_space(path)
        return write(path, text, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(SystemExit) as stopped:
            main(["run", f"--workdir={copy}", f"--config={tiny_run.config_file}"])
    assert stopped.value.code == 2
    assert "no space left on the disk" in capsys.readouterr().err.splitlines()[-1]
    assert {file: file.read_bytes() for file in before} == before


def test_a_full_disk_as_checkpoints_and_records_report_it(refused, monkeypatch, tmp_path):
    """Tensorstore's own words, which a full tmpfs made it say; it raises them as a ValueError."""
    text = "RESOURCE_EXHAUSTED: Failed to write 315 bytes to file 8: No space left on device [os_error_code='28']"

    def run(*_, **__):
        raise ValueError(text)

    monkeypatch.setattr(pipeline, "run", run)
    line = refused("run", f"--workdir={tmp_path}", f"--config={DIGITS}")
    assert line == "dynnas: no space left on the disk; what was complete is kept"


@pytest.mark.parametrize(("text", "said"), [("", ""), ("Unable to allocate 9 GiB", " Unable to allocate 9 GiB")])
def test_too_little_memory(refused, monkeypatch, tmp_path, text, said):
    def run(*_, **__):
        raise MemoryError(text)

    monkeypatch.setattr(pipeline, "run", run)
    assert refused("run", f"--workdir={tmp_path}", f"--config={DIGITS}") == f"dynnas: there is not enough memory{said}"


# Costs.

ARCH = {
    "resolution": 224,
    "width": 1.2,
    "kernel": [[3, 3], [5, 5, 3], [3, 3], [7, 5], [3, 3]],
    "expand": [[3, 4], [4, 4, 3], [6, 6], [3, 3], [6, 6]],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernel": [[3, 3], [5, 4, 3], [3, 3], [7, 5], [3, 3]]}, "kernel 4 in stage 2, choose from [3, 5, 7]"),
        ({"expand": [[3, 4], [4, 4, 5], [6, 6], [3, 3], [6, 6]]}, "expand 5 in stage 2, choose from [3, 4, 6]"),
        ({"kernel": [[3], [5, 5, 3], [3, 3], [7, 5], [3, 3]]}, "stage 1 has 1 entries, choose a depth from [2, 3, 4]"),
        ({"kernel": [[3] * 3, [5] * 3, [3] * 2, [7] * 2, [3] * 2]}, "stage 1 has 3 kernels but 2 expansions"),
        ({"kernel": [[3, 3]] * 4}, "kernel must be 5 lists, one per stage"),
        ({"kernel": 3}, "kernel must be 5 lists, one per stage"),
        ({"width": 1.1}, "width is 1.1, choose from [1.0, 1.2]"),
        ({"width": "wide"}, "width is 'wide', must be one number"),
        ({"resolution": 8}, "resolution is 8, must be an integer of at least 32"),
        ({"resolution": "224"}, "resolution is '224'"),
        ({"depth": [2]}, "an arch file is an object with the keys"),
    ],
)
def test_an_arch_the_network_does_not_have(refused, tmp_path, change, said):
    file = tmp_path / "arch.json"
    file.write_text(json.dumps(ARCH | change))
    assert said in refused("cost", "--network=ofa_mobilenet_v3", f"--arch={file}")


def test_arch_files_that_are_none(refused, tmp_path):
    file = tmp_path / "arch.json"
    command = ("cost", "--network=ofa_mobilenet_v3", f"--arch={file}")
    assert f"{file}: No such file or directory" in refused(*command)
    file.write_text("{'resolution': 224}")
    assert f"{file} is not JSON" in refused(*command)
    file.write_bytes(b"\xff\xfe")
    assert f"{file} is not JSON" in refused(*command)
    file.write_text("[]")
    assert "arch file" in refused(*command)
    file.write_text("{}")
    assert "takes no arch file" in refused("cost", "--network=mobilenet_v2", f"--arch={file}")
    assert "pass --arch=FILE" in refused("cost", "--network=small_images")
    assert "unknown network 'mobilenet_v4', did you mean 'mobilenet_v2'?" in refused("cost", "--network=mobilenet_v4")


def printed_cost(capsys, *arguments) -> dict:
    main(["cost", *arguments])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_cost_of_a_fixed_network_is_the_published_one(capsys, published):
    expected = next(row for row in published["fixed_networks"] if row["name"] == "mobilenet_v3_small")
    found = printed_cost(capsys, "--network=mobilenet_v3_small")
    assert found == {"macs": expected["macs"], "params": expected["params"]}
    assert all(type(value) is int for value in found.values())


@pytest.mark.parametrize("resolution", [236, 128])
def test_cost_of_an_arch_file_is_the_published_one(capsys, published, tmp_path, resolution):
    """236 is a resolution the space does not have, but an arch file may."""
    expected = next(row for row in published["ofa_specialised"] if row["arch"]["resolution"] == resolution)
    (tmp_path / "arch.json").write_text(json.dumps(expected["arch"]))
    found = printed_cost(capsys, f"--network={expected['network']}", f"--arch={tmp_path / 'arch.json'}")
    assert found == {"macs": expected["macs"], "params": expected["params"]}


def test_cost_of_a_subnet_of_a_run(capsys, tiny_run, tmp_path):
    """Its space has stages and widths of its own, which the name of the network does not tell."""
    pair = json.loads((tiny_run.workdir / "search" / "found.json").read_text())["pair"]
    for which in ("little", "big"):
        (tmp_path / "arch.json").write_text(json.dumps(pair[which]["arch"]))
        found = printed_cost(capsys, f"--workdir={tiny_run.workdir}", f"--arch={tmp_path / 'arch.json'}")
        assert found == {"macs": pair[which]["macs"], "params": pair[which]["params"]}


def test_cost_of_a_pair_of_a_run(capsys, tiny_run, tmp_path, refused):
    """What the run itself found of its pair; little and big alone are the two nets."""
    found = json.loads((tiny_run.workdir / "search" / "found.json").read_text())["pair"]
    archs = {which: found[which]["arch"] for which in ("little", "big")}
    file, run = tmp_path / "pair.json", f"--workdir={tiny_run.workdir}"
    file.write_text(json.dumps(archs))
    told = printed_cost(capsys, run, f"--arch={file}", "--exit_rate=0.75")
    for which in ("little", "big"):
        assert (told["macs"][which], told["params"][which]) == (found[which]["macs"], found[which]["params"])
    assert told["macs"]["both"] == told["macs"]["little"] + told["macs"]["big"] - told["macs"]["stem"]
    assert told["macs"]["average"] == 0.75 * told["macs"]["little"] + 0.25 * told["macs"]["both"]
    assert told["params"]["both"] < told["params"]["little"] + told["params"]["big"]
    assert "average" not in printed_cost(capsys, run, f"--arch={file}")["macs"]
    command = ("cost", run, f"--arch={file}")
    assert "--exit_rate is 1.5, must be a number from 0 to 1" in refused(*command, "--exit_rate=1.5")
    assert "pass --workdir" in refused("cost", "--network=small_images", f"--arch={file}")
    file.write_text(json.dumps({"little": archs["big"], "big": archs["little"]}))
    assert "more than its big with" in refused(*command)
    file.write_text(json.dumps({**archs, "little": {**archs["little"], "resolution": 16}}))
    assert "little's resolution is 16 and big's 8: a pair, which shares its stem, has one" in refused(*command)
    file.write_text(json.dumps({**archs, "big": {"width": 1}}))
    assert "big: an arch file is an object with the keys" in refused(*command)
    file.write_text(json.dumps(archs["big"]))
    assert "--exit_rate is for a pair" in refused(*command, "--exit_rate=0.5")


def test_cost_of_a_net_of_several_exits(capsys, tmp_path):
    """Lists, one number an exit, cumulative; counted by hand: a stem of two scales, a layer of both, one of the coarse one."""
    content = {"resolution": 8, "classes": 3, "blocks": 2, "base": 1, "step": 1, "channels": 4, "growth": 2}
    content |= {"factors": [1, 2], "bottlenecks": [0, 0], "reduction": 0}
    (tmp_path / "arch.json").write_text(json.dumps(content))
    found = printed_cost(capsys, "--network=msdnet_cifar", f"--arch={tmp_path / 'arch.json'}")

    def head(inputs):
        return 4 * 9 * inputs * 128 + 9 * 128 * 128 + 128 * 3

    stem = 64 * 9 * 3 * 4 + 16 * 9 * 4 * 8
    layers = [64 * 9 * 4 * 2 + 16 * 9 * (4 + 8) * 2, 16 * 9 * (6 + 12) * 2]
    first = stem + layers[0] + head(12)
    assert found["macs"] == [first, first + layers[1] + head(16)]
    assert all(type(value) is int for values in found.values() for value in values)
    assert found["params"][0] < found["params"][1]


def test_cost_of_a_family_s_arch_file(capsys, published, tmp_path, refused):
    row = next(row for row in published["residual"]["nets"] if "shortcut" in row["arch"])
    (tmp_path / "arch.json").write_text(json.dumps(row["arch"]))
    command = (f"--network={row['network']}", f"--arch={tmp_path / 'arch.json'}")
    assert printed_cost(capsys, *command) == {"macs": row["macs"], "params": row["params"]}
    (tmp_path / "arch.json").write_text('{"depth": [3, 3, 3]}')
    assert "unknown key 'depth', did you mean 'depths'?" in refused("cost", *command)


def test_cost_of_an_attentive_nas_arch_file(capsys, published, tmp_path):
    (row,) = (row for row in published["attentive_nas"]["nets"] if row["name"] == "a6")
    (tmp_path / "a6.json").write_text(json.dumps(row["arch"]))
    assert printed_cost(capsys, "--network=attentive_nas", f"--arch={tmp_path / 'a6.json'}")["macs"] == row["macs"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--config.target=../../x",), "target is '../../x', choose from ['edgetpu', 'pi4', "),
        (("--config.train.optimizer.learning_rate=-1.0",), "optimizer: learning_rate is -1.0, must not be negative"),
        (("--config.data.augment.rotate=-1.0",), "rotate=-1.0"),
    ],
)
def test_values_found_wrong_before_anything_is_done(refused, tmp_path, options, said):
    assert said in refused("run", f"--workdir={tmp_path / 'W'}", f"--config={DIGITS}", *options)
    assert not (tmp_path / "W").exists()


def test_an_option_the_recipe_leaves_to_its_default(refused, tmp_path):
    """The value arrives where it is used: an impossible one is refused there."""
    command = ("run", f"--workdir={tmp_path / 'W'}", f"--config={DIGITS}")
    line = refused(*command, "--config.train.optimizer.momentum=1.5")
    assert "optimizer: momentum is 1.5, must be at least 0 and below 1" in line
    assert "did you mean 'train.optimizer.momentum'?" in refused(*command, "--config.train.optimizer.momentun=0.5")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("train = 5", "config: section 'train' is 5, must be a dict"),
        ("train = {'steps': 7.5}", "train.steps is 7.5, must be a whole number"),
        ("train = {'steps': 5, 'sandwich_rule': {'temperature': 'hot'}}", "train.sandwich_rule"),
    ],
)
def test_values_of_a_wrong_type_in_the_file(refused, tmp_path, body, said):
    config = f"def get_config(mode=''):\n  c = ConfigDict()\n  c.data = {{'name': 'digits'}}\n  c.{body}\n"
    config += "  c.supernet = {'network': 'small_images'}\n  c.dynamic = {'max_macs_fraction': 0.5}\n  return c\n"
    file = config_file(tmp_path / "c.py", config)
    assert said in refused("run", f"--workdir={tmp_path / 'W'}", f"--config={file}")
