"""Files are replaced as a whole, whatever happens; what a killed process left is removed at the next start."""

import os
import signal
import threading

import pytest

from common.files import replacing as module
from common.files.errors import FileError
from common.files.replacing import UNFINISHED, remove_leftovers, replacing, unfinished_name, write, write_all


def test_the_file_is_complete_under_its_name_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    with replacing(path) as unfinished:
        assert unfinished.parent == tmp_path and path.read_text() == "old"
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
    assert [*tmp_path.iterdir()] == [path]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "any").touch()
    for path in (write(tmp_path / "a", "x"), write(tmp_path / "b", b"x")):
        assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = write(tmp_path / "a.txt", "old")

    def interrupted():
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_none_of_several_files_is_replaced_unless_all_are_written(tmp_path):
    first = write(tmp_path / "a.txt", "old")
    with pytest.raises(FileError, match=r"cannot write the tables .*missing.b\.txt: No such file"):
        write_all({first: "new", tmp_path / "missing" / "b.txt": "new"}, "write the tables")
    assert first.read_text() == "old" and [*tmp_path.iterdir()] == [first]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    kept = write(tmp_path / "kept.txt", "kept")
    (tmp_path / "link.txt").symlink_to(kept)
    write(tmp_path / "link.txt", "new")
    assert kept.read_text() == "kept" and (tmp_path / "link.txt").read_text() == "new"


def test_long_names_and_names_that_are_no_text(tmp_path):
    for name in ("x" * 255, "é" * 127, os.fsdecode(b"a\xff.png")):
        assert write(tmp_path / name, "x").read_text() == "x"
    assert write(tmp_path / "table.csv", "a\udcff\r\n").read_bytes() == b"a\\udcff\r\n"


def test_readers_see_one_version_or_the_other(tmp_path):
    """As a job array that reads configurations while another of its jobs writes them."""
    path, seen, done = write(tmp_path / "a.yaml", "0" * 9999), set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(len(path.read_text()))

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(100):
        write(path, str(version % 10) * 9999)
    done.set()
    reader.join()
    assert seen == {9999}


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    path = write(tmp_path / "a.txt", "old")
    child = os.fork()
    if child == 0:  # is killed in the middle of its write
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = tmp_path.glob(f"{UNFINISHED}*")
    own = write(tmp_path / unfinished_name(), "this process is writing it")
    foreign = write(tmp_path / f"{UNFINISHED}other-host-1-0123abcd", "of another machine")
    odd = write(tmp_path / f"{UNFINISHED}odd", "of nobody")
    assert path.read_text() == "old"
    remove_leftovers(tmp_path)
    assert not left.exists() and {*tmp_path.iterdir()} == {path, own, foreign, odd}
    os.utime(foreign, (0, 0))
    remove_leftovers(tmp_path)
    assert not foreign.exists() and {*tmp_path.iterdir()} == {path, own, odd}
    remove_leftovers(tmp_path / "missing")


def test_a_process_of_another_user_is_running(monkeypatch):
    def kill(process, number):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.os, "kill", kill)
    assert module.is_running(1)
