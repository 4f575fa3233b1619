"""What an export folder holds beside its model files: the runtime, its requirements, and ten lines that say what is there."""

from __future__ import annotations

import shutil
from pathlib import Path

from dynnas_jax.export import metadata, targets

_PACKAGE = Path(__file__).parents[1]
# All of them import each other by their bare names where they lie alone.
MODULES = (
    "confidence.py",
    "costs/energy.py",
    "costs/power_log.py",
    *(
        f"export/{name}.py"
        for name in (
            "bench",
            "bench_command",
            "confined",
            "engines",
            "flatbuffer",
            "handover",
            "machine",
            "metadata",
            "photos",
            "runtime",
            "schema",
            "soundness",
            "targets",
        )
    ),
)
_NUMPY, _PILLOW, _LITERT, _ONNXRUNTIME = "numpy>=2.0", "Pillow>=10.3", "ai-edge-litert>=2.1", "onnxruntime"
# On an emulated core of a Raspberry Pi 4 LiteRT 2.1.0 runs, 2.3.0 crashes as it opens a file (docs/boards/raspberry_pi.md). On
# other 64-bit ARM cores neither has been tried: these get the version that has run on one.
_ARM_LITERT = (
    'ai-edge-litert==2.1.0; platform_machine == "aarch64" and python_version < "3.14"',
    'ai-edge-litert>=2.1; platform_machine != "aarch64" or python_version >= "3.14"',
)
_LABELS_SHOWN = 12


def write(folder: str | Path) -> None:
    """Puts the runtime beside the finished model files of `folder`, with requirements.txt and README.md.

    Raises: ValueError where there is no model file, or its metadata cannot be read; OSError.
    """
    folder = Path(folder)
    told, _ = metadata.find(folder, None, None)
    models = sorted(path.name for path in folder.iterdir() if path.suffix in (".tflite", ".onnx"))
    for module in MODULES:
        shutil.copyfile(_PACKAGE / module, folder / Path(module).name)
    (folder / "requirements.txt").write_text("\n".join(_requirements(models, told.get("target"))) + "\n")
    (folder / "README.md").write_text("\n".join(_readme(folder, models, told)) + "\n", encoding="utf-8")


def _requirements(models: list[str], target: str | None = None) -> list[str]:
    kinds = {Path(name).suffix for name in models}
    if ".tflite" not in kinds:
        return [_NUMPY, _PILLOW, _ONNXRUNTIME]
    optional = [f"# {_ONNXRUNTIME}, for the .onnx files"] if ".onnx" in kinds else []
    return [_NUMPY, _PILLOW, *([_LITERT] if target in (None, "x86") else _ARM_LITERT), *optional]


def _readme(folder: Path, models: list[str], told: dict) -> list[str]:
    """Ten lines, true of this very folder."""
    target = targets.TARGETS.get(told.get("target"))
    labels = told["labels"]
    shown = ", ".join(labels[:_LABELS_SHOWN])
    more = f" and {len(labels) - _LABELS_SHOWN} more" if len(labels) > _LABELS_SHOWN else ""
    sizes = ", ".join(f"`{name}` ({(folder / name).stat().st_size / 1e6:.2f} MB)" for name in models)
    height, width, channels = told["image_shape"]
    coral = told.get("target") == "edgetpu"
    delegate = " --delegate=libedgetpu.so.1" if coral else ""
    compiler = (
        f"; on the Edge TPU after `edgetpu_compiler {' '.join(f'{net}_int8.tflite' for net in metadata.in_turn(told))}`"
        if coral
        else ""
    )
    results = f"bench_{told.get('target')}.json"  # several boards' results go into one report
    whole = f"; alone, to compare with: {', '.join(told['whole'])}" if told.get("whole") else ""
    return [
        f"# Image classifier of {len(labels)} classes for {target.device if target else told.get('target')}",
        f"Classes: {shown}{more}. Images: {height} x {width} x {channels}, uint8; `classify` resizes other pictures.",
        f"Models: {sizes}{compiler}.",
        f"Nets: {_order(told)}{whole}. {_routing(told)}",
        "Copy this folder to the device (64-bit system, Python 3.9 or newer) and install: `pip install -r requirements.txt`",
        f"Classify a picture: `python runtime.py classify photo.jpg{delegate}`",
        f"Measure it there: `python runtime.py bench --images=FOLDER_OF_PICTURES --output={results}{delegate}`",
        "Other files and thresholds: `--precision=`, `--threshold=`, `--threads=`, `--model=`; all: `python runtime.py --help`",
        "In a program: `from runtime import DynamicClassifier`, then `DynamicClassifier('.').predict(image)`",
        "All else about the nets: `python runtime.py show` (metadata as JSON); `export.json` has what was measured before",
    ]


def _order(told: dict) -> str:
    if len(levels := _levels(told)) > 2:
        return " -> ".join(f"one of {len(names)}" if len(names) > 1 else names[0] for names in levels)
    between = " or " if "router" in told else " -> "
    return (f"{told['router']} -> " if "router" in told else "") + between.join(told["steps"])


def _levels(told: dict) -> list[list[str]]:
    """The nets by how many run before them, where each scores what follows it."""
    following = metadata.routes(told)
    found = [[told["router"]]] if following else []
    while found and (behind := dict.fromkeys(other for name in found[-1] for other in following.get(name, ()))):
        found.append(list(behind))
    return found


def _routing(told: dict) -> str:
    if metadata.picks(told):
        return "Each but the last gives those that may follow it a score; the one with the highest runs."
    if not told["thresholds"]:
        return "It answers every image."
    if "router" in told:
        return f"{told['steps'][0]} answers where the score of {told['router']} is above {told['thresholds'][0]:.4g}."
    above = ", ".join(f"{threshold:.4g}" for threshold in told["thresholds"])
    return f"Each answers where its score ({told['policy']['score']}) is above {above}, the last all others."
