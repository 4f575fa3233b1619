"""Where files that are not trusted are opened: in quiet, and within bounds of memory.

A copy of this module lies in every export folder. Standard library only, but for onnxruntime where that is used.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

THREAD_BYTES = 2**27 + 2**23  # of address space that a thread takes at once: glibc's heap for it, and a stack
MOST_THREADS = 1024  # more than any such machine has cores for; LiteRT takes whatever fits into an integer
_ONE_AT_A_TIME = threading.Lock()  # descriptors and limits are the whole process's


def check_threads(threads: int) -> None:
    """Raises ValueError for a number of threads that LiteRT or onnxruntime shall not be asked for."""
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads={threads}: give a whole number of at least 1 and at most {MOST_THREADS}")


@contextlib.contextmanager
def confined(file: Path, more_bytes: int | None) -> Iterator[None]:
    """Silences what libraries write to descriptor 2, and bounds what memory they take while they open a file.

    Args: more_bytes: of address space, besides what this process has now and four times the file's size; None: no bound. Only
      Linux knows such a bound; where it cannot be set, there is none. Other threads are held to it too for so long.
    """
    bounded = contextlib.nullcontext() if more_bytes is None else _bounded(more_bytes + 4 * file.stat().st_size)
    with _ONE_AT_A_TIME, _quiet(), bounded:
        yield


@contextlib.contextmanager
def _bounded(more_bytes: int) -> Iterator[None]:
    try:
        import resource

        taken_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        bound = taken_bytes + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (bound if soft == resource.RLIM_INFINITY else min(bound, soft), hard))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What is wrong comes as an exception too."""
    try:
        kept = os.dup(2)
    except OSError:  # closed, as some services have it
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def bound_onnx(options: Any, most_bytes: int) -> None:
    """Bounds what sessions of onnxruntime with these options may take as they run: all of a process together.

    LiteRT needs no such bound: `soundness` refuses graphs whose sizes depend on what flows.
    """
    if _onnx_heap(most_bytes):
        options.add_session_config_entry("session.use_env_allocators", "1")


@functools.cache
def _onnx_heap(most_bytes: int) -> bool:
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    cpu = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    try:  # there is one a process
        onnxruntime.create_and_register_allocator(cpu, onnxruntime.OrtArenaCfg(most_bytes, -1, -1, -1))
    except Exception:  # its exceptions have no base of their own
        return False
    return True


def first_line(error: BaseException) -> str:
    """Of an exception's text; LiteRT's has none where memory did not suffice."""
    return next(iter(str(error).strip().splitlines()), f"{type(error).__name__}, as where it needs too much memory")


def is_of_memory(error: BaseException) -> bool:
    """Whether LiteRT, its XNNPACK or onnxruntime say by an exception that they got too little memory."""
    return isinstance(error, MemoryError) or re.search("alloc|memory|XNNPack", first_line(error), re.I) is not None
