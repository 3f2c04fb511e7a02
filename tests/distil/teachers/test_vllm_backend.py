"""vLLM's arguments, error messages and environment; test_end_to_end.py runs the engine."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BloomConfig, LlamaConfig, MambaConfig, MptConfig

from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import load_parameters
from stages.distil.interface.vllm_arguments import SPEED_ONLY, engine_arguments
from stages.distil.language.chat import Chat, Ends
from stages.distil.language.quality import TOO_LONG
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.models.generation import missing_ends
from stages.distil.teachers import vllm_backend as engine
from stages.distil.teachers.backend import Completion, Request
from stages.distil.teachers.selection import identity
from stages.distil.teachers.vllm_backend import Engine, _advice
from tests.conftest import PARAMS

TEACHER = "qwen-coder-1b5"


@pytest.fixture
def load(write_params):
    return lambda arguments: load_parameters(write_params({"rationales/engine": arguments}))


def test_the_argument_names_are_those_of_the_installed_vllm():
    from vllm.engine.arg_utils import EngineArgs

    names = engine_arguments()
    assert {"tensor_parallel_size", "max_num_seqs", "quantization"} < set(names)
    assert set(names) <= EngineArgs.__dataclass_fields__.keys()
    assert set(names) >= SPEED_ONLY


def test_a_teachers_own_arguments_override_the_shared_ones(load):
    arguments = {"max_num_seqs": 8, TEACHER: {"max_num_seqs": 2, "tensor_parallel_size": 4}}
    settings = load(arguments).rationales
    assert settings.engine_of(TEACHER) == {"max_num_seqs": 2, "tensor_parallel_size": 4}
    assert settings.engine_of("smollm2-135m") == {"max_num_seqs": 8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_num_seq": 8}, "unknown vLLM argument or model 'max_num_seq'; did you mean 'max_"),
        ({"qwen-coder": {}}, f"did you mean '{TEACHER}'?"),
        ({TEACHER: {"tensor_paralel_size": 2}}, "did you mean 'tensor_parallel_size'?"),
        ({TEACHER: 2}, f"rationales.engine.{TEACHER}: expected a mapping of vLLM's arguments"),
        ({"dtype": "half"}, "rationales.engine.dtype: set rationales.dtype"),
        ({TEACHER: {"trust_remote_code": True}}, "code that comes with a model is never run"),
        ({"hf_token": "hf_abc"}, "set HF_TOKEN"),
    ],
)
def test_a_wrong_argument_is_a_one_line_error(load, arguments, message):
    with pytest.raises(UserError) as error:
        load(arguments)
    assert message in str(error.value)
    assert "hf_abc" not in str(error.value)


def test_only_arguments_that_change_texts_are_part_of_their_key(load, tiny_model):
    def identify(arguments):
        parameters = load(arguments)
        source = parameters.models[TEACHER]
        return identity(TEACHER, source, parameters.rationales, tiny_model)

    plain = identify({})
    assert identify({"max_num_seqs": 8, TEACHER: {"tensor_parallel_size": 2}}) == plain
    assert identify({"smollm2-135m": {"quantization": "fp8"}}) == plain
    assert len({plain, identify({"quantization": "fp8"}), identify({"kv_cache_dtype": "fp8"})}) == 3


def test_an_invalid_value_is_a_one_line_error(tiny_model):
    with pytest.raises(UserError) as error:
        Engine(tiny_model, 64, "float32", {"max_num_seqs": 0})
    line = str(error.value)
    assert "\n" not in line
    assert "max_num_seqs" in line
    assert "see rationales.engine" in line


class FakeEngine:
    """Stands in for vLLM's engine: token n of a prompt has the log-probability −n / 10."""

    def __init__(self):
        self.vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=2))
        self.waiting = []

    def add_request(self, name, prompt, sampling):
        self.waiting.append((name, prompt["prompt_token_ids"], sampling))

    def step(self):
        outputs = []
        for name, tokens, sampling in self.waiting:
            scores = None
            if sampling.prompt_logprobs is not None:
                assert sampling.prompt_logprobs == 0
                by_position = enumerate(tokens[1:], start=1)
                scores = [None, *({t: SimpleNamespace(logprob=-n / 10)} for n, t in by_position)]
            written = SimpleNamespace(text="so", token_ids=[7], finish_reason="length")
            outputs.append(
                SimpleNamespace(
                    request_id=name,
                    finished=True,
                    outputs=[written],
                    prompt_token_ids=tokens,
                    prompt_logprobs=scores,
                )
            )
        self.waiting = []
        return outputs


def test_a_replys_score_is_the_mean_of_its_tokens_in_the_prompt(tiny_model, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    llm = SimpleNamespace(llm_engine=FakeEngine(), get_tokenizer=lambda: tokenizer)
    monkeypatch.setattr(engine, "start_vllm", lambda *_: llm)
    teacher = Engine(tiny_model, 300, "float32")
    conversation = Conversation("", (), "Who?", "So:")
    text, reply, long = (
        Request(conversation, 1, reply=reply) for reply in (None, "mother", "mother" * 300)
    )
    done = dict(teacher.complete(iter([text, reply, long])))
    tokens, of_reply = teacher._chat.encode_reply(conversation, "mother")
    positions = range(len(tokens), len(tokens) + len(of_reply))
    assert len(of_reply) > 1
    assert done[reply].score == pytest.approx(-sum(positions) / len(of_reply) / 10)
    assert done[reply] == Completion("", "stop", len(tokens), len(of_reply), done[reply].score)
    assert (done[text].text, done[text].finish_reason) == ("so", "length")
    assert done[long].finish_reason == TOO_LONG


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (BloomConfig(), 300),
        (MambaConfig(), 300),
        (MptConfig(max_seq_len=77), 77),
        (LlamaConfig(max_position_embeddings=99), 99),
    ],
)
def test_a_model_without_a_limit_reads_rationales_context(
    tmp_path, tiny_model, monkeypatch, config, context
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    llm = SimpleNamespace(llm_engine=FakeEngine(), get_tokenizer=lambda: tokenizer)
    started = []
    monkeypatch.setattr(engine, "start_vllm", lambda *own: started.append(own) or llm)
    config.save_pretrained(tmp_path)
    shutil.copy(tiny_model / "model.safetensors", tmp_path)
    Engine(tmp_path, 300, "float32")
    assert [length for _, length, *_ in started] == [context]


def test_a_reply_ends_with_its_turn_if_neither_settings_nor_tokenizer_say_so(
    tiny_model, tmp_path, monkeypatch
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text, turn = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    settings = json.dumps({"eos_token_id": text})
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text(settings)
    asked = Request(Conversation("", (), "Who?", "So:"), 1)

    def sampling(**changes):
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        fake = FakeEngine()
        add = fake.add_request
        seen = []
        fake.add_request = lambda *own: seen.append(own[2]) or add(*own)
        llm = SimpleNamespace(llm_engine=fake, get_tokenizer=lambda: tokenizer)
        monkeypatch.setattr(engine, "start_vllm", lambda *_: llm)
        list(Engine(tmp_path, 300, "float32").complete(iter([asked])))
        return seen[0].stop_token_ids, seen[0].stop

    assert sampling() == ([], [])  # the tokenizer's end-of-text is the end of the turn
    assert sampling(eos_token="<|endoftext|>") == ([turn], [])
    template = "{% for m in messages %}{{ m.content }}</turn>\n{% endfor %}"
    assert sampling(chat_template=template) == ([], ["</turn>"])
    assert sampling(chat_template=None) == ([], ["\n\n"])


@pytest.mark.parametrize("error", [AttributeError("no selective_scan"), KeyError("x")])
def test_whatever_stops_the_engine_is_one_line(tiny_model, monkeypatch, error):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    fake = FakeEngine()

    def fail():
        raise error

    fake.step = fail
    llm = SimpleNamespace(llm_engine=fake, get_tokenizer=lambda: tokenizer)
    monkeypatch.setattr(engine, "start_vllm", lambda *_: llm)
    teacher = Engine(tiny_model, 300, "float32")
    with pytest.raises(UserError, match="vLLM stopped: ") as found:
        list(teacher.complete(iter([Request(Conversation("", (), "Who?", "So:"), 1)])))
    assert "\n" not in str(found.value)


def test_a_validation_error_names_argument_and_reason():
    refusal = ValueError(
        "1 validation error for CacheConfig\ngpu_memory_utilization\n  Input should be less than "
        "or equal to 1\n    For further information visit https://errors.pydantic.dev/2/v/less"
    )
    assert "gpu_memory_utilization Input should be less than or equal to 1" in _advice(refusal)
    assert "https" not in _advice(refusal)


def test_by_default_no_arguments_are_set():
    assert load_parameters(PARAMS).rationales.engine_of(TEACHER) == {}


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (
            "To serve at least one request with the model's max seq len (8192), 3.5 GiB KV cache "
            "is needed, which is larger than the available KV cache memory (1.0 GiB).\nmore",
            "lower rationales.context, free memory, or choose a smaller teacher",
        ),
        ("No available memory for the cache blocks.", "VLLM_CPU_KVCACHE_SPACE"),
        (
            "Model architectures ['NoSuchModel'] are not supported for now.",
            "set rationales.backend to transformers",
        ),
        (
            "'_OpNamespace' '_C' object has no attribute 'selective_scan_fwd'",
            "set rationales.backend to transformers",
        ),
        ("something else\nsecond line", "something else second line; see rationales.engine"),
        ("", "MemoryError"),
    ],
)
def test_an_error_is_one_line_with_advice(message, advice):
    line = _advice(MemoryError(message) if not message else ValueError(message))
    assert advice in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("dtype", "workers", "space"), [("bfloat16", 1, "4"), ("float32", 1, "3"), ("bfloat16", 2, "2")]
)
def test_the_cache_takes_a_quarter_of_the_memory_left_by_the_weights(
    tmp_path, monkeypatch, dtype, workers, space
):
    save_file({"w": torch.zeros(1000)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(engine, "count_parameters", lambda folder: 2 * engine.GIB)
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    free = type("Memory", (), {"available": 20 * engine.GIB})
    monkeypatch.setattr(engine.psutil, "virtual_memory", free)
    for name in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)
    engine._use_whole_machine(tmp_path, dtype, workers)
    assert os.environ.pop("VLLM_CPU_KVCACHE_SPACE") == space
    bound = {1: "0,1,2,5", 2: "0,2|1,5"}
    assert os.environ.pop("VLLM_CPU_OMP_THREADS_BIND") == bound[workers]


def test_the_users_own_settings_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    engine._use_whole_machine(tmp_path, "float32", 1)
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "0"


def test_a_tokenizer_may_lack_an_end_of_text(tiny_model):
    """Its model declares the end of a text alone."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    assert missing_ends(Chat("far", tokenizer), tiny_model, of_tokenizer=True) == Ends()
