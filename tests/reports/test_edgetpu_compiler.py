"""What the Edge TPU compiler said of an export stands in the report; where it was not run, its command does."""

import csv
import json

import pytest

from dynnas_jax.export import edgetpu
from dynnas_jax.reports import artifacts, sections
from dynnas_jax.reports.source import Source

LOG = """Input model: in/little_int8.tflite
Output model: out/little_int8_edgetpu.tflite
On-chip memory used for caching model parameters: 2.25MiB
On-chip memory remaining for caching model parameters: 1.00MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 57

Operator                       Count      Status

ADD                            11         Mapped to Edge TPU
CONV_2D                        46         Mapped to Edge TPU

Input model: in/big_after_stem_int8.tflite
Output model: out/big_after_stem_int8_edgetpu.tflite
On-chip memory used for caching model parameters: 1.75KiB
On-chip memory remaining for caching model parameters: 12.00B
Off-chip memory used for streaming uncached model parameters: 1.25MiB
Number of Edge TPU subgraphs: 2
Total number of operations: 93
"""


@pytest.fixture
def section(workdir, tmp_path):
    """section(compiler): the HTML of the exported files where `export.json` has this."""
    path = workdir / "export" / "x86" / "export.json"
    export = json.loads(path.read_text())

    def html(compiler):
        path.write_text(json.dumps({**export, "compiler": compiler}))
        return sections.BUILDERS["exports"](Source(workdir, tmp_path / "made", artifacts.read(workdir)))

    return html


def test_the_log_is_a_table(section, tmp_path):
    body = section({"models": [model._asdict() for model in edgetpu.parse_log(LOG)]})
    assert "little_int8_edgetpu.tflite" in body
    with (tmp_path / "made" / "tables" / "compiler_x86.csv").open(newline="") as file:
        little, big = csv.DictReader(file)
    assert (little["mapped"], little["unmapped"], little["subgraphs"]) == ("57", "0", "1")
    assert int(little["on_chip_bytes"]) == 2.25 * 2**20
    assert (int(big["on_chip_bytes"]), int(big["off_chip_bytes"])) == (1.75 * 1024, 1.25 * 2**20)
    assert little["operators"] == "11×ADD: Mapped to Edge TPU; 46×CONV_2D: Mapped to Edge TPU"


def test_the_command_where_it_was_not_run(section, tmp_path):
    assert "<code>edgetpu_compiler --out_dir &#x27;a &lt;b&gt;&#x27;" in section(
        {"command": "edgetpu_compiler --out_dir 'a <b>' little_int8.tflite"}
    )
    assert "compiler" not in section({})
    assert not (tmp_path / "made" / "tables" / "compiler_x86.csv").exists()
