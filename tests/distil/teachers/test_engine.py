"""vLLM's own arguments: which are taken, what they decide, and what it says of wrong ones."""

import pytest

from stages.distil.errors import UserError
from stages.distil.parameters import engine_arguments, load_parameters
from stages.distil.teachers import SPEED_ONLY, identity
from stages.distil.teachers.engine import Engine, _advice
from tests.conftest import ROOT

TEACHER = "qwen-coder-1b5"


@pytest.fixture
def load(write_params):
    return lambda engine: load_parameters(write_params({"rationales/engine": engine}))


def test_the_names_are_those_of_the_installed_vllm():
    from vllm.engine.arg_utils import EngineArgs

    names = engine_arguments()
    assert {"tensor_parallel_size", "max_num_seqs", "quantization"} < set(names)
    assert set(names) <= EngineArgs.__dataclass_fields__.keys()
    assert set(names) >= SPEED_ONLY


def test_a_teachers_own_arguments_go_before_those_of_all(load):
    engine = {"max_num_seqs": 8, TEACHER: {"max_num_seqs": 2, "tensor_parallel_size": 4}}
    settings = load(engine).rationales
    assert settings.engine_of(TEACHER) == {"max_num_seqs": 2, "tensor_parallel_size": 4}
    assert settings.engine_of("smollm2-135m") == {"max_num_seqs": 8}


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"max_num_seq": 8}, "unknown argument of vLLM or model 'max_num_seq'; did you mean 'max_"),
        ({"qwen-coder": {}}, f"did you mean '{TEACHER}'?"),
        ({TEACHER: {"tensor_paralel_size": 2}}, "did you mean 'tensor_parallel_size'?"),
        ({TEACHER: 2}, f"rationales.engine.{TEACHER}: expected a mapping of vLLM's arguments"),
        ({"dtype": "half"}, "rationales.engine.dtype: set rationales.dtype"),
        ({TEACHER: {"trust_remote_code": True}}, "no model's own code is run"),
        ({"hf_token": "hf_abc"}, "set HF_TOKEN"),
    ],
)
def test_a_wrong_argument_is_one_line_with_the_nearest_name(load, engine, said):
    with pytest.raises(UserError) as error:
        load(engine)
    assert said in str(error.value)
    assert "hf_abc" not in str(error.value)


def test_only_what_changes_texts_is_part_of_their_key(load, tiny_model):
    def known(engine):
        parameters = load(engine)
        source = parameters.models[TEACHER]
        return identity(TEACHER, source, parameters.rationales, tiny_model)

    plain = known({})
    assert known({"max_num_seqs": 8, TEACHER: {"tensor_parallel_size": 2}}) == plain
    assert known({"smollm2-135m": {"quantization": "fp8"}}) == plain
    assert len({plain, known({"quantization": "fp8"}), known({"kv_cache_dtype": "fp8"})}) == 3


def test_what_vllm_refuses_is_one_line(tiny_model):
    with pytest.raises(UserError) as error:
        Engine(tiny_model, 64, "float32", {"max_num_seqs": 0})
    line = str(error.value)
    assert "\n" not in line
    assert "max_num_seqs" in line
    assert "see rationales.engine" in line


def test_a_refusal_names_argument_and_reason():
    refusal = ValueError(
        "1 validation error for CacheConfig\ngpu_memory_utilization\n  Input should be less than "
        "or equal to 1\n    For further information visit https://errors.pydantic.dev/2/v/less"
    )
    assert "gpu_memory_utilization Input should be less than or equal to 1" in _advice(refusal)
    assert "https" not in _advice(refusal)


def test_without_arguments_vllm_decides():
    assert load_parameters(ROOT / "params.yaml").rationales.engine_of(TEACHER) == {}
