"""Outputs that are damaged in place, under real DVC."""

import os
import subprocess
from pathlib import Path

import pytest

from stages.distil.verification.cache import mend
from tests.test_pipeline import DVC

pytestmark = pytest.mark.slow
PIPELINE = """
stages:
  make:
    cmd: cp input table && mkdir folder && cp input folder/part && echo >> folder/part
    deps: [input]
    outs: [table, folder]
"""


def dvc(*arguments: str) -> str:
    done = subprocess.run([DVC, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def lock(tmp_path, monkeypatch) -> str:
    """The dvc.lock of a run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init", "-q")
    dvc("config", "cache.type", "hardlink,copy")
    Path("dvc.yaml").write_text(PIPELINE)
    Path("input").write_text("as it was written")
    dvc("repro")
    return Path("dvc.lock").read_text()


def overwrite(path: Path) -> None:
    """Write as root does, whom the mode of a file does not stop."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_text("damaged")
    os.chmod(path, mode)


def test_intact_outputs_stay(lock, capsys):
    mend()
    assert capsys.readouterr().out == "3 files of DVC's cache: all as they were written\n"
    assert "didn't change" in dvc("repro")


@pytest.mark.parametrize("name", ["table", "folder/part"])
def test_a_damaged_output_is_made_again(lock, name, capsys):
    overwrite(Path(name))
    if name == "table":
        dvc("repro")
        assert Path(name).read_text() == "damaged"  # as DVC brings it back from its cache
    mend()
    assert f"{name}: damaged, removed\n" in capsys.readouterr().out
    dvc("repro")
    assert Path("table").read_text() == "as it was written"
    assert Path("folder/part").read_text() == "as it was written\n"
    assert Path("dvc.lock").read_text() == lock


def test_a_damaged_list_of_files_is_made_again(lock, capsys):
    [listing] = Path(".dvc/cache/files/md5").glob("*/*.dir")
    overwrite(listing)
    mend()
    assert "1 of 3 files of DVC's cache were damaged" in capsys.readouterr().out
    dvc("repro")
    assert Path("folder/part").read_text() == "as it was written\n"
    assert Path("dvc.lock").read_text() == lock
