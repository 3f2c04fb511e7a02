"""The process of a stage: it runs once at a time, and ends with DVC or on a signal."""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from stages.distil.interface.errors import UserError

LOCKS = Path(".cache/locks")
PATIENCE = 30  # seconds to wait for a process that is ending
ENDING = (signal.SIGHUP, signal.SIGTERM)
STAGE = "DVC_STAGE"  # variable that DVC sets for a stage: its name, or NAME@ITEM
PARENT = "STAGES_PARENT"  # variable that stages/python sets: the number of its parent process


def item_of_dvc(name: str) -> str | None:
    """Return the item for which DVC runs this stage, such as a teacher's name; None without DVC.

    From a subfolder, DVC names a stage with its file: `../dvc.yaml:rationales@TEACHER`.
    """
    return os.environ.get(STAGE, "").partition(f"{name}@")[2] or None


@contextmanager
def run_alone(label: str) -> Iterator[None]:
    """Keep a second process from running the same stage, and from writing the same files.

    The kernel releases the lock when the process ends, however it ends. A process that has been
    told to end may need a moment: it is waited for. Raises `UserError` that names the process.
    """
    from filelock import FileLock, Timeout  # importing it takes a while

    LOCKS.mkdir(parents=True, exist_ok=True)
    path = LOCKS / f"{quote(label, safe='@')}.lock"
    lock = FileLock(path)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print(f"{label}: waiting for {_holder(path)} to end", file=sys.stderr)
            lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise UserError(
            f"{_holder(path)} already runs {label}; wait until it ends, or end it, then run again"
        ) from None
    with lock:
        yield


def _holder(path: Path) -> str:
    """Return the process that holds a lock, for messages; /proc/locks names it by the inode."""
    inode = str(path.stat().st_ino)
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        locks = []
    fields = [line.split() for line in locks if " FLOCK " in line and "->" not in line]
    numbers = [line[4] for line in fields if line[5].rpartition(":")[2] == inode]
    return f"process {numbers[0]}" if numbers else "another process"


def end_on_signals(name: str) -> None:
    """Let SIGTERM and SIGHUP end the process with a line, as an error would: files are tidied up.

    Further signals are ignored meanwhile: those to DVC and to its group may arrive one by one. A
    signal that is ignored already stays so, as `nohup` wants it.
    """
    process = os.getpid()

    def end(number: int, _: object) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        if os.getpid() == process:  # and not a fork that a library ends
            # The signal may have come in the middle of a `print`, which cannot be entered twice.
            line = f"{name}: ended by {signal.Signals(number).name}; run again to resume\n"
            os.write(2, line.encode())
        sys.exit(128 + number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def end_with_dvc() -> None:
    """End this process by SIGTERM when the DVC that started it has ended, also by SIGKILL.

    DVC would leave its stage running, and the next `dvc repro` would start a second one.
    """
    number = os.environ.get(PARENT)
    if number is None or STAGE not in os.environ:
        return
    try:
        parent = os.pidfd_open(int(number))
    except ProcessLookupError:
        signal.raise_signal(signal.SIGTERM)
        return
    except OSError:  # a kernel before 5.3
        return

    def wait() -> None:
        select.select([parent], [], [])
        main = threading.main_thread().ident
        assert main
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
