"""metrics.jsonl after a crash and a resume, and what TensorBoard and Weights & Biases read of it."""

import contextlib
import importlib.util
import json
import os
import struct

import jax
import pytest
import wandb
from tensorboardX.proto.event_pb2 import Event
from wandb.proto.wandb_internal_pb2 import Record

from dynnas_jax.train import metrics
from dynnas_jax.train.metrics import Log


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_one_object_a_line(tmp_path):
    with Log(tmp_path / "train") as log:
        log.write(1, {"loss": 0.5})
        log.write(2, {"loss": 0.25, "gradient_norm": 3.0})
        # A run that is killed has lost nothing.
        assert len(rows(tmp_path / "train")) == 2
    found = rows(tmp_path / "train")
    assert [set(row) for row in found] == [{"step", "loss", "time_s"}, {"step", "loss", "gradient_norm", "time_s"}]
    assert [row["step"] for row in found] == [1, 2]
    assert found[0]["time_s"] <= found[1]["time_s"]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    with Log(tmp_path) as log:
        for step in range(1, 6):
            log.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    with Log(tmp_path, 3) as log:
        log.write(4, {"loss": 40.0})
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_run_from_the_start_drops_everything(tmp_path):
    with Log(tmp_path) as log:
        log.write(1, {"loss": 1.0})
    with Log(tmp_path):
        pass
    assert rows(tmp_path) == []


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Log(None) as log:
        log.write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def events(directory):
    """(step, name, value) of every scalar, read as TensorBoard does: length, checksum, event, checksum."""
    found = []
    for file in sorted((directory / "tensorboard").iterdir()):
        raw = file.read_bytes()
        while raw:
            (length,) = struct.unpack("<Q", raw[:8])
            event = Event.FromString(raw[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            raw = raw[16 + length :]
    return found


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with Log(tmp_path, trackers=("tensorboard",)) as log:
        log.write(1, {"loss": 0.5})
        log.write(2, {"loss": 0.25, "gradient_norm": 3.0})
    assert events(tmp_path) == [(1, "loss", 0.5), (2, "loss", 0.25), (2, "gradient_norm", 3.0)]


def test_of_several_processes_one_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Log(tmp_path, trackers=("tensorboard",)) as log:
        log.write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


# Weights & Biases.

CONFIG = {"seed": 0, "train": {"steps": 5, "optimizer": {"learning_rate": 0.1}}, "supernet": {"widths": (0.5, 1.0)}}
BLOCK, HEADER = 32768, 7


@pytest.fixture(scope="module", autouse=True)
def _only_here(tmp_path_factory):
    """Nothing of W&B outside a folder of this module, nothing sent, no process left; no account."""
    folder = tmp_path_factory.mktemp("home")
    places = {name: str(folder) for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")}
    places["NETRC"] = str(folder / "netrc")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        quiet = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_X_DISABLE_STATS": "true"}
        for name, value in {**places, **quiet}.items():
            patch.setenv(name, value)
        yield
        wandb.teardown()


def records(file):
    """The records of a .wandb file: a file header, then fragments (checksum, length, kind) that cross no block of 32 KiB."""
    raw = file.read_bytes()
    assert raw[:4] == b":W&B"
    found, place, record = [], HEADER, b""
    while place < len(raw):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, place)
        record += raw[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last of several fragments
            found.append(Record.FromString(record))
            record = b""
    return found


def told(found):
    """[(step, values)] in the order in which W&B has them, without what it adds itself."""
    histories = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    return [(row["_step"], {k: v for k, v in row.items() if not k.startswith("_")}) for row in histories]


def merged(directory):
    """[(step, values)] of metrics.jsonl, one for each step."""
    steps = {}
    for row in rows(directory):
        steps.setdefault(row["step"], {}).update({k: v for k, v in row.items() if k not in ("step", "time_s")})
    return list(steps.items())


def files(directory):
    return sorted(directory.glob("wandb/offline-run-*/*.wandb"))


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """(directory, what was logged by the first start) of a run that began twice, the second time at its step 4."""
    directory = tmp_path_factory.mktemp("run") / "train"
    how = {"trackers": ("tensorboard", "wandb"), "config": CONFIG}
    with Log(directory, wandb={"project": "mine", "name": "first", "mode": "offline"}, **how) as log:
        for step in range(1, 7):
            log.write(step, {"loss": 1 / step, "loss_largest": 1e-7 * step, "images_per_s": 1e5 / 3})
            if step % 2 == 0:
                log.write(step, {"holdout_accuracy_largest": step / 7})
    wandb.teardown()  # its process may still be writing the file
    (file,) = files(directory)
    first = records(file), merged(directory)
    file.write_bytes(file.read_bytes()[:HEADER])  # as a killed process leaves it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_PROJECT", "theirs")
        patch.setenv("WANDB_MODE", "offline")
        wandb.teardown()  # it reads the environment once
        with contextlib.suppress(KeyboardInterrupt), Log(directory, 4, **how) as log:
            log.write(5, {"loss": 50.0})
            log.write(6, {"loss": 60.0})
            raise KeyboardInterrupt
        wandb.teardown()
    return directory, first


def test_wandb_gets_the_same_numbers(offline):
    _, (found, expected) = offline
    assert told(found) == expected
    assert [step for step, _ in expected] == list(range(1, 7))
    assert set(expected[1][1]) == {"loss", "loss_largest", "images_per_s", "holdout_accuracy_largest"}


def test_wandb_gets_the_config(offline):
    (run,) = [record.run for record in offline[1][0] if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: config[key] for key in CONFIG} == json.loads(json.dumps(CONFIG))
    assert (run.project, run.display_name) == ("mine", "first")


def test_a_resumed_run_is_the_same_and_whole(offline):
    directory, (found, expected) = offline
    assert len(files(directory)) == 2
    (before,), again = (
        [r.run for r in found if r.HasField("run")],
        records(max(files(directory), key=os.path.getmtime)),
    )
    (run,) = [record.run for record in again if record.HasField("run")]
    assert run.run_id == before.run_id == (directory / "wandb_run_id").read_text()
    assert run.project == "theirs"
    assert told(again) == merged(directory) == [*expected[:4], (5, {"loss": 50.0}), (6, {"loss": 60.0})]
    codes = [[record.exit.exit_code for record in start if record.HasField("exit")] for start in (found, again)]
    assert codes == [[0], [1]]


def test_wandb_stays_below_the_folder(offline):
    names = {path.name for path in offline[0].iterdir()}
    assert names == {"metrics.jsonl", "tensorboard", "wandb", "wandb_run_id"}


class OnlineRun(contextlib.nullcontext):
    """A run of which the server has some steps."""

    def __init__(self, starting_step):
        super().__init__(self)
        self.starting_step, self.logged = starting_step, []

    def log(self, values, step):
        self.logged.append((step, values))


@pytest.mark.parametrize("known", [0, 2, 4, 6])
def test_a_resumed_run_tells_what_is_not_known_yet(tmp_path, monkeypatch, known):
    """The server may have less than metrics.jsonl (the process was killed before it sent) or more than the checkpoint."""
    with Log(tmp_path) as log:
        for step in range(1, 6):
            log.write(step, {"loss": float(step)})
    run, begun = OnlineRun(known + 1 if known else 0), {}
    monkeypatch.setattr(wandb, "init", lambda **options: begun.update(options) or run)
    with Log(tmp_path, 3, trackers=("wandb",)) as log:
        for step in range(4, 8):
            log.write(step, {"loss": float(step)})
    assert run.logged == [(step, {"loss": float(step)}) for step in range(known + 1, 8)]
    assert (begun["resume"], begun["id"]) == ("allow", (tmp_path / "wandb_run_id").read_text())
    assert (begun["project"], begun["mode"]) == ("dynnas_jax", None)


def test_what_wandb_does_not_take_ends_in_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise wandb.errors.CommError("no such entity")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(ValueError, match=r"^train\.wandb: no such entity \(mode='offline' needs neither"):
        Log(tmp_path, trackers=("tensorboard", "wandb"))


# Which trackers.


@pytest.fixture
def without(monkeypatch):
    """without(module): it is not installed."""
    find = importlib.util.find_spec

    def lack(module):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))

    return lack


def test_tensorboard_by_default_where_it_is_installed(without):
    assert metrics.chosen(None, None) == ("tensorboard",)
    assert metrics.chosen((), None) == ()
    assert metrics.chosen(["wandb", "tensorboard", "wandb"], {"mode": "offline"}) == ("wandb", "tensorboard")
    without("tensorboardX")
    assert metrics.chosen(None, None) == ()


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "tensorboardX")])
def test_a_tracker_that_is_not_installed(without, name, module):
    without(module)
    with pytest.raises(ValueError, match=rf"{name}' is not installed: pip install \"dynnas_jax\[{name}\]\"$"):
        metrics.check((name,), None)


@pytest.mark.parametrize(
    ("trackers", "options", "said"),
    [
        ("wandb", None, r"train\.trackers is 'wandb', must be a tuple such as \('tensorboard', 'wandb'\)"),
        (("wandb", "tensorbord"), None, "unknown tracker 'tensorbord', did you mean 'tensorboard'?"),
        ((3,), None, "unknown tracker 3"),
        (None, {"mode": "offline"}, r"train\.wandb is given, but train\.trackers does not name 'wandb'"),
        (("tensorboard",), {"project": "x"}, "does not name 'wandb'"),
        (("wandb",), {"mode": "of"}, r"train\.wandb\.mode is 'of', choose from \['online', 'offline', 'disabled'\]"),
        (("wandb",), {"mode": "offline", "name": 5}, r"train\.wandb\.name is 5, must be a name"),
        (("wandb",), {"mode": "offline", "project": "a/b"}, r"train\.wandb\.project: .*'a/b'.*cannot contain"),
        (("wandb",), {"mode": "online"}, r"train\.wandb: .*wandb login.*mode='offline' needs neither an account"),
        (("wandb",), None, r"train\.wandb: .*wandb login.*"),
    ],
)
def test_trackers_that_cannot_be(trackers, options, said):
    with pytest.raises(ValueError, match=said):
        metrics.check(trackers, options)


def test_an_account_is_needed_online_only(monkeypatch):
    metrics.check(("wandb",), {"mode": "offline", "project": "mine", "entity": None})
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.teardown()
    metrics.check(("wandb",), {})
    wandb.teardown()
