"""Notice that this machine is about to be taken away (SIGTERM): training ends at a step that a checkpoint holds."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

from dynnas_jax import processes

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command may do better later
AGAIN_S = 1.0  # after which the end is tried again

_calls = itertools.count()  # of `asked`, alike in all processes of a run


class Preempted(SystemExit):
    """Ends the command with `EXIT_CODE`. No `Exception`: what handles errors on the way must not handle this."""

    def __init__(self, line: str):
        super().__init__(EXIT_CODE)
        self.line = line

    def __str__(self) -> str:
        return self.line


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """For the whole command: SIGTERM raises `Preempted` in the main thread, since artifacts are written whole or not at all.

    Of several processes: entered when they have come together, since JAX takes the signal for itself then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_):
        # Again and again: where it meets a destructor or a callback from C, the exception gets lost.
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise Preempted("terminated; the same command goes on where this one stopped")

    of_jax = _handler_of_c(signal.SIG_IGN) if processes.several() else None
    before, alarm = signal.signal(signal.SIGTERM, end), signal.signal(signal.SIGALRM, end)
    _of_jax.append(of_jax)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _of_jax.pop()
        signal.signal(signal.SIGALRM, alarm if alarm is not None else signal.SIG_DFL)
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        if of_jax is not None:
            _handler_of_c(of_jax)


@contextlib.contextmanager
def notice() -> Iterator[Callable[[], bool]]:
    """During training: SIGTERM is noted, and `asked()` says so from the next call on; all processes of a run from the same one.

    `asked` is to be called by every process after the same steps. A notice that came after its last call is passed on to the
    handler there was before, unless an error ends the training. Without effect outside of the main thread.
    """
    if processes.several():
        with _jax_listens():
            asked = _Agreed()
            yield asked
            late = not asked.heard and asked()
        if late:
            signal.raise_signal(signal.SIGTERM)
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    noted, heard = threading.Event(), False

    def asked() -> bool:
        nonlocal heard
        heard = noted.is_set()
        return heard

    before = signal.signal(signal.SIGTERM, lambda *_: noted.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
    if noted.is_set() and not heard:
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def together() -> Iterator[Callable[[], bool]]:
    """As `notice`, for work whose parts are kept when they are done; a process alone ends at once instead."""
    if not processes.several():
        yield lambda: False
        return
    with notice() as asked:
        yield asked


class _Agreed:
    """asked() -> whether all processes are to stop: from the first call on that none has made yet when one is noticed.

    The calls are counted, not the steps, since JAX waits for one number after the other.
    """

    heard = False

    def __call__(self) -> bool:
        from jax.experimental import multihost_utils

        self.heard = self.heard or multihost_utils.reached_preemption_sync_point(next(_calls))
        return self.heard


# The handler of JAX's coordination service is one of C, which Python can neither name nor put back.
_of_jax: list[int | None] = []


def _handler_of_c(address: int) -> int:
    """Puts a handler of SIGTERM in place by its address; the address of the one before."""
    put = ctypes.CDLL(None).signal
    put.restype, put.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    return put(signal.SIGTERM, address) or 0


@contextlib.contextmanager
def _jax_listens() -> Iterator[None]:
    """JAX's handler takes the place of the one of `at_once`, if that is entered."""
    of_jax = _of_jax[-1] if _of_jax else None
    if of_jax is None:
        yield
        return
    before = _handler_of_c(of_jax)
    try:
        yield
    finally:
        _handler_of_c(before)
