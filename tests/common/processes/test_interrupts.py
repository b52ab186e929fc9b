"""Signals: one line, exit status 128 plus the signal's number, and nothing that was finished is lost."""

import os
import signal
import time

import pytest

import cli
from common.processes import interrupts
from common.records.store import Records
from tests.forked import fork
from tests.test_invariance import exact_part

FEW = {"batch_size": 1, "test_images": 5}  # each batch is filled up to 16 rows


def at_row(count, name):
    """A change that sends this process a signal when it has appended its ``count``-th rows."""

    def change():
        append, calls = Records.append, []

        def appended(self, records):
            append(self, records)
            calls.append(1)
            if len(calls) == count:
                os.kill(os.getpid(), getattr(signal, name))

        Records.append = appended

    return change


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory):
    """Configuration of a small test, and its records without an interruption."""
    from tests.tiny_test import write_tiny_test

    folder = tmp_path_factory.mktemp("finished")
    cli.main(["test", "-c", str(write_tiny_test(weights, folder, data={"test_images": 5}))])
    return folder / "records"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_test_ends_after_the_row_in_hand(tiny_test, tmp_path, rows, finished, name, capsys):
    """The gradient check appends first, then two evaluators per batch of one image: two images are complete."""
    config = str(tiny_test(data=FEW))
    run = fork(["test", "-c", config], tmp_path / "log", at_row(6, name))
    assert run.wait() == 128 + getattr(signal, name)
    assert run.output.splitlines()[-1] == "interrupted after 2 of 5 images; the same command goes on"
    assert "Traceback" not in run.output
    assert not (tmp_path / "records" / "records.jsonl").exists()
    assert len(Records.read(tmp_path / "records")) == 5
    if name == "SIGTERM":
        cli.main(["test", "-c", config])
        assert f"found 2 of 5 images in {tmp_path / 'records'}; goes on" in capsys.readouterr().out.replace("\n", "")
        assert exact_part(rows(tmp_path / "records")) == exact_part(rows(finished))


def test_a_signal_before_the_first_row_ends_at_once(tiny_test, tmp_path):
    """Nothing is in hand while networks are loaded and gradients are checked."""

    def change():
        from common.tasks import robust

        robust.check_certifiers = lambda *parts: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(30))

    run = fork(["test", "-c", str(tiny_test())], tmp_path / "log", change)
    assert run.wait() == 143
    assert run.output.splitlines()[-1].startswith("interrupted")


@pytest.mark.parametrize("signum", interrupts.SIGNALS)
def test_every_signal_is_deferred_and_has_its_status(signum):
    """As well as raised at once while nothing is in hand; afterwards the handlers are the earlier ones."""
    handler, own = signal.getsignal(signum), interrupts.Interrupts()
    own._end_after = lambda *_: None  # this process goes on
    with own.handled(), pytest.raises(interrupts.Interrupted) as left:
        signal.raise_signal(signum)
    assert left.value.code == 128 + signum
    with own.handled():
        own.check()
        own.defer()
        signal.raise_signal(signum)
        assert own.received == signum
        with pytest.raises(interrupts.Interrupted):
            own.check()
    assert signal.getsignal(signum) is handler


def test_a_process_in_a_long_call_is_ended(tmp_path):
    """The main thread runs no Python, as in a collective that waits for another rank; ``nohup`` is respected."""

    def change():
        interrupts.GRACE = 0.5
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

        def stuck(arguments):
            interrupts.INTERRUPTS.defer()
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigwait([signal.SIGUSR2])

        import common.commands.presets

        common.commands.presets.run = stuck

    start = time.monotonic()
    run = fork(["presets"], tmp_path / "log", change)
    assert (run.wait(), run.output) == (143, "interrupted\n")
    assert time.monotonic() - start < 20
