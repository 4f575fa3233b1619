"""The Edge TPU compiler: its logs, in the format its documentation shows, and a stand-in for it on the PATH."""

import shutil
import stat
import sys

import pytest
from ai_edge_litert import schema_py_generated as schema

from dynnas_jax.__main__ import main
from dynnas_jax.export import edgetpu

HEADER = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Models compiled successfully in 524 ms.
"""
WHOLE = """
Input model: {folder}/little.tflite
Input size: 1.91MiB
Output model: {out}/little_edgetpu.tflite
Output size: 2.52MiB
On-chip memory used for caching model parameters: 2.27MiB
On-chip memory remaining for caching model parameters: 1.07MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 57
Operation log: {out}/little_edgetpu.log

Operator                       Count      Status

ADD                            10         Mapped to Edge TPU
CONV_2D                        46         Mapped to Edge TPU
RESIZE_NEAREST_NEIGHBOR        1          Mapped to Edge TPU
"""
PARTLY = """
Input model: {folder}/big_after_stem.tflite
Input size: 8.11MiB
Output model: {out}/big_after_stem_edgetpu.tflite
Output size: 9.47MiB
On-chip memory used for caching model parameters: 1.75KiB
On-chip memory remaining for caching model parameters: 12.00B
Off-chip memory used for streaming uncached model parameters: 1.22MiB
Number of Edge TPU subgraphs: 1
Total number of operations: 93
Operation log: {out}/big_after_stem_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU. A percentage of the model will instead run
on the CPU, which is slower. If possible, consider updating your model to use only operations supported by the Edge TPU.
Number of operations that will run on Edge TPU: 83
Number of operations that will run on CPU: 10

Operator                       Count      Status

CONV_2D                        83         Mapped to Edge TPU
HARD_SWISH                     8          Operation not supported
CONCATENATION                  2          More than one subgraph is not supported
"""
FOOTER = """Compilation child process completed within timeout period.
Compilation succeeded!
"""
REFUSED = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.
ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'. An older version of this builtin might be supported.

ERROR: Registration failed.

Invalid model: little.tflite
Model could not be parsed
"""


def test_the_facts_of_a_co_compiled_pair():
    little, big = edgetpu.parse_log((HEADER + WHOLE + PARTLY + FOOTER).format(folder="in", out="out"))
    assert (little.input, little.output) == ("in/little.tflite", "out/little_edgetpu.tflite")
    assert (little.on_chip_bytes, little.free_bytes, little.off_chip_bytes) == (2380268, 1121976, 0)
    assert (little.subgraphs, little.mapped, little.unmapped) == (1, 57, 0)
    assert little.operators[1] == ("CONV_2D", 46, "Mapped to Edge TPU")
    assert (big.on_chip_bytes, big.free_bytes, big.off_chip_bytes) == (1792, 12, 1279263)
    assert (big.mapped, big.unmapped) == (83, 10)
    assert big.operators[1:] == (
        ("HARD_SWISH", 8, "Operation not supported"),
        ("CONCATENATION", 2, "More than one subgraph is not supported"),
    )


def test_a_log_without_operators_counts_them_all_as_mapped_unless_it_says_otherwise():
    whole, partly = (text[: text.index("Operator  ")] for text in (WHOLE, PARTLY))
    little, big = edgetpu.parse_log(HEADER + whole + partly + FOOTER)
    assert (little.mapped, little.unmapped, little.operators) == (57, 0, ())
    assert (big.mapped, big.unmapped) == (83, 10)


def test_the_log_file_beside_a_model():
    text = "Edge TPU Compiler version 16.0.384591198\nInput: net.tflite\nOutput: net_edgetpu.tflite\n\n"
    text += "Operator                       Count      Status\n\nADD                            4          Mapped to Edge TPU\n"
    text += "DEQUANTIZE                     1          Operation is working on an unsupported data type\n"
    (net,) = edgetpu.parse_log(text)
    assert (net.input, net.mapped, net.unmapped) == ("net.tflite", 4, 1)


@pytest.mark.parametrize(
    "text", ["", "no log at all", HEADER, "Input model: a\nOn-chip memory used for caching model parameters: x"]
)
def test_what_is_no_log_is_said(text):
    if "Input model" in text:
        text, message = text + "\n", "the size 'x', which is none"
    else:
        message = "names no input model"
    with pytest.raises(ValueError, match=message):
        edgetpu.parse_log(text)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """compiler(printed, code=0, writes=True): puts a stand-in on the PATH; the file it returns holds its arguments."""

    def install(printed, code=0, writes=True):
        folder = tmp_path / "bin"
        folder.mkdir()
        script = folder / edgetpu.COMPILER
        script.write_text(
            f"#!{sys.executable}\n"
            "import pathlib, shutil, sys\n"
            "arguments = sys.argv[1:]\n"
            f"pathlib.Path({str(folder / 'arguments')!r}).write_text('\\n'.join(arguments))\n"
            "out = pathlib.Path(arguments[arguments.index('--out_dir') + 1])\n"
            f"for file in arguments[3:] if {writes} else ():\n"
            "    name = pathlib.Path(file).stem\n"
            "    shutil.copyfile(file, out / f'{name}_edgetpu.tflite')\n"
            "    (out / f'{name}_edgetpu.log').write_text('log')\n"
            f"print({printed!r}.replace('OUT', str(out)))\n"
            f"sys.exit({code})\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))
        return folder / "arguments"

    return install


@pytest.fixture
def pair(int8_file, tmp_path):
    return [shutil.copyfile(int8_file, tmp_path / f"{name}.tflite") for name in ("little", "big_after_stem")]


def test_a_pair_is_compiled_in_one_call_into_a_folder(pair, tmp_path, compiler):
    arguments = compiler(
        (HEADER + WHOLE + WHOLE.replace("little", "big_after_stem") + FOOTER).format(folder="in", out="OUT")
    )
    out = tmp_path / "export"
    out.mkdir()
    compiled = edgetpu.run_compiler(pair, out)
    given = arguments.read_text().splitlines()
    assert given[:2] == ["--show_operations", "--out_dir"]
    assert given[3:] == [str(path) for path in pair]
    assert [(model.mapped, model.output) for model in compiled] == [
        (57, "little_edgetpu.tflite"),
        (57, "big_after_stem_edgetpu.tflite"),
    ]
    assert sorted(path.name for path in out.iterdir()) == ["big_after_stem_edgetpu.tflite", "little_edgetpu.tflite"]


@pytest.mark.parametrize(
    ("printed", "code", "writes", "message"),
    [
        (
            REFUSED,
            1,
            False,
            "refuses little.tflite, big_after_stem.tflite: ERROR: Didn't find op for builtin opcode 'CONV_2D'",
        ),
        ("Internal compiler error. Aborting!", 0, False, "Internal compiler error. Aborting!"),
        (HEADER + FOOTER, 0, False, "refuses .*: Compilation succeeded!"),
        ("", 3, True, "it says nothing"),
        ("all is well", 0, True, "names no input model"),
    ],
)
def test_a_compiler_that_refuses_leaves_nothing(pair, tmp_path, compiler, printed, code, writes, message):
    compiler(printed, code, writes)
    out = tmp_path / "export"
    out.mkdir()
    with pytest.raises(ValueError, match=message):
        edgetpu.run_compiler(pair, out)
    assert list(out.iterdir()) == []


def test_without_a_compiler_its_command_is_said(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    command = f"edgetpu_compiler --show_operations --out_dir {tmp_path} {pair[0]} {pair[1]}"
    assert edgetpu.command(pair, tmp_path) == command
    assert command in edgetpu.compiled_or_command(pair)
    with pytest.raises(ValueError, match="there is no edgetpu_compiler on the PATH"):
        edgetpu.run_compiler(pair, tmp_path)


# The command.


def test_lint_prints_what_it_finds_and_the_command(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    main(["lint", *map(str, pair), "--target=edgetpu"])
    text = capsys.readouterr().out
    assert text.startswith("target edgetpu: Coral Edge TPU")
    assert "little.tflite: 7 operators, 17,104 MACs, " in text
    assert "0 errors, 0 warnings" in text
    assert f"edgetpu_compiler --show_operations --out_dir {tmp_path} " in text


def test_lint_that_must_compile_fails_without_a_compiler(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    for target, said in (("edgetpu", "there is no edgetpu_compiler on the PATH"), ("pi4", "target pi4 has none")):
        with pytest.raises(SystemExit, match="2"):
            main(["lint", *map(str, pair), f"--target={target}", "--compile"])
        error = capsys.readouterr().err
        assert said in error
        assert target == "pi4" or f"--out_dir {pair[0].parent} " in error
        assert error.count("\n") == 1


def test_lint_asks_the_compiler_where_there_is_one(pair, compiler, capsys):
    compiler((HEADER + WHOLE + FOOTER).format(folder="in", out="OUT"))
    main(["lint", str(pair[0]), "--target=edgetpu"])
    assert "little.tflite: 57 operators mapped, parameters 2380268 bytes on chip, 0 off chip" in capsys.readouterr().out


def test_what_the_compiler_made_is_not_compiled_again(pair, tmp_path, compiler, edited, capsys):
    def change(model):
        code = schema.BuiltinOperator.CUSTOM
        model.operatorCodes = [
            schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, customCode=edgetpu.COMPILED_OP)
        ]
        model.subgraphs[0].operators = model.subgraphs[0].operators[-1:]
        model.subgraphs[0].operators[0].opcodeIndex = 0

    made = shutil.copyfile(edited(pair[0], change), tmp_path / "little_edgetpu.tflite")
    arguments = compiler((HEADER + WHOLE + FOOTER).format(folder="in", out="OUT"))
    main(["lint", str(made), "--target=edgetpu"])
    assert "nothing is left for edgetpu_compiler to do" in capsys.readouterr().out
    assert not arguments.exists()
    main(["lint", str(made), str(pair[1]), "--target=edgetpu"])
    assert arguments.read_text().splitlines()[3:] == [str(pair[1])]


def test_what_the_compiler_leaves_to_the_cpu_is_an_error(pair, compiler, capsys):
    compiler((HEADER + PARTLY + FOOTER).format(folder="in", out="OUT"))
    with pytest.raises(SystemExit, match="2"):
        main(["lint", str(pair[1]), "--target=edgetpu"])
    assert "leaves 10 operators to the CPU: HARD_SWISH (Operation not supported)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{bad}", "--target=edgetpu"],
            "operator 3 HARD_SWISH: the Edge TPU has no such operator: use ReLU6 (and 1 more)",
        ),
        (["{good}", "--target=pi3"], "target is 'pi3', choose from ['edgetpu', "),
        (["{good}"], "the following arguments are required: --target"),
        (["--target=pi4"], "the following arguments are required: FILE"),
        (["{good}", "{good}x", "--target=pi4"], "cannot read "),
        ([__file__, "--target=pi4"], "is not a TFLite file"),
    ],
)
def test_mistakes_are_one_plain_line_and_exit_2(int8_file, unmapped_file, capsys, arguments, message):
    arguments = [text.format(good=int8_file, bad=unmapped_file) for text in arguments]
    with pytest.raises(SystemExit, match="2"):
        main(["lint", *arguments])
    found = capsys.readouterr()
    assert message in found.err
    assert found.err.count("\n") == 1
    assert "Traceback" not in found.err
    if str(unmapped_file) in arguments:
        assert "first that does not run there is operator 3 HARD_SWISH" in found.out
