"""metrics.jsonl after a crash and a resume, and what TensorBoard reads."""

import json
import struct

from tensorboardX.proto.event_pb2 import Event

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
    with Log(tmp_path) as log:
        log.write(1, {"loss": 0.5})
        log.write(2, {"loss": 0.25, "gradient_norm": 3.0})
    assert events(tmp_path) == [(1, "loss", 0.5), (2, "loss", 0.25), (2, "gradient_norm", 3.0)]
