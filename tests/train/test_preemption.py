"""SIGTERM, sent for real: to this process, to a whole command, and to one of two processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from dynnas_jax.train import preemption


def told(printed):
    """What a process printed as JSON, among lines of Gloo."""
    return json.loads(next(line for line in printed.splitlines() if line.startswith("{")))


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def before():
    """A handler that only notes, so that a mistake ends the test and not the tests."""
    passed_on = []
    old = signal.signal(signal.SIGTERM, lambda *_: passed_on.append(True))
    yield passed_on
    signal.signal(signal.SIGTERM, old)


def test_training_is_asked_to_stop_at_the_next_call(before):
    handler = signal.getsignal(signal.SIGTERM)
    with preemption.notice() as asked:
        assert not asked()
        terminate()
        assert asked()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert before == []


def test_a_notice_after_the_last_call_is_passed_on(before):
    with preemption.notice() as asked:
        assert not asked()
        terminate()
    assert before == [True]


def test_a_notice_is_not_passed_on_over_an_error(before):
    def broken():
        with preemption.notice():
            terminate()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        broken()
    assert before == []


def test_elsewhere_it_ends_the_command_at_once(before):
    def command():
        with preemption.at_once():
            with preemption.notice() as asked:
                terminate()
                assert asked()
            terminate()
            time.sleep(5)

    with pytest.raises(preemption.Preempted, match="goes on where this one stopped") as ended:
        command()
    assert ended.value.code == preemption.EXIT_CODE == 75
    assert not isinstance(ended.value, Exception)
    terminate()
    assert before == [True]


def test_an_end_that_gets_lost_comes_again(before):
    """As in a destructor, from which no exception gets out."""

    def command():
        with preemption.at_once():
            with contextlib.suppress(BaseException):
                terminate()
                time.sleep(5)
            time.sleep(5)

    handler, start_s = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(preemption.Preempted):
        command()
    assert time.monotonic() - start_s < 4
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_other_threads_are_left_alone(before):
    heard = []

    def work():
        with preemption.at_once(), preemption.notice() as asked:
            terminate()
            heard.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (heard, before) == ([False], [True])


def test_the_exit_code_of_a_command():
    script = """
        import os, signal, sys
        from dynnas_jax.train import preemption
        assert "jax" not in sys.modules
        with preemption.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (75, "", "")


def test_two_processes_stop_after_the_same_step(two_processes):
    """One is told, both stop; later, outside of training, the other is told and ends by itself."""
    script = """
        import json, os, signal, sys, time
        from dynnas_jax import processes
        from dynnas_jax.train import preemption
        me = int(sys.argv[2])
        processes.join(sys.argv[1], 2, me)
        found = {}
        try:
            with preemption.at_once():
                with preemption.notice() as asked:
                    for step in range(0, 4000, 8):
                        if step == 80 and me == 1:
                            os.kill(os.getpid(), signal.SIGTERM)
                        time.sleep(0.01 * (1 + me))
                        if asked():
                            found["step"] = step
                            break
                processes.wait_for_all("stopped")
                if me == 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(5)
                    found["late"] = True
        except preemption.Preempted as ended:
            found["code"] = ended.code
        processes.wait_for_all("end")
        print(json.dumps(found))
    """
    first, second = (told(text) for text in two_processes(textwrap.dedent(script)))
    assert first["step"] == second["step"] > 80
    assert (first, second) == ({"step": first["step"], "code": 75}, {"step": first["step"]})
