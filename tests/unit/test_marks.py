"""Marks: what a dead process was doing, told by its file and by the lock that the kernel dropped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from actors.runtime import marks
from actors.runtime.marks import ENDED, IDLE, SLOT, STARTED, Marks
from tests.support import wait_for

#: A process that starts three attempts, ends one, settles another, says so, and waits to be killed.
PROGRAM = """
import signal, sys
from pathlib import Path
from uuid import UUID
from actors.runtime import marks

marks.marks_folder = lambda: Path(sys.argv[1])
worker, started, ended, settled = (UUID(text) for text in sys.argv[2:])
mine = marks.Marks(worker, 4)
mine.started(started)
mine.ended(mine.started(ended))
mine.idle(mine.started(settled))
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Marks lie in a folder of this test's own."""
    own = tmp_path / "marks"
    monkeypatch.setattr(marks, "marks_folder", lambda: own)
    return own


@contextmanager
def open_marks(slots: int = 4) -> Iterator[Marks]:
    """The marks of this process."""
    mine = Marks(uuid4(), slots)
    try:
        yield mine
    finally:
        mine.close()


def test_a_living_process_is_not_left_behind() -> None:
    with open_marks() as mine:
        assert not marks.process_is_dead(mine.path)
        assert list(marks.left_behind()) == []


def test_marks_that_were_closed_in_good_order_are_gone(folder: Path) -> None:
    with open_marks():
        assert len(list(folder.iterdir())) == 1
    assert list(folder.iterdir()) == []
    assert list(marks.left_behind()) == []


def test_a_killed_process_is_known_at_once_with_what_it_was_doing(folder: Path) -> None:
    worker, started, ended, settled = (uuid4() for _ in range(4))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder, *map(str, (worker, started, ended, settled))], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        assert list(marks.left_behind()) == []  # alive so far
        process.kill()
        process.wait()
    ((dead, path),) = marks.left_behind()
    assert dead == worker
    assert marks.read(path) == marks.Testimony([str(started)], [str(ended)])


def test_a_stopped_process_is_alive(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder, *(str(uuid4()) for _ in range(4))], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert list(marks.left_behind()) == []
        process.kill()
        process.wait()
    assert len(list(marks.left_behind())) == 1


def test_each_state_of_a_slot_is_told_as_it_is() -> None:
    with open_marks() as mine:
        first, second = uuid4(), uuid4()
        slot, other = mine.started(first), mine.started(second)
        assert set(marks.read(mine.path).started) == {str(first), str(second)}
        mine.ended(slot)
        assert marks.read(mine.path) == marks.Testimony([str(second)], [str(first)])
        mine.idle(slot)
        mine.idle(other)
        assert marks.read(mine.path) == marks.Testimony([], [])


def test_a_process_that_was_asked_to_stop_has_said_so_for_good() -> None:
    with open_marks(slots=1) as mine:
        token = uuid4()
        mine.started(token)
        assert not marks.read(mine.path).asked_to_stop
        mine.asked_to_stop()
        assert marks.read(mine.path) == marks.Testimony([str(token)], [], asked_to_stop=True)
        mine.idle(0)
        mine.started(uuid4())
        assert marks.read(mine.path).asked_to_stop
    mine.asked_to_stop()  # too late, and no harm


def test_slots_are_used_again_and_run_out_without_harm() -> None:
    with open_marks(slots=2) as mine:
        slots = [mine.started(uuid4()) for _ in range(3)]
        assert sorted(slots) == [-1, 0, 1]
        mine.ended(-1)  # an attempt without a slot
        mine.idle(-1)
        assert len(marks.read(mine.path).started) == 2
        mine.idle(slots[0])
        again = uuid4()
        assert mine.started(again) == slots[0]
        assert str(again) in marks.read(mine.path).started


def test_the_token_is_written_before_the_state_that_vouches_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_marks(slots=1) as mine:
        memory, written = mine._memory, []

        class Watched:
            def __setitem__(self, at: slice | int, value: bytes | int) -> None:
                written.append(at)
                memory[at] = value  # type: ignore[index]

            def close(self) -> None:
                memory.close()

        monkeypatch.setattr(mine, "_memory", Watched())
        mine.started(uuid4())
        assert written == [slice(16, SLOT), 0]


def test_a_file_whose_owner_has_not_locked_it_yet_is_no_death(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / f"{uuid4()}.marks").touch()
    assert list(marks.left_behind()) == []


def test_other_files_in_the_folder_are_passed_over(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "notes.txt").write_text("mine")
    (folder / "not-an-id.marks").write_bytes(bytes(SLOT))
    dead = uuid4()
    (folder / f"{dead}.marks").write_bytes(bytes(SLOT))
    (folder / f"{uuid4()}.marks").mkdir()
    assert [worker for worker, _ in marks.left_behind()] == [dead]


def test_no_folder_means_no_deaths() -> None:
    assert list(marks.left_behind()) == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", ([], [])),
        (bytes([STARTED]), ([], [])),  # cut in the middle of a slot
        (bytes([IDLE]) + bytes(15) + UUID(int=7).bytes, ([], [])),
        (bytes([9]) + bytes(15) + UUID(int=7).bytes, ([], [])),  # a state of a later version
        (bytes([STARTED]) + bytes(15) + UUID(int=7).bytes + b"\x01\x02", ([str(UUID(int=7))], [])),
        (bytes([ENDED]) + bytes(15) + UUID(int=8).bytes, ([], [str(UUID(int=8))])),
    ],
    ids=["empty", "cut", "idle", "unknown", "cut-behind", "ended"],
)
def test_what_was_written_half_tells_what_it_can(tmp_path: Path, data: bytes, told: tuple[list[str], ...]) -> None:
    path = tmp_path / "half.marks"
    path.write_bytes(data)
    assert marks.read(path)[:2] == told


def test_the_folder_is_its_users_alone(folder: Path) -> None:
    with open_marks():
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    with pytest.raises(PermissionError):
        Marks(uuid4(), 1)
    assert list(elsewhere.iterdir()) == []


def test_a_child_that_an_actor_forked_does_not_keep_its_dead_parent_alive(folder: Path) -> None:
    """A fork shares the parent's open files, and with them a lock of flock's kind."""
    forking = PROGRAM.replace('print("ready"', "import os\nif os.fork() == 0: signal.pause()\nprint('ready'")
    assert forking != PROGRAM
    process = subprocess.Popen(
        [sys.executable, "-c", forking, folder, *(str(uuid4()) for _ in range(4))],
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        with process.stdout:
            process.stdout.readline()
            process.kill()
            process.wait()
            wait_for(lambda: list(marks.left_behind()), 1, what="the death to be seen")
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_reads_takes_no_lock_from_its_owner() -> None:
    with open_marks() as mine:
        for _ in range(3):
            assert not marks.process_is_dead(mine.path)
            marks.read(mine.path)
        # Asked by another process: a lock of this kind does not stand in the way of its own.
        asking = f"import fcntl; fcntl.lockf(open({str(mine.path)!r}, 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        refused = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=False)
        assert "BlockingIOError" in refused.stderr


def test_processes_of_one_host_agree_on_its_id_and_another_folder_is_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert marks.host_id() == marks.host_id()
    assert len(marks.host_id()) == 32
    before = marks.host_id()
    monkeypatch.setattr(marks, "marks_folder", lambda: tmp_path / "elsewhere")
    assert marks.host_id() != before
