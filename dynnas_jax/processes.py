"""The processes of a run. JAX is imported where there are several; without `join` there is one."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

# JAX takes a process for lost, and ends the others, when it has not heard of it for so long; a thread beside Python's sends
# these signs of life, whatever Python does. JAX's own default, 100 s, is longer than the launchers promise.
HEARTBEAT_TIMEOUT_S = 30
# A process that ends, well or badly, first waits for the others to end, JAX's own default is 300 s: so long a failure would be
# hidden from the launcher. Those that end well have come together before.
SHUTDOWN_TIMEOUT_S = 15
# One that is lost is noticed long before; the others may well compile for an hour.
BARRIER_TIMEOUT_S = 6 * 3600
_barriers = itertools.count()


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the processes of one run, before anything else of JAX; without arguments where the cluster tells (TPU, Slurm).

    Args:
      coordinator: HOST:PORT where process 0 listens.
      processes: of the run.
      process: the number of this one, from 0.

    Raises:
      ValueError: if only some are given, if they do not fit, or if the others cannot be reached.
    """
    import jax

    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise ValueError("--coordinator, --processes and --process belong together: give all three, or --distributed")
    if all(given) and not 0 <= process < processes:
        raise ValueError(f"--process={process}: must be at least 0 and below --processes={processes}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # without it CPU processes cannot exchange arrays
    try:
        # Told of its place, a process does not ask the cluster, which might give it a part of its devices only.
        detection = "deactivate" if all(given) else None
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method=detection,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_S,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the processes of this run did not come together ({reason}); where no cluster is detected, give "
            "--coordinator=HOST:PORT --processes=N --process=I"
        ) from error


def several() -> bool:
    """Whether this process is one of several."""
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the one process that writes."""
    if not several():
        return True
    import jax

    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come here; all come to the same ones in the same order."""
    if several():
        from orbax.checkpoint import multihost

        # Over the coordinator: an exchange between the devices waits half a minute for the others, no longer.
        wait = multihost.get_barrier_sync_fn()
        wait(key=f"{what} {next(_barriers)}", timeout_ms=1000 * BARRIER_TIMEOUT_S)


class Together:
    """Together(jitted)(...) is jitted(...), of which no process runs a new program before all have compiled it.

    Where the devices of processes exchange arrays by Gloo, one that comes to the first exchange half a minute after another
    is taken for lost.
    """

    def __init__(self, jitted: Callable):
        self.jitted = jitted
        self._compiled: set = set()

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        if several():
            import jax

            shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(arguments))
            asked = (shapes, tuple(sorted(static.items())))
            if asked not in self._compiled:
                self.jitted.lower(*arguments, **static).compile()
                wait_for_all("compiled")
                self._compiled.add(asked)
        return self.jitted(*arguments, **static)


def part() -> bool:
    """Ends what the processes have in common; returns whether this one is the first, which may go on alone.

    Else one that ends early would wait for the others, and be taken for lost by them.
    """
    first = is_first()
    if several():
        import jax

        wait_for_all("part")
        jax.distributed.shutdown()
    return first
