import shutil
from pathlib import Path

import pytest

from stages.distil.experiments import plan
from stages.distil.experiments.figures import SCALES, stored_runs
from stages.distil.experiments.plan import Grid
from stages.distil.interface.errors import UserError
from stages.distil.interface.settings import load_settings
from stages.distil.storage import versions
from tests.conftest import PARAMS, ROOT, question, write_jsonl

METHODS = {"plain": ["saliency.weight=0"], "taught": []}
GRID = {"methods": METHODS, "baseline": "plain", "case": "taught", "figures": {"methods": {}}}


def grid(**changes) -> Grid:
    return Grid.model_validate(GRID | changes)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for file in (ROOT / "dvc.yaml", PARAMS):
        shutil.copy(file, tmp_path)
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("scale", [file.stem for file in sorted((ROOT / SCALES).iterdir())])
def test_every_scale_can_be_planned(scale, project):
    loaded = load_settings(SCALES / f"{scale}.yaml", Grid)
    runs = plan.plan(loaded)
    assert {run.figure for run in runs} == set(loaded.figures)
    points = [(run.figure, run.method, run.value, run.seed) for run in runs]
    assert len(set(points)) == len(points)
    names = {run.digest: run.name for run in runs}
    assert len(set(names.values())) == len(names)


def test_the_sweeps_have_all_figures_of_the_papers():
    names = list(load_settings(ROOT / SCALES / "sweeps.yaml", Grid).figures)
    assert names == ["methods", "alpha", "questions", "top_k", "weight", "teachers"]


def test_the_default_method_has_the_parameters_of_params_yaml(project):
    reasoning, full, sweeps = (
        load_settings(SCALES / f"{name}.yaml", Grid) for name in ("reasoning", "full", "sweeps")
    )
    unchanged = Grid(
        changes=reasoning.changes,
        methods={"unchanged": []},
        baseline="unchanged",
        case="unchanged",
        figures={"methods": reasoning.figures["methods"]},
    )
    default = [
        run.digest
        for run in plan.plan(reasoning)
        if (run.figure, run.method) == ("methods", "default")
    ]
    assert default == [run.digest for run in plan.plan(unchanged)]
    assert full.changes == sweeps.changes  # so what both have is trained once


@pytest.mark.parametrize("scale", ["small", "full", "sweeps"])
def test_every_run_of_the_committed_parameters_is_stored(scale, project, monkeypatch):
    """Otherwise `make figures` would repeat all of them."""
    runs = plan.plan(load_settings(SCALES / f"{scale}.yaml", Grid))
    monkeypatch.chdir(ROOT)
    assert {run.digest for run in runs} <= set(stored_runs())


def test_figures_share_equal_runs(project):
    alpha = {"methods": ["taught"], "parameter": "alpha", "values": [0.5, 1.0]}
    runs = plan.plan(grid(figures={"methods": {}, "alpha": alpha}))
    plain, taught, other, same = runs
    assert taught.digest == same.digest  # 1.0 is in params.yaml
    assert len({plain.digest, taught.digest, other.digest}) == 3
    assert (same.value, same.changes) == (1.0, ("alpha=1.0", "train.seed=0"))
    assert other.name == f"taught-0-5-0-{other.digest}"


def test_the_value_of_a_list_of_teachers_is_their_number(project):
    values = [["qwen-coder-0b5"], ["qwen-coder-0b5", "oracle"]]
    teachers = {"methods": ["taught"], "parameter": "teachers", "values": values}
    runs = plan.plan(grid(figures={"methods": {}, "teachers": teachers}))[2:]
    assert [run.value for run in runs] == [1, 2]


def test_a_digest_depends_on_prompts_and_versions_but_not_on_code(project, monkeypatch):
    before = [run.digest for run in plan.plan(grid())]
    for file in (project / "stages").rglob("*.py"):
        file.write_text(file.read_text() + "# changed\n")
    assert [run.digest for run in plan.plan(grid())] == before
    prompt = project / "stages/prompts/reason.jinja"
    prompt.write_text(prompt.read_text() + "\n")
    after = [run.digest for run in plan.plan(grid())]
    monkeypatch.setattr(versions, "TRAINING", versions.TRAINING + 1)
    newer = [run.digest for run in plan.plan(grid())]
    assert len({*before, *after, *newer}) == 3 * len(before)


def test_a_digest_does_not_depend_on_unused_models_or_the_cluster(project):
    file = project / "params.yaml"
    before = [run.digest for run in plan.plan(grid())]
    text = file.read_text().replace("human: {source: provided}", "")
    assert "gpus: 1" in text
    file.write_text(text.replace("gpus: 1", "gpus: 0"))
    assert [run.digest for run in plan.plan(grid())] == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"changes": ["alhpa=1"]},
            "figure methods, method plain: alhpa=1 saliency.weight=0 train.seed=0: ",
        ),
        ({"changes": ["saliency.top_k=0"]}, "saliency.top_k: expected at least 1"),
        ({"changes": ["alpha"]}, "method plain: alpha saliency.weight=0 train.seed=0: "),
        ({"methods": METHODS | {"x": ["teachers=[y]"]}}, "method x: .*unknown model in `models`"),
    ],
)
def test_wrong_parameters_are_named_before_anything_runs(project, changes, message):
    with pytest.raises(UserError, match=message):
        plan.plan(grid(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("baseline: plane", "baseline: unknown method 'plane'; known: plain, taught"),
        ("main_comparison: tought", "main_comparison: unknown method 'tought'"),
        ("main_comparison: plain", "main_comparison: expected another method than the baseline"),
        ("celing: plain", "unknown parameter 'celing'; did you mean 'ceiling'"),
        ("figures: {alpha: {}}", "figures.methods: required, without `methods`"),
        ("figures: {methods: {}, a: {parameter: alpha}}", "`parameter` and `values` must be set"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, changes, message):
    lines = ["methods: {plain: [saliency.weight=0], taught: []}", "case: taught"]
    defaults = {"baseline": "baseline: plain", "figures": "figures: {methods: {}}"}
    lines += [text for key, text in defaults.items() if not changes.startswith(key)]
    file = tmp_path / "mine.yaml"
    file.write_text("\n".join([*lines, changes]))
    with pytest.raises(UserError, match=message) as caught:
        load_settings(file, Grid)
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        (["saliency.weight=0", "saliency.method=random"], None),
        (["saliency.weight=0"], "none"),
        (
            ["saliency.weight=0", "saliency.method=random", "saliency.options=false"],
            "saliency.method, saliency.options",
        ),
    ],
)
def test_a_control_differs_from_its_method_in_one_parameter(project, parameters, found):
    methods = METHODS | {"control": parameters}
    planned = grid(methods=methods, controls={"control": "plain"})
    if found is None:
        assert {run.method for run in plan.plan(planned)} == set(methods)
        return
    expected = (
        f"controls.control: expected one parameter in which it differs from 'plain', found {found};"
    )
    with pytest.raises(UserError, match=expected):
        plan.plan(planned)


def test_a_run_is_identified_by_the_content_of_its_files(project):
    write_jsonl(project / "mine", train=[question(0)])
    mine = ["+datasets.mine={source: files, folder: mine}", "data.name=mine"]

    def digests() -> set[str]:
        return {run.digest for run in plan.plan(grid(changes=mine))}

    before = digests()
    assert digests() == before
    shutil.copytree(project / "mine", project / "moved")
    mine[0] = mine[0].replace("folder: mine", "folder: moved")
    assert digests() == before
    write_jsonl(project / "moved", train=[question(1)])
    assert not digests() & before


def test_a_run_is_identified_by_the_model_of_a_server_not_by_its_address(project):
    def digest(port: int, model: str) -> str:
        entry = f"{{source: server, url: 'http://127.0.0.1:{port}/v1', model: {model}}}"
        changes = [f"+models.mine={entry}", "teachers=[mine]", "saliency.weight=0"]
        return plan.plan(grid(changes=changes))[0].digest

    assert digest(8000, "medium") == digest(8001, "medium") != digest(8000, "large")
