"""The notebooks as they are committed: executed in order, short where the docs say so. CI executes them anew."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
LONGEST = 300_000  # bytes of a file
ABSOLUTE = re.compile(r"(?<![\w./:])(/(?:work|home|root|tmp|Users|var)\b[^\s\"']*)")


def read(name):
    return nbformat.read(FOLDER / name, as_version=nbformat.NO_CONVERT)


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def text(cell):
    """What a reader sees of a cell: its source, and its outputs but for pictures."""
    parts = [cell.source]
    for output in cell.get("outputs", []):
        parts += [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
    return "\n".join(parts)


def test_all_are_here():
    assert [name[:2] for name in NAMES] == ["00", "01", "02", "03", "04"]


@pytest.mark.parametrize("name", NAMES)
def test_valid_and_small(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert (FOLDER / name).stat().st_size < LONGEST


@pytest.mark.parametrize("name", NAMES)
def test_executed_in_order_without_errors_or_noise(name):
    cells = code_cells(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    lines = [line.replace("0 warnings", "") for cell in cells for line in text(cell).splitlines()]
    assert not [line for line in lines if "warning" in line.lower()]


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_some_machine(name):
    for cell in read(name).cells:
        assert not ABSOLUTE.findall(text(cell))


@pytest.mark.parametrize("line", ["saved /tmp/x.tflite", "'/home/me/photos'", "(/work/main)", "/root/.cache"])
def test_an_absolute_path_is_seen(line):
    assert ABSOLUTE.search(line)


def test_the_search_loop_is_under_60_lines_of_code():
    lines = [line for cell in code_cells("00_search_loop.ipynb") for line in cell.source.splitlines() if line.strip()]
    assert 20 < len(lines) < 60


def test_the_config_for_own_data_is_at_most_15_lines():
    (config,) = (cell.source for cell in code_cells("01_own_data.ipynb") if cell.source.startswith("%%writefile"))
    magic, *lines = config.splitlines()
    assert magic.endswith(".py")
    assert "def get_config" in config
    assert len(lines) <= 15
