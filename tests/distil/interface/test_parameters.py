import json
import shutil
import subprocess
import sys
from difflib import ndiff

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters, load_parameters
from stages.distil.interface.settings import Settings, read_yaml
from tests.conftest import PARAMS, ROOT

SEPARATE = {"student/shared_context": False}
REASONS = {"student/form": "before_answer"}
VOTE = {"assemble/labels": "vote", "rationales/teacher_forcing": False}
PREFIXES = {"answer": "predict", "saliency": "words"}
PREFIXES |= {"qwen-coder-1b5": "explain", "qwen-coder-0b5": "rationale"}


def test_the_committed_parameters_are_valid():
    parameters = load_parameters(PARAMS)
    assert parameters.teacher_weight(parameters.teachers[0]) == parameters.alpha
    assert parameters.training_seed == parameters.seed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alhpa": 1}, "unknown parameter 'alhpa'; did you mean 'alpha'?"),
        (
            {"rationales/num_exmples": 2},
            "rationales.num_exmples: unknown parameter 'num_exmples'; did you mean 'num_examples'?",
        ),
        ({"train/epochs": "many"}, "train.epochs: expected an integer, found 'many'"),
        (
            {"train/epochs": -1},
            "train.epochs: expected at least 0, found -1",
        ),
        (
            {"train/optimizer": "adamw_torch_fussed"},
            "train.optimizer: unknown optimizer 'adamw_torch_fussed'; did you mean "
            "'adamw_torch_fused'?",
        ),
        (
            {"train/optimizer": "galore_adamw"},
            "train.optimizer: 'galore_adamw' is not supported: it needs a list of layers; choose "
            "adamw_torch_fused",
        ),
        (
            {"student/weights": "bfloat16", "student/dtype": "float32"},
            "student: bfloat16 weights are trained in bfloat16; set dtype to auto or bfloat16",
        ),
        ({"student/weights": "float16"}, "student.weights: expected 'float32' or 'bfloat16'"),
        ({"alpha": -1}, "alpha"),
        ({"teachers": ["qwen-coder-1b"]}, "teachers[0]: unknown model in `models` 'qwen-coder-1b'"),
        ({"teachers": ["oracle", "oracle"]}, "teachers: a name is listed twice"),
        (
            {"saliency/teacher": "oracle"},
            "saliency.teacher: 'oracle' has no weights on this machine (source provided)",
        ),
        (
            {"saliency/of": "both", "teachers": ["oracle"]},
            "saliency.of: 'both' needs rationales of saliency.teacher 'qwen-coder-0b5', which "
            "writes none; choose one of the teachers (oracle), or set saliency.weight to 0",
        ),
        ({"student/model": "smol"}, "student.model: unknown model in `models` 'smol'"),
        ({"data/name": "arcs"}, "data.name: unknown data set in `datasets` 'arcs'; did you mean"),
        ({"alpha": {"qwen-coder-1b5": 0.5}}, "alpha: no weight for teacher 'qwen-coder-0b5'"),
        ({"alpha": {"qwen": 0.5}}, "alpha: unknown teacher 'qwen'"),
        ({"models/a.b": {"source": "provided"}}, "models"),
        (
            {"models/student": {"source": "provided"}},
            "models.student: the pipeline writes this folder",
        ),
        (
            {"models/saliency": {"source": "provided"}},
            "models.saliency: the training gives it a meaning; choose another name",
        ),
        (
            {"datasets/arc/fields": {"fixed_options": ["yes", "no"], "options": "a"}},
            "datasets.arc.fields: fixed_options and options are both set; remove one of them",
        ),
        (
            {"datasets/arc/fields": {"answer_is": "text", "first_index": 1}},
            "datasets.arc.fields: first_index has no effect on answer_is: text; remove it",
        ),
        (
            {"datasets/arc/fields": {"answer_is": "name"}},
            "datasets.arc.fields: answer_is: name needs option_names",
        ),
        ({"datasets/arc/fields": {"first_index": -1}}, "datasets.arc.fields.first_index"),
        ({"models/oracle": {"source": "hub", "id": "a/b"}}, "models.oracle.revision: missing"),
        (
            {"models/oracle": {"source": "folder", "pth": "x", "path": "x"}},
            "models.oracle.pth: unknown parameter 'pth'; did you mean 'path'?",
        ),
        (
            {"datasets/kinship/sizes/tran": 3},
            "datasets.kinship.sizes.tran: unknown parameter 'tran'; did you mean 'train'?",
        ),
        (
            {"rationales/samples": 2},
            "rationales: several samples are identical at temperature 0",
        ),
        (
            {"alpha": 0.0, "train/mutual_information": 0.1},
            "train.mutual_information: it needs rationales, but alpha is 0; raise alpha",
        ),
        ({"soft_labels/teacher": "qwen"}, "soft_labels.teacher: unknown teacher 'qwen'"),
        (
            {"teachers": ["served"], "soft_labels/teacher": "served"},
            "soft_labels.teacher: 'served' (source server) gives no probabilities of the options; "
            "vLLM in process and transformers do",
        ),
        ({"soft_labels/temperature": 0}, "soft_labels.temperature"),
        ({"assemble/labels": "votes"}, "assemble.labels: unknown kind of label 'votes'; did you"),
        ({"assemble/labels": "vote"}, "set rationales.teacher_forcing to false"),
        (
            {"assemble/choose": "bst"},
            "assemble.choose: expected 'all', 'best', 'ratio', 'shortest' or 'random', found 'bst'",
        ),
        *(
            (VOTE | changes, f"{message}: it reads the gold answers, which a method with")
            for changes, message in [
                ({}, "saliency.target"),
                ({"saliency/target": "prediction", "saliency/only_correct": True}, "only_correct"),
                ({"saliency/target": "prediction", "saliency/finetune/epochs": 1}, "epochs"),
                ({"saliency/weight": 0, "assemble/choose": "best"}, "assemble.choose"),
            ]
        ),
        (
            {"models/gold": {"source": "provided"}},
            "models.gold: the name is reserved for a kind of label",
        ),
        (
            {"models/far": {"source": "server", "url": "http://k:secret@host/v1", "model": "m"}},
            "models.far.url",
        ),
        (
            {"models/far": {"source": "server", "url": "host", "modl": "m", "model": "m"}},
            "models.far.modl: unknown parameter 'modl'; did you mean 'model'?",
        ),
        (
            {
                "models/far": {"source": "server", "url": "http://host/v1", "model": "m"},
                "saliency/teacher": "far",
            },
            "saliency.teacher: 'far' has no weights on this machine (source server)",
        ),
        ({"datasets/kinship/hops": [4]}, "datasets.kinship.hops[0]: expected 2 or 3, found 4"),
        ({"alpha": True}, "alpha: true and false are not numbers, found true"),
        (
            {"alpha": {"qwen-coder-1b5": 0.5, "qwen-coder-0b5": False}},
            "alpha.qwen-coder-0b5: true and false are not numbers",
        ),
        ({"train/epochs": True}, "train.epochs: true and false are not numbers"),
        (
            {"train/max_steps": 9},
            "train: epochs and max_steps are both set; set one of them to null",
        ),
        ({"train/epochs": None}, "train: neither epochs nor max_steps is set; set one of them"),
        ({"train/max_steps": 0, "train/epochs": None}, "train.max_steps: expected at least 1"),
        ({"train/warmup": 1}, "train.warmup: expected less than 1"),
        (
            REASONS | {"train/mutual_information": 0.1},
            "train.mutual_information: in the form before_answer, a rationale's text contains",
        ),
        (REASONS | {"alpha": 0}, "student.form: before_answer needs rationales, but"),
        (REASONS | {"teachers": []}, "student.form: before_answer needs rationales, but"),
        (
            {"evaluate/samples": 5},
            "evaluate.samples: a student of the form branch does not reason; set it to 0, or",
        ),
        (
            {"assemble/per_question": 2},
            "assemble: per_question has no effect if choose is all; set it to 1",
        ),
        (
            {"train/reasoned_answer": 1.0},
            "train.reasoned_answer: no answer follows a rationale in the form branch; set it to 0",
        ),
        (
            REASONS | {"student/direct": False, "soft_labels/teacher": "qwen-coder-1b5"},
            "soft_labels.teacher: soft labels are learnt by answering directly",
        ),
        (
            REASONS | SEPARATE | {"student/prompt/prefixes": PREFIXES},
            "student.prompt.prefixes: no prefix for 'rationale'; add one, such as explain",
        ),
        (
            {"student/prompt/prefixes": PREFIXES},
            "student.prompt.prefixes: with a prefix before it, a question has another text for "
            "each task; set student.shared_context to false and student.form to branch",
        ),
        (
            SEPARATE | {"student/prompt/prefixes": PREFIXES, "student/form": "after_answer"},
            "student.prompt.prefixes: with a prefix before it, a question has another text",
        ),
        (
            SEPARATE | {"student/prompt/prefixes": PREFIXES | {"qwen-coder-2b": "x"}},
            "student.prompt.prefixes: unknown task 'qwen-coder-2b'; did you mean 'qwen-coder-",
        ),
        (
            SEPARATE | {"student/prompt/prefixes": {"answer": "predict", "saliency": "words"}},
            "student.prompt.prefixes: no prefix for 'qwen-coder-1b5'; add one, such as explain",
        ),
        (
            SEPARATE | {"student/prompt/prefixes": PREFIXES | {"qwen-coder-0b5": "explain"}},
            "student.prompt.prefixes: 'qwen-coder-1b5' and 'qwen-coder-0b5' both have 'explain', "
            "so the student cannot tell them apart; give each its own",
        ),
        (
            {"student/prompt/prefixes": {"answer": "{{x}}"}},
            "student.prompt.prefixes.answer: expected a word such as predict, found '{{x}}'",
        ),
        ({"student/prompt/options": "letters"}, "student.prompt.options: expected 'listed' or "),
        ({"data/limit": True}, "data.limit: true and false are not numbers"),
        *(
            (
                {"datasets/mine": {"source": "files", "folder": "d", "fields": fields}},
                "datasets.mine.fields.fixed_options: expected at least two different options",
            )
            for fields in (
                {"fixed_options": ["yes"]},
                {"fixed_options": ["yes", "yes "]},
                {"fixed_options": ["", "yes"]},
            )
        ),
    ],
)
def test_a_wrong_parameter_is_named_with_the_expected_value(write_params, changes, message):
    with pytest.raises(UserError) as error:
        load_parameters(write_params(changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


SERVER = {"source": "server", "url": "http://host/v1", "model": "m"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": None}, "alpha: expected a number or a mapping, found null"),
        (
            {"cluster/address": "10.0.0.1"},
            "cluster.address: expected auto, local, or HOST:PORT, found '10.0.0.1'",
        ),
        ({"alpha": "much"}, "alpha: expected a number or a mapping, found 'much'"),
        ({"alpha": [0.5]}, "alpha: expected a number or a mapping, found [0.5]"),
        ({"alpha": -0.1}, "alpha: expected at least 0, found -0.1"),
        ({"alpha": float("nan")}, "alpha: expected a finite number, found nan"),
        (
            {"alpha": {"qwen-coder-1b5": -0.5, "qwen-coder-0b5": 0.1}},
            "alpha.qwen-coder-1b5: expected at least 0, found -0.5",
        ),
        ({"teachers": "oracle"}, "teachers: expected a list, found 'oracle'; write [oracle]"),
        ({"teachers": [7]}, "teachers[0]: expected a text, found 7; write it in quotes"),
        (
            {"data/name": "ARC"},
            "data.name: unknown data set in `datasets` 'ARC'; did you mean 'arc'?",
        ),
        ({"seed": 2**32}, "seed: expected less than 4294967296, found 4294967296"),
        ({"train/batch_tokens": 0}, "train.batch_tokens: expected at least 1, found 0"),
        (
            {"train/batch_tokens": "many"},
            "train.batch_tokens: expected an integer or 'auto', found 'many'",
        ),
        (
            {"rationales/dtype": "half"},
            "rationales.dtype: expected 'auto', 'bfloat16', 'float32' or 'float16', found 'half'",
        ),
        ({"saliency/finetune": None}, "saliency.finetune: expected a mapping, found null"),
        (
            {"rationales/samples": 2},
            "rationales: several samples are identical at temperature 0; raise temperature",
        ),
        ({"models/new": {"path": "x"}}, "models.new.source: missing"),
        (
            {"models/new": {"source": "hb"}},
            "models.new.source: expected one of 'hub', 'folder', 'package', 'provided', 'server', "
            "found 'hb'",
        ),
        ({"models/new": 5}, "models.new: expected a mapping, found 5"),
        (
            {"models/new": {"source": "hub", "id": "gpt2", "revision": "main"}},
            "models.new.id: expected owner/name, found 'gpt2'; "
            "models.new.revision: expected a commit, 40 hex digits, found 'main'",
        ),
        (  # `package` is both the source and a key
            {"models/new": {"source": "package", "package": "a==1", "file": "x", "sha256": "z"}},
            "models.new.sha256: expected 64 hex digits, found 'z'",
        ),
        (
            {"models/qwen2.5": {"source": "provided"}},
            "models.qwen2.5: expected letters, digits, - and _ alone (DVC splits names at dots), "
            "found 'qwen2.5'",
        ),
        (
            {"models/new": SERVER | {"timeout": float("inf")}},
            "models.new.timeout: expected a finite number, found inf",
        ),
        (
            {
                "datasets/new": {
                    "source": "files",
                    "folder": "d",
                    "fields": {"fixed_options": ["no", False]},
                }
            },
            "datasets.new.fields.fixed_options[1]: expected a text, found false; "
            "write it in quotes",
        ),
        (
            {"datasets/new": {"source": "files", "folder": "d", "fields": {"options": 5}}},
            "datasets.new.fields.options: expected a text or a list, found 5; write it in quotes",
        ),
    ],
)
def test_a_message_says_what_was_expected_once(write_params, changes, message):
    path = write_params(changes)
    with pytest.raises(UserError) as error:
        load_parameters(path)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("earlier", "change"),
    [
        (["alpha={qwen-coder-1b5: 0.7, qwen-coder-0b5: 0.1}"], "alpha={qwen-coder-0b5: 0.3}"),
        (
            ["+datasets.new={source: files, folder: d, rows: r}"],
            "datasets.new={source: hub, folder: d}",
        ),
        (["+models.oracle={url: http, tries: 2}"], "models.oracle={source: provided}"),
    ],
)
def test_the_advice_on_a_mapping_that_dvc_merges_works(tmp_path, earlier, change):
    path = tmp_path / "params.yaml"
    shutil.copy(PARAMS, path)
    apply_overrides(path, ["teachers=[qwen-coder-0b5]", *earlier])
    key, _, value = change.partition("=")
    advice = f"`-S` adds to a mapping in params.yaml; `-S {key}=null -S '{key}={{…}}'` replaces it"
    apply_overrides(path, [change])
    with pytest.raises(UserError) as error:
        load_parameters(path)
    assert str(error.value).count(advice) == 1
    apply_overrides(path, [f"{key}=null", change])
    load_parameters(path)
    values = read_yaml(path)
    for part in key.split("."):
        values = values[part]
    assert values == YAML(typ="safe").load(value)


@pytest.mark.parametrize(
    ("change", "removed", "added"),
    [
        ("alpha=0.3", ["alpha: 1.0"], ["alpha: 0.3"]),
        ("train.learning_rate=0.01", ["  learning_rate: 0.0002"], ["  learning_rate: 0.01"]),
        (
            "data.limit=20",
            ["  limit:              # maximum number of train questions; null: all"],
            ["  limit: 20           # maximum number of train questions; null: all"],
        ),
        ("teachers=[oracle]", ["- qwen-coder-1b5", "- qwen-coder-0b5"], ["- oracle"]),
        ("assemble.statuses=[ok,inconclusive]", [], ["  - inconclusive"]),
        (
            "alpha={qwen-coder-1b5: 0.7, qwen-coder-0b5: 0.1}",
            ["alpha: 1.0"],
            ["alpha:", "  qwen-coder-1b5: 0.7", "  qwen-coder-0b5: 0.1"],
        ),
        (
            "datasets.kinship.sizes={train: 30, validation: 10}",
            ["    sizes: {train: 240, validation: 300, test: 1000, pool: 32}"],
            ["    sizes: {train: 30, validation: 10, test: 1000, pool: 32}"],
        ),
        ("datasets.pubmedqa.fields.fixed_options=[yes,no]", ["      - maybe"], []),
        (
            "+datasets.mine={source: files, folder: ../my-data}",
            [],
            ["  mine:", "    source: files", "    folder: ../my-data"],
        ),
    ],
)
def test_an_experiment_changes_its_own_lines_of_the_file_alone(tmp_path, change, removed, added):
    path = tmp_path / "params.yaml"
    shutil.copy(PARAMS, path)
    before = path.read_text(encoding="utf-8")
    apply_overrides(path, [change])
    lines = list(ndiff(before.splitlines(), path.read_text(encoding="utf-8").splitlines()))
    assert [line[2:] for line in lines if line.startswith("- ")] == removed
    assert [line[2:] for line in lines if line.startswith("+ ")] == added


@pytest.mark.parametrize(
    "name", ["alpha", "teachers", "data.limit", "train.learning_rate", "datasets.piqa.splits.test"]
)
def test_setting_what_is_set_leaves_the_file_as_it_is(tmp_path, name):
    path = tmp_path / "params.yaml"
    shutil.copy(PARAMS, path)
    value = read_yaml(path)
    for key in name.split("."):
        value = value[key]
    apply_overrides(path, [f"{name}={json.dumps(value)}"])
    assert path.read_bytes() == PARAMS.read_bytes()


def test_yes_and_no_are_texts_for_this_project_and_for_dvc():
    for values in (read_yaml(PARAMS), YAML(typ="safe").load(PARAMS)):
        fields = {name: values["datasets"][name]["fields"] for name in ("pubmedqa", "bioasq")}
        assert fields["pubmedqa"]["fixed_options"] == ["yes", "no", "maybe"]
        assert fields["bioasq"]["fixed_options"] == ["yes", "no"]


def test_every_parameter_is_in_the_file():
    """DVC sees the values in params.yaml only: a default in the code would change unnoticed."""

    def missing(kind: type[Settings], values: dict, where: str) -> list[str]:
        names = []
        for name, field in kind.model_fields.items():
            if name not in values:
                names.append(f"{where}{name}")
            elif isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
                names += missing(field.annotation, values[name], f"{where}{name}.")
        return names

    assert missing(Parameters, read_yaml(PARAMS), "") == []


def test_each_teacher_can_have_its_own_weight(write_params):
    weights = {"qwen-coder-1b5": 0.5, "qwen-coder-0b5": 0.0}
    parameters = load_parameters(write_params({"alpha": weights}))
    assert [parameters.teacher_weight(name) for name in parameters.teachers] == [0.5, 0.0]


@pytest.mark.parametrize("text", ["alpha: [", "- 1\n", "", "alpha: 1\nalpha: 2\n", "a: \x00"])
def test_a_file_without_a_mapping_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="params.yaml"):
        load_parameters(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml: no such file"):
        load_parameters(tmp_path / "nowhere.yaml")


def test_reading_parameters_and_tables_imports_no_torch():
    program = (
        "import sys, stages.distil.interface.command, stages.distil.storage.tables\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'vllm')))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_every_parameter_in_dvc_yaml_exists(parameter_values):
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        for key in stage.get("do", stage).get("params", []):
            node = parameter_values
            for part in key.split("."):
                if part.startswith("${"):
                    break
                assert part in node, f"{name} watches {key}"
                node = node[part]


def test_prefixes_may_name_teachers_that_are_not_in_use(write_params):
    """So a run of one teacher needs no other prefixes."""
    changes = SEPARATE | {"student/prompt/prefixes": PREFIXES, "teachers": ["qwen-coder-0b5"]}
    parameters = load_parameters(write_params(changes))
    assert parameters.student.prompt.prefixes == PREFIXES


def bomb(first: str, other: str) -> str:
    """Return YAML whose aliases stand for ten times as many values with each line."""
    lines = [f"a0: &a0 {first}"]
    for n in range(1, 10):
        lines.append(f"a{n}: &a{n} " + other.format(", ".join([f"*a{n - 1}"] * 10)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb("[x, y]", "[{}]"), "more than 100,000 values, with its aliases written out"),
        (bomb("{x: 1}", "{{<<: [{}]}}"), "more than 100,000 values, with its aliases written out"),
        ("a: &a [*a]", "more than 100,000 values"),
        ("a: " + "[" * 2000, "not valid YAML: it is nested too deeply"),
        (f"seed: {'9' * 5000}", "not valid YAML: Exceeds the limit"),
        ("seed: 2020-13-45", "not valid YAML: month must be"),
        ("seed: !!int x", "not valid YAML: invalid literal"),
        ("seed: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine"),
        ("seed: \0", "not valid YAML: unacceptable character"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_yaml_cannot_hold_is_an_error(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"params.yaml: {message}"):
        read_yaml(path)


def test_aliases_that_repeat_little_are_read(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, y: [*a, *a]}")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1, "y": [{"x": 1}, {"x": 1}]}}


@pytest.mark.parametrize(
    ("value", "found"),
    [("0x" + "f" * 5000, "a number that is too large"), ("x" * 200, f"'{'x' * 99} …")],
)
def test_a_message_shows_a_long_value_in_short(write_params, tmp_path, value, found):
    path = tmp_path / "params.yaml"
    text = PARAMS.read_text(encoding="utf-8").replace("\nseed: 0", f"\nseed: {value}")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_parameters(path)
    assert str(error.value).endswith(f"found {found}")


def server(url: str = "http://localhost:8000/v1", **entry) -> dict:
    return {"source": "server", "url": url, "model": "m"} | entry


OTHER = "http://localhost:8001/v1"


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        (
            {"teachers": ["a", "b"], "models/a": server(), "models/b": server(OTHER)},
            "models.b.identity",
        ),
        (
            {"teachers": ["a", "b"], "models/a": server(), "models/b": server(timeout=5)},
            "models.b.identity",
        ),
        (
            {"teachers": ["b"], "models/a": server(), "models/b": server(OTHER)},
            "models.a.identity",
        ),
        (
            {"teachers": ["a", "b"], "models/a": {"source": "folder", "path": "x"}}
            | {"models/b": {"source": "folder", "path": "./x"}},
            "remove one of them",
        ),
    ],
)
def test_two_models_whose_stored_texts_would_be_the_same_are_refused(write_params, changes, advice):
    with pytest.raises(UserError, match=advice) as error:
        load_parameters(write_params(changes))
    assert "'a'" in str(error.value) or "models.a" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"models/b": server(OTHER, identity="70b")},
        {"models/b": server(OTHER, model="n")},
        {"models/b": server(OTHER, revision="2")},
        {"models/a": {"source": "provided"}, "models/b": {"source": "provided"}},
        {"models/b": server(timeout=5), "teachers": ["a"]},
        {
            "models/a": {"source": "folder", "path": "x"},
            "models/b": {"source": "folder", "path": "x"},
            "rationales/engine": {"b": {"quantization": "fp8"}},
        },
    ],
)
def test_models_with_texts_of_their_own_are_accepted(write_params, changes):
    own = {"teachers": ["a", "b"], "models/a": server()}
    assert "a" in load_parameters(write_params(own | changes)).teachers


def test_arguments_for_speed_alone_do_not_make_another_teacher(write_params):
    folder = {"source": "folder", "path": "x"}
    engine = {"b": {"max_num_seqs": 8}}
    own = {"teachers": ["a", "b"], "models/a": folder, "models/b": folder}
    with pytest.raises(UserError, match="the same model with the same settings"):
        load_parameters(write_params(own | {"rationales/engine": engine}))
