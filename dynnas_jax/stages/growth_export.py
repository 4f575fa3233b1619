"""The stage that exports the last net of a stage-wise growth, and times all its nets on this machine's processor."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from dynnas_jax.data.resize import at_resolution
from dynnas_jax.export import targets
from dynnas_jax.job import Job
from dynnas_jax.stages import export, growth_evaluate
from dynnas_jax.workdir import write_json

TIMES = "networks.json"  # in the target's folder
check = export.check


@functools.wraps(export.run)
def run(job: Job, folder: Path, **options) -> tuple[str, ...]:
    """As `export.run`, of the last candidate; the times of an image with each net go beside its files."""
    files = export.run(job, folder, **options)
    timing = {key: options[key] for key in ("threads", "runs", "warm_up") if key in options}
    write_json(folder / job.target / TIMES, {"precision": "fp32", "networks": times(job, **timing)})
    return tuple(sorted({*files, f"{job.target}/{TIMES}"}))


def times(job: Job, *, threads: int = 1, runs: int = 1000, warm_up: int = 100) -> dict[str, dict[str, float]]:
    """Milliseconds of an image with each net as an fp32 LiteRT file, over test images."""
    from dynnas_jax.export import bench, engines, functions, tflite

    form, found = targets.target(job.target).depthwise, {}
    for member in growth_evaluate.own_members(job):
        net, arch = member.net.clone(depthwise=form), member.net.arch
        images = list(at_resolution(job.images.test, arch.resolution).images[:runs])
        function = functions.whole(
            lambda images, net=net, variables=member.variables: net.apply(variables, images)[0],
            (arch.resolution, arch.resolution, arch.channels),
        )
        with tempfile.TemporaryDirectory(prefix="dynnas_") as made:
            path = Path(made) / "net.tflite"
            with tflite.saved({functions.SINGLE: tflite.Signature(function.call, function.shapes)}) as traced:
                traced.write(path, precision="fp32")
            (model,) = engines.load(path, threads).values()
            told = bench.timed(model.run, images, runs=runs, warm_up=warm_up)
        found[member.name] = {"latency_ms": told[0], "latency_mean_ms": told[4]}
    return found
