"""Find results that were damaged after they were written, and remove them: `make mend`.

An output is a hard link into DVC's cache. What is written into it afterwards is in the cache too,
where DVC trusts it without reading it: `dvc repro` would bring a deleted output back as it is.
"""

import hashlib
import sys
from pathlib import Path

from tqdm import tqdm

from stages.distil.interface.errors import UserError, report_errors


def mend() -> None:
    """Remove damaged objects of DVC's cache, and the outputs that are links to them."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo()
        cache = Path(repo.cache.local.path)
        outputs = [Path(output.fs_path) for output in repo.index.outs if output.protocol == "local"]
    except DvcException as error:
        raise UserError(f"DVC: {error}") from error
    objects = sorted(cache.glob("??/*"))
    bar = tqdm(objects, desc="mend", unit="file", delay=5, file=sys.stderr)
    damaged = [path for path in bar if path.parent.name + path.stem != _md5(path)]
    links = {_place(path) for path in damaged}
    for path in damaged:
        path.unlink()
    for output in sorted(outputs):
        files = [output] if output.is_file() else sorted(output.rglob("*"))
        for file in files:
            if file.is_file() and _place(file) in links:
                file.unlink()
                print(f"{file.relative_to(repo.root_dir)}: damaged, removed")
    if damaged:
        print(
            f"{len(damaged):,} of {len(objects):,} files of DVC's cache were damaged, and removed"
        )
        print("`dvc repro` makes the results again that need them")
    else:
        print(f"{len(objects):,} files of DVC's cache: all as they were written")


def _md5(path: Path) -> str:
    """Return the sum by which DVC names an object; that of a list of files ends in `.dir`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _place(path: Path) -> tuple[int, int]:
    """Return what all links to a file have in common."""
    status = path.stat()
    return status.st_dev, status.st_ino


if __name__ == "__main__":
    sys.exit(report_errors("mend", "--debug" in sys.argv, mend))
