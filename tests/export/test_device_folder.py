"""An export folder alone: copied away, with nothing but its own requirements, as on a board."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hand_made import CLASSES, LABELS, STEPS, hand_made, tell  # noqa: F401 (a fixture)
from packaging.requirements import Requirement
from PIL import Image

from dynnas_jax.export import device_folder, metadata, runtime

PACKAGE = Path(runtime.__file__).parents[1]
ALLOWED = {"numpy", "PIL", "ai_edge_litert", "onnxruntime", "flatbuffers"}
NEWER = {"pairwise", "batched", "UTC"}  # than Python 3.9, of the standard library


@pytest.fixture(scope="session")
def bare_python(hand_made, tmp_path_factory):  # noqa: F811
    """A Python with what the folder's requirements.txt names, and no more."""
    place = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*install, "-r", str(hand_made.one_file / "requirements.txt")], capture_output=True, text=True, check=False
    )
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"its requirements cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture
def alone(bare_python, hand_made, tmp_path):  # noqa: F811
    """alone(arguments...): a finished `python runtime.py ...` in a copy of the folder, from another working directory."""
    folder = shutil.copytree(hand_made.one_file, tmp_path / "on_the_board")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*arguments, code=None):
        program = ["-c", code] if code else ["runtime.py"]
        return subprocess.run(
            [str(bare_python), "-W", "error", *program, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_picture_is_classified(alone, hand_made, tmp_path):  # noqa: F811
    expected = runtime.DynamicClassifier(hand_made.one_file)
    for index, image in enumerate(hand_made.images[:4]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    done = alone("classify", *(tmp_path / f"{index}.png" for index in range(4)))
    assert (done.returncode, done.stderr) == (0, "")
    for line, image in zip(done.stdout.splitlines(), hand_made.images, strict=False):
        answer = expected.predict(image)
        assert f": {answer.label}, {answer.probability:.1%} (exit {answer.choice + 1} of 3, {answer.step};" in line


def test_it_is_measured(alone, tmp_path):
    done = alone("bench", "--runs=50", "--warm_up=5", "--energy_s=0.05", f"--output={tmp_path / 'bench.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads((tmp_path / "bench.json").read_text())
    assert set(content["versions"]) == {"python", "numpy", "ai-edge-litert"}
    assert list(content["sections"]) == ["decision", *STEPS, "large"]
    assert done.stdout.count("\n") >= 8


def test_it_says_what_it_is(alone, hand_made):  # noqa: F811
    done = alone("show")
    assert json.loads(done.stdout) == runtime.DynamicClassifier(hand_made.one_file).metadata


def test_a_mistake_there_is_one_plain_line(alone):
    done = alone("classify", "absent.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "runtime.py: cannot read the image absent.png: No such file or directory\n"


def test_nothing_of_ours_is_there(alone):
    code = (
        "import sys, importlib.util as find\n"
        "from runtime import DynamicClassifier\n"
        "DynamicClassifier('.').warm_up()\n"
        "print({name for name in ('dynnas_jax', 'jax', 'flax', 'tensorflow', 'scipy') if find.find_spec(name)})\n"
        "import numpy; print(DynamicClassifier('.').predict(numpy.full((8, 8, 3), 200, numpy.uint8)).label)"
    )
    done = alone(code=code)
    assert done.stderr == ""
    nothing, label = done.stdout.split()
    assert nothing == "set()"
    assert label in LABELS


# What is copied.


@pytest.mark.parametrize("module", device_folder.MODULES)
def test_modules_run_on_python_3_9_with_the_requirements_alone(module):
    tree = ast.parse((PACKAGE / module).read_text(), feature_version=(3, 9))
    siblings = {Path(name).stem for name in device_folder.MODULES}
    known = ALLOWED | siblings | set(sys.stdlib_module_names) | {"dynnas_jax"}
    imported, futures = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
            futures |= {alias.name for alias in node.names if node.module == "__future__"}
        elif isinstance(node, ast.Attribute):
            assert node.attr not in NEWER, ast.unparse(node)
        elif isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id == "zip" and node.keywords), ast.unparse(node)
    assert imported <= known
    unions = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)]
    types = [node for node in unions if re.search(r"\b(None|str|int|Path|list|dict|tuple)\b", ast.unparse(node))]
    assert not types or "annotations" in futures


def test_modules_that_are_imported_are_copied():
    """Each module of ours that a copied one imports lies beside it under its bare name."""
    siblings = {Path(name).stem for name in device_folder.MODULES}
    for module in device_folder.MODULES:
        tree = ast.parse((PACKAGE / module).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("dynnas_jax"):
                assert {alias.name for alias in node.names} <= siblings, module


def test_ten_true_lines(hand_made):  # noqa: F811
    for folder, target in ((hand_made.one_file, "x86-64 computer"), (hand_made.own_files, "Coral Edge TPU")):
        lines = (folder / "README.md").read_text().splitlines()
        assert len(lines) == 10
        text = "\n".join(lines)
        assert f"{CLASSES} classes" in lines[0]
        assert target in lines[0]
        assert ", ".join(LABELS) in text
        assert ("--delegate=libedgetpu.so.1" in text) == (folder == hand_made.own_files)
        named = set(re.findall(r"`([\w.]+\.(?:tflite|onnx))`", text))
        assert named == {path.name for path in folder.glob("*.tflite")}
        for command in re.findall(r"`python (runtime\.py [^`]+)`", text):
            words = [word for word in command.split()[1:] if not word.startswith("-") and "." not in word]
            assert set(words) <= {"classify", "bench", "show"}, command
            assert words or "--help" in command
    assert (
        "score (max_softmax) is above 0.985, 0.97, the last all others."
        in (hand_made.one_file / "README.md").read_text()
    )


def documented(prefix):
    """The arguments of every `python PREFIX ...` in the pages on boards and the folder's own words."""
    texts = [page.read_text() for page in sorted((PACKAGE.parent / "docs" / "boards").glob("*.md"))]
    texts += [(PACKAGE / module).read_text() for module in device_folder.MODULES]
    return [line.split() for text in texts for line in re.findall(rf"python {re.escape(prefix)} ([^`\n]+)", text)]


def test_documented_commands_are_accepted():
    commands = documented("runtime.py")
    assert {arguments[0] for arguments in commands} == {"classify", "bench", "show"}
    for arguments in commands:
        if "--help" not in arguments:
            runtime._parser().parse_args([word for word in arguments if not word.startswith("{")])


def test_requirements_follow_the_files(hand_made):  # noqa: F811
    written = (hand_made.one_file / "requirements.txt").read_text().splitlines()
    told = metadata.read(next(hand_made.one_file.glob("*.tflite")))
    assert written == device_folder._requirements(["a.tflite"], told["target"])
    plain = device_folder._requirements(["a.tflite"], "x86")
    assert plain == ["numpy>=2.0", "Pillow>=10.3", "ai-edge-litert>=2.1"]
    assert device_folder._requirements(["a.onnx"])[-1] == "onnxruntime"
    assert device_folder._requirements(["a.onnx", "a.tflite"]) == [*plain, "# onnxruntime, for the .onnx files"]


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
@pytest.mark.parametrize("python", ["3.9", "3.10", "3.13", "3.14"])
@pytest.mark.parametrize("target", ["pi4", "pi5", "edgetpu", "jetson_nano", "android"])
def test_an_arm_board_gets_the_litert_that_ran_on_such_a_core(target, machine, python):
    wanted = map(Requirement, device_folder._requirements(["a.tflite"], target))
    where = {"platform_machine": machine, "python_version": python}
    (asked,) = (one for one in wanted if one.name == "ai-edge-litert" and one.marker.evaluate(where))
    assert str(asked.specifier) == ("==2.1.0" if machine == "aarch64" and python != "3.14" else ">=2.1")


def test_a_single_net_and_many_classes(hand_made, tmp_path):  # noqa: F811
    folder = shutil.copytree(hand_made.one_file, tmp_path / "one")
    (folder / "model_int8.tflite").unlink()
    path = folder / "model_fp32.tflite"
    tell(
        path,
        steps=["large"],
        whole=[],
        thresholds=[],
        cost=[1],
        files={"large": path.name},
        labels=[f"c{i}" for i in range(40)],
    )
    device_folder.write(folder)
    text = (folder / "README.md").read_text()
    assert "c11 and 28 more" in text
    assert "Nets: large. It answers every image." in text


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no exported model"):
        device_folder.write(tmp_path)
    assert not list(tmp_path.iterdir())
