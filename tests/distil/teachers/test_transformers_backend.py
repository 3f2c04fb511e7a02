"""The transformers backend on tiny models: an encoder-decoder of FLAN-T5's shape, a Llama."""

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from stages.distil.interface.catalogue import FolderModel
from stages.distil.interface.method import Rationales
from stages.distil.language.chat import Chat
from stages.distil.language.quality import TOO_LONG
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.storage import tables
from stages.distil.teachers import transformers_backend
from stages.distil.teachers.backend import Request
from stages.distil.teachers.selection import backend_of, identity, renderer
from stages.distil.teachers.transformers_backend import BATCH_TOKENS, Generator, _batches
from tests import families
from tests.conftest import question, write_jsonl


def make_request(number: int, **settings) -> Request:
    text = f"Question {number}" + " and more" * number
    return Request(Conversation("", (), text, "So:"), 6, **settings)


@pytest.mark.parametrize("family", ["tiny_t5", "tiny_model"])
def test_every_request_is_completed_within_its_limit(request, family):
    generator = Generator(request.getfixturevalue(family), 400, "float32")
    requests = [make_request(n) for n in (3, 0, 9, 1)]
    done = dict(generator.complete(iter(requests)))
    assert set(done) == set(requests)
    for completion in done.values():
        assert 0 <= completion.output_tokens <= 6
        assert completion.finish_reason in ("stop", "length")
        assert (completion.finish_reason == "length") == (completion.output_tokens == 6)
    assert done[requests[2]].prompt_tokens > done[requests[1]].prompt_tokens


@pytest.mark.parametrize("family", ["tiny_t5", "tiny_model"])
def test_a_sampled_text_depends_only_on_its_seed(request, family):
    generator = Generator(request.getfixturevalue(family), 400, "float32")
    one, two = make_request(2, temperature=1.0, seed=1), make_request(2, temperature=1.0, seed=2)
    alone = dict(generator.complete(iter([one])))
    together = dict(generator.complete(iter([make_request(5), two, make_request(1), one])))
    assert together[one] == alone[one]
    assert together[one].text != together[two].text


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_text_of_any_family_is_what_its_prompt_gets_alone(name, tiny_model, monkeypatch):
    """Also of models whose state the padding of a batch would change."""
    model, tokenizer = families.build(name), AutoTokenizer.from_pretrained(tiny_model)
    monkeypatch.setattr(transformers_backend, "load_model", lambda *_, **__: (model, tokenizer))
    generator = Generator(tiny_model, 200, "float32")
    requests = [make_request(n) for n in (4, 0, 2)]
    expected = {}
    for request in requests:
        prompt, _ = generator._chat.encode(request.conversation)
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(request.max_tokens):
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
                ids.append(int(logits[0, -1].argmax()))
        expected[request] = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    done = dict(generator.complete(iter(requests)))
    assert {request: done[request].text for request in requests} == expected


TURNS = "It is tea.<|im_end|>\n<|im_start|>user\nIs it?<|im_end|>\n"


@pytest.fixture
def ends_with(tiny_model, tmp_path):
    """Return a tiny model's folder whose generation settings declare one end-of-text token."""

    def make(end: str):
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
        number = AutoTokenizer.from_pretrained(tiny_model).convert_tokens_to_ids(end)
        settings = json.dumps({"eos_token_id": number})
        (folder / "generation_config.json").write_text(settings)
        return folder

    return make


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|im_end|>"])
def test_a_reply_ends_with_its_turn(ends_with, end, monkeypatch):
    """Whatever of the two tokens the generation settings declare."""
    generator = Generator(ends_with(end), 400, "float32")
    tokenizer = generator._tokenizer
    passed = {}

    def generate(model, input_ids, **settings):
        passed.update(settings)
        written = torch.tensor([tokenizer.encode(TURNS)] * len(input_ids))
        return torch.cat([input_ids, written], dim=1)

    monkeypatch.setattr(transformers_backend, "generate", generate)
    request = Request(Conversation("", (), "Which drink is hot?", "So:"), 64)
    [(_, done)] = generator.complete(iter([request]))
    assert (done.text, done.finish_reason) == ("It is tea.", "stop")
    assert done.output_tokens == len(tokenizer.encode("It is tea."))
    both = sorted(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    assert passed.get("eos_token_id") == (both if end == "<|endoftext|>" else None)


def test_where_replies_end_is_part_of_the_key_only_if_the_settings_lack_it(
    ends_with, tiny_model, parameter_values
):
    source = FolderModel(source="folder", path="anywhere")
    request = make_request(1)

    def key(folder, backend: str) -> bytes:
        values = parameter_values["rationales"] | {"backend": backend}
        settings = Rationales.model_validate(values)
        return request.key("teacher", renderer("tiny", source, settings, folder))

    chat = Chat("tiny", AutoTokenizer.from_pretrained(tiny_model))
    plain = request.key("teacher", chat.render)  # as before replies ended with their turns
    assert key(ends_with("<|im_end|>"), "transformers") == plain
    assert key(ends_with("<|endoftext|>"), "transformers") != plain
    assert key(ends_with("<|endoftext|>"), "vllm") == plain  # vLLM stops at the tokenizer's token


def test_a_prompt_beyond_the_context_is_skipped(tiny_t5):
    generator = Generator(tiny_t5, 40, "bfloat16")
    done = dict(generator.complete(iter([make_request(0), make_request(60)])))
    assert done[make_request(60)].finish_reason == TOO_LONG
    assert done[make_request(0)].finish_reason != TOO_LONG


@pytest.mark.parametrize("budget", [1, 10_000])
@pytest.mark.parametrize("family", ["tiny_t5", "tiny_model"])
def test_a_replys_score_is_the_mean_log_probability_of_its_tokens(request, family, budget):
    """The reference is the model's own loss of one text without padding."""
    generator = Generator(request.getfixturevalue(family), 400, "float32")
    generator._batch_tokens = budget
    replies = [make_request(n, reply=r) for n in (3, 1) for r in ("red", "green or blue", "r")]
    texts = [make_request(3), make_request(0)]
    done = dict(generator.complete(iter([texts[0], *replies, texts[1]])))
    assert set(done) == {*replies, *texts}
    model, chat = generator._model, generator._chat
    for scored in replies:
        tokens, reply = chat.encode_reply(scored.conversation, scored.reply)
        if model.config.is_encoder_decoder:
            loss = model(input_ids=torch.tensor([tokens]), labels=torch.tensor([reply])).loss
        else:
            labels = torch.tensor([[-100] * len(tokens) + reply])
            loss = model(input_ids=torch.tensor([tokens + reply]), labels=labels).loss
        assert done[scored].score == pytest.approx(-loss.item(), rel=1e-4)
        assert done[scored].output_tokens == len(reply)


def test_a_reply_beyond_the_context_is_not_scored(tiny_model):
    generator = Generator(tiny_model, 120, "float32")
    requests = [make_request(0, reply="red"), make_request(0, reply="red" * 200)]
    done = dict(generator.complete(iter(requests)))
    assert [done[r].finish_reason for r in requests] == ["stop", TOO_LONG]


def test_a_reply_is_part_of_the_key_and_changes_no_other_key():
    text, reply, other = (make_request(0, **own) for own in ({}, {"reply": "a"}, {"reply": "b"}))
    assert len({one.key("teacher") for one in (text, reply, other)}) == 3
    assert text.key("teacher").hex().startswith("27018b71d17d88bd")  # before there were replies


def test_batches_stay_within_the_token_budget():
    encoded = [(make_request(0), [1] * length, "") for length in (10, 1000, 3000, 4000, 9000)]
    sizes = [[len(tokens) for _, tokens, _ in batch] for batch in _batches(encoded, BATCH_TOKENS)]
    assert sizes == [[10, 1000], [3000, 4000], [9000]]
    assert all(len(s) == 1 or len(s) * (max(s) + 6) <= BATCH_TOKENS for s in sizes)


def test_an_encoder_decoder_teacher_runs_through_the_stage(
    tmp_path, tiny_t5, write_params, run_stage, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/t5").symlink_to(tiny_t5)
    write_jsonl(
        tmp_path / "mine",
        train=[question(n) for n in range(6)],
        validation=[question(0, "validation")],
        test=[question(n, "test") for n in range(3)],
    )
    write_params(
        {
            "teachers": ["t5"],
            "models/t5": {"source": "folder", "path": str(tiny_t5)},
            "data/name": "mine",
            "datasets/mine": {"source": "files", "folder": "mine"},
            "rationales/num_examples": 2,
            "rationales/max_tokens": 8,
        }
    )
    assert run_stage("prepare").returncode == 0
    done = run_stage("rationales", "--teacher", "t5")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    rows = tables.read_table(tables.rationale_table("t5"))
    assert [row["split"] for row in rows] == ["train"] * 6 + ["test"] * 3
    assert all(row["output_tokens"] <= 16 for row in rows)
    again = run_stage("rationales", "--teacher", "t5")
    assert "0 new, 9 found" in again.stderr


@pytest.mark.parametrize(
    ("name", "backend", "unpadded"),
    [
        ("Llama", "transformers", False),
        ("Mistral", "transformers", False),
        ("Rwkv", "transformers", True),
        ("Rwkv", "vllm", False),
    ],
)
def test_texts_that_padding_changed_have_another_key(
    tmp_path, parameter_values, name, backend, unpadded
):
    families.build(name).save_pretrained(tmp_path)
    settings = Rationales.model_validate(parameter_values["rationales"] | {"backend": backend})
    source = FolderModel(source="folder", path="anywhere")
    parts = json.loads(identity("tiny", source, settings, tmp_path))
    assert (parts[-1] == "without padding") == unpadded
    assert len(parts) == 5 + unpadded


def test_a_folder_is_identified_by_its_content(tmp_path, tiny_t5, tiny_model, parameter_values):
    settings = Rationales.model_validate(parameter_values["rationales"] | {"dtype": "bfloat16"})
    source = FolderModel(source="folder", path="anywhere")
    assert backend_of("auto", tiny_t5) == "transformers"
    assert backend_of("auto", tiny_model) == "vllm"
    assert backend_of("transformers", tiny_model) == "transformers"
    config = {"is_encoder_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    before = identity("tiny", source, settings, tmp_path)
    elsewhere = FolderModel(source="folder", path="else")
    assert before == identity("tiny", elsewhere, settings, tmp_path)
    other = settings.model_copy(update={"dtype": "float32"})
    assert before != identity("tiny", source, other, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"x": 1}))
    assert before != identity("tiny", source, settings, tmp_path)
