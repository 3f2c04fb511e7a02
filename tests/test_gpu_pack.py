"""benchmarks.gpu.pack: packages in pieces, with a wheel made on the spot in vLLM's place."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu import pack

NAME = "stand_in-1.0-py3-none-any.whl"
FILES = {
    "stand_in/__init__.py": b"VALUE = 42\n",
    "stand_in/flash/_fa2_C.abi3.so": b"\x7fELF" + b"2" * 5000,
    "stand_in/flash/_fa3_C.abi3.so": b"\x7fELF" + bytes(range(256)) * 20,
    "stand_in-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n",
    "stand_in-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: any\n",
}
OUTPUT = "--output-file"
RECORD = "stand_in-1.0.dist-info/RECORD"


def write_wheel(folder: Path) -> Path:
    lines = []
    with zipfile.ZipFile(folder / NAME, "w") as wheel:
        for name, data in FILES.items():
            wheel.writestr(zipfile.ZipInfo(name), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(data)}\n")
        wheel.writestr(zipfile.ZipInfo(RECORD), "".join(lines) + f"{RECORD},,\n")
    return folder / NAME


@pytest.fixture
def pieces(tmp_path, monkeypatch):
    """Pieces of 1,000 bytes of the wheel without a file, and the wheel."""
    monkeypatch.setattr(pack, "PIECE", 1000)
    wheel = write_wheel(tmp_path)
    assert pack.slim(wheel, ["stand_in/flash/_fa2_C*"]) == ["stand_in/flash/_fa2_C.abi3.so"]
    pack.split([wheel], tmp_path / "pieces")
    return tmp_path / "pieces", wheel


def test_the_pieces_join_to_the_same_wheel(pieces, tmp_path):
    folder, wheel = pieces
    sizes = [file.stat().st_size for file in sorted(folder.glob("piece-*"))]
    assert len(sizes) > 2
    assert set(sizes[:-1]) == {1000} and sizes[-1] <= 1000
    [joined] = pack.join(folder, tmp_path / "joined")
    assert joined.name == NAME
    assert joined.read_bytes() == wheel.read_bytes()
    pack.split([wheel], tmp_path / "again")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_what_is_unpacked_can_be_imported_without_the_excluded_files(pieces, tmp_path):
    folder, _ = pieces
    command = [sys.executable, pack.__file__, "unpack", str(folder), str(tmp_path / "packages")]
    subprocess.run(command, check=True, env={"PIP_CONFIG_FILE": "/dev/null"})
    installed = tmp_path / "packages/stand_in"
    assert sorted(file.name for file in (installed / "flash").iterdir()) == ["_fa3_C.abi3.so"]
    third = "stand_in/flash/_fa3_C.abi3.so"
    assert (tmp_path / "packages" / third).read_bytes() == FILES[third]
    assert "_fa2_C" not in (tmp_path / "packages" / RECORD).read_text()
    code = "import stand_in, importlib.metadata as m; print(stand_in.VALUE, m.version('stand-in'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "packages")},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "42 1.0\n"


def test_a_wheel_without_such_files_keeps_its_bytes(tmp_path):
    wheel = write_wheel(tmp_path)
    before = wheel.read_bytes()
    assert pack.slim(wheel, ["other/*"]) == []
    assert wheel.read_bytes() == before


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda piece: piece.unlink(), "no such file; carry this piece too"),
        (lambda piece: piece.write_bytes(b"x" * 1000), "its SHA-256 is not that of manifest.json"),
    ],
)
def test_a_missing_or_damaged_piece_is_named(pieces, tmp_path, harm, message):
    folder, _ = pieces
    harm(folder / "piece-001")
    with pytest.raises(SystemExit, match=f"piece-001: {message}"):
        pack.join(folder, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_pieces_without_a_manifest_are_refused(pieces, tmp_path):
    folder, _ = pieces
    (folder / pack.MANIFEST).unlink()
    with pytest.raises(SystemExit, match="manifest.json: no such file"):
        pack.join(folder, tmp_path / "joined")


def test_only_packages_that_are_missing_or_do_not_suit_are_carried(monkeypatch):
    def resolve(command, **settings):
        assert settings["input"] == "vllm==0.26.0"
        files = {key: Path(command[command.index(key) + 1]) for key in ("--constraint", OUTPUT)}
        assert files["--constraint"].read_text() == "torch==2.11.0\n"
        assert files[OUTPUT].read_text() == (
            "torch==2.11.0\nTyping_Extensions==4.1\nsetuptools==81.0\n"
        )
        files[OUTPUT].write_text(
            "torch==2.11.0\nvllm==0.26.0\ntyping-extensions==4.1\ntorchvision==0.26\nxgrammar==1\n"
            "setuptools==80.0\n"
        )
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr(subprocess, "run", resolve)
    have = ["torch==2.11.0", "Typing_Extensions==4.1", "setuptools==81.0", "local @ file:///x"]
    found = pack.missing_packages(["vllm==0.26.0"], [*have, "-e ."], ["torch"], ["torchv*"], "3.12")
    assert found == ["vllm==0.26.0", "xgrammar==1", "setuptools==80.0"]


def test_packages_that_cannot_be_resolved_end_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "freeze.txt").write_text("torch==2.11.0\n")
    failed = subprocess.CompletedProcess([], 1, stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    line = ["pack.py", "pack", "pieces", "vllm==0.26.0", "--have", str(tmp_path / "freeze.txt")]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit, match=r"pack.py: error: .*uv pip compile failed: exit code 1"):
        pack.main()
