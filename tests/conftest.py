"""Strict dtypes and ranks, eight fake CPU devices, and the real data where it is present."""

import contextlib
import gc
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib
import numpy as np
import pytest

from dynnas_jax.costs import latency
from dynnas_jax.elastic import Supernet
from dynnas_jax.networks import big_little, ofa
from dynnas_jax.train import calibration


def _known(*flags: str) -> str:
    """Those of `flags` whose names end a string of the compiler's library: a process ends at a flag that it does not know.

    Names that it has given up stand there too, among those that no option may have again, without an end of their own.
    """
    library = Path(jaxlib.__file__).with_name("libjax_common.so")
    if not library.is_file():
        return ""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return " ".join(flag for flag in flags if text.find(flag.strip("-").partition("=")[0].encode() + b"\0") >= 0)


# Nearly every program here runs once or twice: what counts is the time to compile it, a tenth with these three settings.
# They stand in the environment, for the processes that tests start.
QUICK_FLAGS = _known("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_FLAGS} --xla_force_host_platform_device_count=8"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# For equalities of bits between programs that are compiled apart: the compiler as it is without these settings.
AS_USERS_COMPILE = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    **({"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in QUICK_FLAGS else {}),
}
# Tracing makes many short-lived objects: at Python's own threshold, a fifth of its time goes into looking for cycles.
gc.set_threshold(100_000, 50, 100)

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# The files that take longest: runs of many stages, several processes, conversions, programs of many nets.
LONGEST = (
    "test_two_process_runs.py",
    "stages/test_exits.py",
    "stages/test_superclasses.py",
    "test_pipeline.py",
    "export/test_onnx.py",
    "stages/test_strategies.py",
    "stages/test_routers.py",
    "stages/test_baselines.py",
    "stages/test_slimmable.py",
    "stages/test_grow.py",
    "export/test_routers.py",
    "networks/test_chains.py",
    "networks/test_multi_supernet.py",
    "train/test_two_processes.py",
)


def pytest_collection_modifyitems(items):
    """The longest files first, then those that share the whole run: side by side (`pytest -n 2`), they are dealt out so."""
    place = {Path(__file__).parent / name: index for index, name in enumerate(LONGEST)}
    sharing = {item.path for item in items if "tiny_run" in item.fixturenames}
    items.sort(key=lambda item: (place.get(item.path, len(place)), item.path not in sharing))


SHARED = Path(os.environ.get("DYNNAS_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference figures; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}: real data and published figures are absent")
    return SHARED


@pytest.fixture(scope="session")
def published() -> dict:
    """MACs and params that papers, repositories and torchvision give for networks, with their sources."""
    return json.loads(Path(__file__).with_name("published_costs.json").read_text())


class Tiny(NamedTuple):
    """A supernet of 8x8 images, small enough to compile in a second or two."""

    supernet: Supernet
    variables: dict
    images: np.ndarray  # uint8[16, 8, 8, 1]


@pytest.fixture(scope="session")
def noisy_variables():
    """noisy_variables(net, image_shape, seed=0): variables like a trained net's, none of them zero or one."""

    def make(net, image_shape, seed=0):
        shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), np.uint8))
        generator = np.random.default_rng(seed)

        def leaf(path, shape):
            normal = generator.normal(size=shape.shape)
            if path[-1].key == "kernel":
                return (normal / np.prod(shape.shape[:-1]) ** 0.5).astype(np.float32)
            around_one = path[-1].key in ("scale", "var")
            return (1 + 0.2 * np.abs(normal) if around_one else 0.1 * normal).astype(np.float32)

        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return make


@pytest.fixture(scope="session")
def random_genomes(tiny):
    """int32[8, genes]: subnets of `tiny`."""
    return np.asarray(tiny.supernet.space.sample(jax.random.key(5), 8))


@pytest.fixture(scope="session")
def small_space():
    """small_space(**options): a supernet of 8x8 grey images of three classes."""
    facts = {"image_size": 8, "channels": 1, "mean": (0.4,), "std": (0.3,), "classes": 3}
    return lambda **options: ofa.small_images(**facts, **options)


@pytest.fixture(scope="session")
def tiny(noisy_variables, small_space) -> Tiny:
    """Two stages of one or two blocks, two choices of everything."""
    supernet = small_space(
        stem=8,
        stage_widths=(8, 16),
        stage_strides=(1, 2),
        head=16,
        widths=(0.5, 1.0),
        depths=(1, 2),
        kernels=(3, 5),
        expands=(1, 2),
        divisor=4,
    )
    variables = noisy_variables(supernet.largest_net(), (8, 8, 1))
    # Brighter and brighter, so that no batch is like another.
    images = np.random.default_rng(1).integers(0, 130, (16, 8, 8, 1)) + 8 * np.arange(16)[:, None, None, None]
    return Tiny(supernet, variables, images.astype(np.uint8))


@pytest.fixture(scope="session")
def tiny_pair(tiny):
    """(the pair of the smallest and the largest subnet of `tiny`, its variables), each net with its own statistics."""
    space, own = tiny.supernet.space, {}
    for which, genome in (("little", space.smallest), ("big", space.largest)):
        images = calibration.batches(tiny.images, 8)
        own[which] = calibration.extract_calibrated(tiny.supernet, tiny.variables, genome, images)[1]
    return big_little.build(tiny.supernet, space.smallest, space.largest), own


@pytest.fixture(scope="session")
def made_up_table():
    """made_up_table(supernet, overhead_ms): a latency table for x86 whose times, up to 1 ms a block, are drawn."""

    def make(supernet, overhead_ms):
        generator, rows = np.random.default_rng(0), []
        for built in latency.distinct(supernet).values():
            shapes, block = latency.input_shapes(built.traced), latency.spec(built.block.module)
            rows.append(latency.Row(shapes, block, float(generator.uniform(0.01, 1)), 0.001))
        device = {
            "board": "a board",
            "runtime": "LiteRT",
            "threads": 1,
            "precision": "int8",
            "versions": {"numpy": "2"},
        }
        return latency.LatencyTable("x86", device, supernet.space.fingerprint, overhead_ms, {"nets": 3}, tuple(rows))

    return make


TINY_RUN = """
from ml_collections import ConfigDict


def get_config(mode=""):
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "digits", "holdout": 100, "train_limit": 400, "test_limit": 96, "augment": {"pad": 1}}
    config.supernet = {
        "network": "small_images", "stem": 8, "stage_widths": (8, 8), "stage_strides": (1, 2), "head": 16,
        "depths": (1, 2), "kernels": (3,), "expands": (1, 2),
    }
    config.train = {"steps": 6, "batch_size": 64, "checkpoint_every": 2, "log_every": 2}
    config.train.optimizer = {"learning_rate": 0.1}
    config.train.sandwich_rule = {"random_subnets": 1}
    config.collect = {"subnets": 16, "calibration_images": 64, "chunk": 8}
    config.predict = {"epochs": 5}
    config.search = {"budgets": 2, "population": 8, "generations": 5, "calibration_images": 64}
    config.dynamic = {"max_macs_fraction": 0.99}
    config.export = {"calibration_images": 16, "runs": 5, "warm_up": 1, "max_accuracy_loss": 1.0}
    config.report = {"title": "tiny"}
    return config
"""


class TinyRun(NamedTuple):
    """A whole run of the main job, all stages done."""

    workdir: Path  # copy it before changing it
    config_file: Path
    config: dict


def _configure(values: dict) -> None:
    for name, value in values.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def as_users_compile():
    """`compiler_options` of a program that is compiled as it is outside the tests."""
    return AS_USERS_COMPILE


@pytest.fixture(scope="session")
def quick_programs(tmp_path_factory):
    """with quick_programs(): what is compiled is kept: a second run of the same need not compile."""
    from jax.experimental.compilation_cache import compilation_cache

    inside = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }

    @contextlib.contextmanager
    def use():
        before = {name: jax.config.values[name] for name in inside}
        _configure(inside)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            _configure(before)
            compilation_cache.reset_cache()

    return use


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, quick_programs) -> TinyRun:
    """The main job from training to the report, on a net and a schedule of a few seconds."""
    from dynnas_jax import pipeline, settings

    folder = tmp_path_factory.mktemp("tiny_run")
    config_file = folder / "tiny.py"
    config_file.write_text(TINY_RUN)
    config = settings.as_dict(settings.load([f"--config={config_file}"]))
    with quick_programs():
        pipeline.run(config, folder / "workdir")
    return TinyRun(folder / "workdir", config_file, config)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens at."""
    return _free_port()


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory):
    """two_processes(script, *arguments) -> what each of two processes of four fake devices printed.

    The script is the text of a Python program; its arguments are HOST:PORT, the number of the process, then `arguments`.
    The second process sees another boot of the machine, where the system lets a test do so: to JAX it is on another host.
    """
    boot = tmp_path_factory.mktemp("boot") / "boot_id"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    mounted = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'
    elsewhere = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*elsewhere, "true"], capture_output=True).returncode != 0:
        elsewhere = []

    def run(script, *arguments, timeout_s=240):
        address = f"localhost:{_free_port()}"
        flags = f"{QUICK_FLAGS} --xla_force_host_platform_device_count=4"
        settings = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        settings["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": settings}
        command = [sys.executable, "-W", "error::FutureWarning", "-c", script, address]
        started = [
            subprocess.Popen([*host, *command, str(i), *map(str, arguments)], **pipes)
            for i, host in enumerate(([], elsewhere))
        ]
        try:
            printed = [process.communicate(timeout=timeout_s)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0, 0], "\n\n".join(printed)
        return ["\n".join(line for line in text.splitlines() if "[Gloo]" not in line) for text in printed]

    run.hosts = 2 if elsewhere else 1  # as JAX sees them
    return run
