"""Real DVC commands."""

import subprocess

import pytest

from stages.distil.experiments.commands import dvc
from stages.distil.experiments.queue import status
from stages.distil.interface.errors import UserError


def test_an_error_of_dvc_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="`dvc exp list` failed: you are not inside of a DVC"):
        dvc("exp", "list")


def test_experiments_are_committed_without_a_git_user_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {evaluate: {cmd: echo x, params: [alpha]}}")
    (tmp_path / "params.yaml").write_text("alpha: 0\nseed: 0\n")
    dvc("init", "-q")
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "x"]
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(commit, check=True)
    dvc("exp", "run", "--queue", "--name", "plain", "--set-param", "alpha=1")
    assert status() == ({"plain": "Queued"}, 0)
