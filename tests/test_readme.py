"""The commands and links in README and docs."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from stages.distil.interface.parameters import load_parameters
from tests.conftest import PARAMS, ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
JOINED = TEXT.replace("\\\n", " ")
COMMANDS = re.findall(r"`([^`\n]*-S [^`\n]*)`", JOINED)  # of the tables
COMMANDS += [line for line in JOINED.splitlines() if re.match(r"\S*dvc exp run .*-S ", line)]


def overrides(command: str) -> list[str]:
    words = shlex.split(command)
    return [value for flag, value in zip(words, words[1:], strict=False) if flag == "-S"]


def test_the_commands_are_found():
    assert len(COMMANDS) > 30
    assert ["student.form=branch", "alpha=0", "saliency.weight=0"] in [
        overrides(command) for command in COMMANDS
    ]


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_every_documented_parameter_can_be_set(command, tmp_path):
    shutil.copy(PARAMS, tmp_path)
    before = load_parameters(tmp_path / "params.yaml")
    changes = overrides(command)
    assert changes
    apply_overrides(tmp_path / "params.yaml", changes)
    after = load_parameters(tmp_path / "params.yaml")
    if "(default" not in next(line for line in JOINED.splitlines() if command in line):
        defaults = {"alpha=1.0", "rationales.num_examples=2"}
        assert after != before or set(changes) <= defaults


def test_every_documented_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documented = set(re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )*([a-z-]+)", TEXT, re.MULTILINE))
    assert documented
    assert documented <= targets


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere():
    links = [
        (page, link)
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert len(links) > 20
    for page, link in links:
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not heading or heading in anchors(target), f"{page.name}: {link}"
