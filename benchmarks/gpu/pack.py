"""Carry packages to a GPU machine without a package index, in pieces of less than 64 MiB.

Here, with the machine's `pip freeze` and Python version:
    .venv/bin/python benchmarks/gpu/pack.py pack pieces --have freeze.txt --python 3.12 vllm==0.26.0
There, with any Python of that version that has pip:
    python3 benchmarks/gpu/pack.py unpack pieces packages
    PYTHONPATH=packages:. python3 -m benchmarks.gpu.check
`pack` resolves what the packages need besides those that are there, downloads the wheels, leaves
out the files that --exclude names and the packages that --without names, and writes pieces with a
manifest of their digests. Packages of the machine whose versions do not suit are packed too, but
for those that --keep names: if these do not suit, it ends with uv's reason. It needs uv and pip,
`unpack` the standard library and pip alone.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

PIECE = 60 * 2**20  # bytes
MANIFEST = "manifest.json"
GLIBC = 35  # 2.35, that of Ubuntu 22.04; wheels for an older one run too
PLATFORMS = [f"manylinux_2_{version}_x86_64" for version in range(GLIBC, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
EXCLUDED = ["vllm/vllm_flash_attn/_vllm_fa2_C*"]  # 130 MB; Hopper GPUs use _vllm_fa3_C


def call(command: Sequence[str], **options: Any) -> str:
    """Return what a command prints; end the program if it fails, which has said why."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        sys.exit(f"pack.py: error: {' '.join(command[:3])} failed: exit code {done.returncode}")
    return done.stdout


def package_names(requirements: Iterable[str]) -> dict[str, str]:
    """Return lines such as `A_b==1.0` by the normalised name of their package, `a-b`."""
    found = {}
    for line in requirements:
        if match := re.match(r"[\w.-]+", line.strip()):
            found[re.sub(r"[-_.]+", "-", match[0]).lower()] = line.strip()
    return found


def missing_packages(
    wanted: Sequence[str],
    have: Sequence[str],
    keep: Collection[str],
    without: Collection[str],
    python: str,
) -> list[str]:
    """Return the pinned packages that `wanted` needs besides those of a `pip freeze`.

    A package of the machine stays if its version suits; another version of it is carried if not,
    but of those that match `keep`.
    """
    there = {name: line for name, line in package_names(have).items() if "==" in line}
    kept = [line for name, line in there.items() if any(fnmatch(name, p) for p in keep)]
    with tempfile.TemporaryDirectory() as folder:
        constraints, resolved = Path(folder, "keep.txt"), Path(folder, "resolved.txt")
        constraints.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        # uv prefers the versions that its output file has.
        resolved.write_text("".join(f"{line}\n" for line in there.values()), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "-", "--quiet"]
        command += ["--no-header", "--no-annotate", "--constraint", str(constraints)]
        command += ["--python-version", python, "--python-platform", f"x86_64-manylinux_2_{GLIBC}"]
        call([*command, "--output-file", str(resolved)], input="\n".join(wanted))
        needed = package_names(resolved.read_text(encoding="utf-8").splitlines())
    return [
        line
        for name, line in needed.items()
        if _version(line) != _version(there.get(name, ""))
        and not any(fnmatch(name, pattern) for pattern in without)
    ]


def _version(line: str) -> str:
    return line.partition("==")[2]


def download(packages: Sequence[str], python: str, folder: Path) -> None:
    """Download the wheels of pinned packages, and of nothing else, with pip."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", python, "--dest", str(folder), "--quiet"]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    call([*command, *packages])


def slim(wheel: Path, excluded: Sequence[str]) -> list[str]:
    """Remove the files of a wheel that match a pattern, and their records; return their names."""
    with zipfile.ZipFile(wheel) as source:
        members = source.infolist()
        left_out = [m.filename for m in members if any(fnmatch(m.filename, p) for p in excluded)]
        if not left_out:
            return []
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as target:
            for member in members:
                if member.filename in left_out:
                    continue
                data = source.read(member)
                if member.filename.endswith(".dist-info/RECORD"):
                    lines = data.decode().splitlines(keepends=True)
                    data = "".join(x for x in lines if x.split(",")[0] not in left_out).encode()
                target.writestr(member, data)
    wheel.write_bytes(content.getvalue())
    return left_out


def split(wheels: Sequence[Path], folder: Path) -> None:
    """Write wheels as pieces of one archive, and their digests; the bytes depend on them alone."""
    folder.mkdir(parents=True)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for wheel in sorted(wheels):
            entry = tarfile.TarInfo(wheel.name)
            entry.size = wheel.stat().st_size
            with wheel.open("rb") as stream:
                archive.addfile(entry, stream)
    content.seek(0)
    digests = {}
    while piece := content.read(PIECE):
        name = f"piece-{len(digests):03d}"
        (folder / name).write_bytes(piece)
        digests[name] = hashlib.sha256(piece).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def join(folder: Path, target: Path) -> list[Path]:
    """Put the pieces of a folder together; write the wheels into `target` and return their paths.

    Ends the program with one line if a piece is missing or damaged.
    """
    if not (folder / MANIFEST).is_file():
        sys.exit(f"{folder / MANIFEST}: no such file; carry it together with the pieces")
    content = io.BytesIO()
    for name, digest in json.loads((folder / MANIFEST).read_bytes()).items():
        piece = folder / name
        if not piece.is_file():
            sys.exit(f"{piece}: no such file; carry this piece too")
        data = piece.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            sys.exit(f"{piece}: its SHA-256 is not that of {MANIFEST}; carry this piece again")
        content.write(data)
    content.seek(0)
    with tarfile.open(fileobj=content) as archive:
        archive.extractall(target, filter="data")
        return [target / name for name in archive.getnames()]


def install(wheels: Sequence[Path], target: Path) -> None:
    """Install wheels into a folder for PYTHONPATH, with pip and nothing from an index."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile"]
    command += ["--quiet", "--target", str(target), *map(str, wheels)]
    call(command)


def pack(arguments: argparse.Namespace) -> None:
    """Resolve, download, leave out and split."""
    have = arguments.have.read_text(encoding="utf-8").splitlines()
    packages = missing_packages(
        arguments.packages, have, arguments.keep, arguments.without, arguments.python
    )
    with tempfile.TemporaryDirectory() as folder:
        download(packages, arguments.python, Path(folder))
        wheels = sorted(Path(folder).glob("*.whl"))
        for wheel in wheels:
            for name in slim(wheel, arguments.exclude):
                print(f"{wheel.name}: without {name}")
        split(wheels, arguments.folder)
    sizes = [file.stat().st_size for file in sorted(arguments.folder.glob("piece-*"))]
    print(f"{len(wheels)} wheels, {len(sizes)} pieces, {sum(sizes) / 1e6:.0f} MB: {packages}")


def unpack(arguments: argparse.Namespace) -> None:
    """Join and install."""
    with tempfile.TemporaryDirectory() as folder:
        install(join(arguments.folder, Path(folder)), arguments.target)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack")
    packing.set_defaults(run=pack)
    packing.add_argument("folder", type=Path, help="a new folder, for the pieces")
    packing.add_argument("packages", nargs="+", help="pinned packages, such as vllm==0.26.0")
    packing.add_argument("--have", type=Path, required=True, help="`pip freeze` of the machine")
    packing.add_argument("--python", default="3.12", help="its version (%(default)s)")
    packing.add_argument(
        "--without", nargs="*", default=[], help="packages to leave out, such as nvidia-*"
    )
    packing.add_argument(
        "--keep", nargs="*", default=["torch"], help="packages of the machine to keep (%(default)s)"
    )
    packing.add_argument("--exclude", nargs="*", default=EXCLUDED, help="files of wheels")
    unpacking = commands.add_parser("unpack")
    unpacking.set_defaults(run=unpack)
    unpacking.add_argument("folder", type=Path, help="with the pieces and their manifest")
    unpacking.add_argument("target", type=Path, help="a folder for PYTHONPATH")
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
