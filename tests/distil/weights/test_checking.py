"""Model folders as strangers leave them: refused in one line by `fetch`, or fetched as they are."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, Qwen2_5_VLConfig

from stages.distil.attribution.word_scores import WordScores
from stages.distil.encoding.writing import Job, encode_splits
from stages.distil.evaluation.usefulness import Scorer
from stages.distil.interface.catalogue import FolderModel
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import load_parameters
from stages.distil.models.loading import load_model
from stages.distil.teachers.vllm_backend import start_vllm
from stages.distil.weights.architecture import model_without_weights
from stages.distil.weights.checking import check_files, quantisation
from stages.distil.weights.fetching import fetch_model
from stages.distil.weights.folders import count_parameters, model_folder
from stages.fetch import fetch as fetch_stage
from tests.students import write_distill

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MATRIX = "model.layers.1.self_attn.q_proj.weight"
QUANTISED = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": True}


@pytest.fixture
def mine(tiny_model, tmp_path, monkeypatch) -> Path:
    """A folder of the user's own with a whole model."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(tiny_model, tmp_path / "mine")


def fetch(folder: Path) -> Path:
    return fetch_model("m", FolderModel(source="folder", path=folder))


def refusal(folder: Path) -> str:
    """Return the one line with which `fetch` refuses a folder; nothing is left behind."""
    with pytest.raises(UserError) as caught:
        fetch(folder)
    assert "\n" not in str(caught.value)
    assert not list(Path("models").glob("m*"))
    return str(caught.value)


def change_json(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def shard(folder: Path) -> tuple[str, str]:
    """Split the weights in two shards; return their names."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    shards = {name: files[n % 2] for n, name in enumerate(sorted(tensors))}
    for file in files:
        own = {name: tensors[name] for name, shard in shards.items() if shard == file}
        save_file(own, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    return files


def pointer(file: Path) -> None:
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'7' * 64}\nsize 9\n")


def quantise(folder: Path) -> None:
    """Pack the matrices of the layers as GPTQ does, eight numbers of 4 bits in an integer."""

    def pack(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "proj" in name]:
            rows, columns = tensors.pop(name).shape
            matrix = name.removesuffix(".weight")
            tensors[f"{matrix}.qweight"] = torch.zeros(columns // 8, rows, dtype=torch.int32)
            tensors[f"{matrix}.qzeros"] = torch.zeros(columns // 16, rows // 8, dtype=torch.int32)
            tensors[f"{matrix}.scales"] = torch.ones(columns // 16, rows, dtype=torch.float16)

    change_weights(folder, pack)
    change_json(folder / "config.json", quantization_config=QUANTISED)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "config.json"])
def test_a_text_pointer_of_git_lfs_is_named(mine, name):
    pointer(mine / name)
    assert f"{mine / name}: a text pointer of git-lfs" in refusal(mine)
    assert "git lfs pull" in refusal(mine)


@pytest.mark.parametrize("size", [0, 7, 8, 200, 20_000])
def test_weights_that_were_cut_off_are_refused(mine, size):
    os.truncate(mine / WEIGHTS, size)
    assert f"{mine / WEIGHTS}: damaged or cut off" in refusal(mine)


def test_a_header_longer_than_its_file_is_refused_without_memory_for_it(mine):
    (mine / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + b"{}")
    assert "damaged or cut off" in refusal(mine)


def test_shards_are_fetched_as_they_are(mine):
    files = shard(mine)
    assert {*files, INDEX} <= {file.name for file in fetch(mine).iterdir()}


def test_a_lost_shard_is_named(mine):
    _, second = shard(mine)
    (mine / second).unlink()
    assert f"{INDEX}: lists {second}, which is missing" in refusal(mine)


def test_a_lost_index_is_named(mine):
    shard(mine)
    (mine / INDEX).unlink()
    assert f"neither {WEIGHTS} nor {INDEX}" in refusal(mine)


def test_a_shard_that_lacks_a_listed_tensor_is_refused(mine):
    first, second = shard(mine)
    shutil.copyfile(mine / first, mine / second)
    assert "is in another shard too" in refusal(mine)
    save_file({"x": torch.zeros(1)}, mine / second)
    assert re.search(f"{INDEX}: lists model.*weight, which no shard holds", refusal(mine))


@pytest.mark.parametrize("file", ["../mine/model.safetensors", "/etc/passwd", ".", 3, None])
def test_an_index_names_files_beside_it(mine, file):
    shard(mine)
    (mine / INDEX).write_text(json.dumps({"weight_map": {MATRIX: file}}))
    assert "is not the name of a file beside it" in refusal(mine)


def test_of_two_copies_of_the_weights_one_is_to_be_removed(mine):
    shutil.copyfile(mine / WEIGHTS, mine / "copy")
    shard(mine)
    (mine / "copy").rename(mine / WEIGHTS)
    assert "two copies of the weights" in refusal(mine)


def test_the_authors_own_copy_is_neither_fetched_nor_counted(mine):
    parameters = count_parameters(mine)
    shutil.copyfile(mine / WEIGHTS, mine / "consolidated.safetensors")
    folder = fetch(mine)
    assert not (folder / "consolidated.safetensors").exists()
    assert count_parameters(folder) == count_parameters(mine) == parameters
    assert (folder / WEIGHTS).read_bytes() == (mine / WEIGHTS).read_bytes()


def test_an_adapter_is_to_be_merged(mine):
    (mine / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    assert "adapter_config.json: an adapter (LoRA)" in refusal(mine)
    assert "merge" in refusal(mine)
    (mine / WEIGHTS).rename(mine / "adapter_model.safetensors")
    (mine / "adapter_config.json").unlink()
    assert "adapter_model.safetensors: an adapter (LoRA)" in refusal(mine)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "chat_template.jinja", "notes.txt"])
def test_a_link_out_of_the_folder_is_not_followed(mine, name):
    secret = mine.parent / "secret"
    shutil.copyfile(mine / name if (mine / name).exists() else "/etc/passwd", secret)
    (mine / name).unlink(missing_ok=True)
    (mine / name).symlink_to(secret)
    assert f"{mine / name}: a link to {secret}, outside the model's folder" in refusal(mine)


def test_a_link_to_itself_or_to_nowhere_is_refused(mine):
    (mine / "notes.txt").symlink_to("notes.txt")
    assert "notes.txt" in refusal(mine)
    (mine / "notes.txt").unlink()
    (mine / "notes.txt").symlink_to("nowhere.txt")
    assert "notes.txt: not a regular file, or a link to nowhere" in refusal(mine)


def test_a_hub_cache_links_to_its_own_blobs(mine, tiny_model):
    snapshot = mine.parent / "hub/models--a--b/snapshots/0123"
    blobs = snapshot.parent.parent / "blobs"
    snapshot.mkdir(parents=True)
    mine.rename(blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    link = snapshot.parent / "main"
    link.symlink_to(snapshot.name)
    folder = fetch(link)
    assert not (folder / WEIGHTS).is_symlink()
    assert (folder / WEIGHTS).read_bytes() == (tiny_model / WEIGHTS).read_bytes()


def test_a_pipe_in_the_folder_is_refused_and_not_read(mine):
    os.mkfifo(mine / "vocab.txt")
    assert "vocab.txt: not a regular file" in refusal(mine)


@pytest.mark.parametrize(
    "text",
    ["", '{"model_type": "llama"', "[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5_000 + "}"],
    ids=["empty", "cut off", "a deep list", "a deep mapping", "a long number"],
)
def test_a_configuration_that_is_no_json_is_refused(mine, text):
    (mine / "config.json").write_text(text)
    assert f"{mine / 'config.json'}: no valid JSON" in refusal(mine)


def test_a_configuration_is_a_mapping(mine):
    (mine / "config.json").write_text("[1, 2]")
    assert f"{mine / 'config.json'}: expected a mapping, found list" in refusal(mine)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1,000,000,000,000, which does not"),
        ({"num_labels": 10**12}, "num_labels is 1,000,000,000,000, which does not"),
        ({"max_position_embeddings": 1e18}, "max_position_embeddings is .*, which does not"),
        ({"num_hidden_layers": 0}, "a layer that config.json leaves out"),
        ({"num_hidden_layers": 2}, "model.layers.2.* and 8 more, a layer that config.json leaves"),
        ({"num_hidden_layers": 4}, "the weights lack model.layers.3.*8 more of a LlamaForCausal"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0, which does not"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, which does not"),
        ({"hidden_size": 64}, "has the shape .*, and config.json asks for"),
        ({"intermediate_size": 97}, "has the shape 48 × 96, and config.json asks for 48 × 97"),
        ({"vocab_size": 12}, "has the shape .* × 48, and config.json asks for 12 × 48"),
        ({"vocab_size": 10**14}, "has the shape .* × 48, and config.json asks for 10000000"),
        ({"hidden_size": 10**30}, "config.json cannot be read"),
        ({"hidden_size": "48"}, "config.json cannot be read"),
        ({"hidden_size": -48}, "config.json cannot be read"),
        ({"num_attention_heads": 0}, "config.json cannot be read"),
        ({"model_type": None}, "config.json cannot be read"),
        ({"model_type": "no-such-model"}, "config.json cannot be read"),
        ({"model_type": "gpt2"}, "the weights lack .* of a GPT2LMHeadModel"),
        ({"model_type": "t5"}, "cannot be read|the weights lack"),
        ({"rope_parameters": {"rope_type": "no-such-type"}}, "cannot be read"),
        ({"eos_token_id": 400_000}, "eos_token_id is 400000, and the embedding has"),
        ({"eos_token_id": [2, 400_000]}, "eos_token_id is 400000, and the embedding has"),
        ({"transformers_weights": "../other.safetensors"}, "lies outside the model"),
        ({"attn_implementation": "owner/kernel"}, "lies outside the model"),
    ],
)
def test_an_absurd_configuration_is_refused(mine, changes, reason):
    change_json(mine / "config.json", **changes)
    assert re.search(f"{mine}.*{reason}", refusal(mine))


@pytest.mark.parametrize("model_type", ["llama", "their-own"])
def test_code_that_comes_with_a_model_is_neither_run_nor_asked_for(mine, monkeypatch, model_type):
    (mine / "own.py").write_text("open('ran', 'w')")
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    change_json(mine / "config.json", model_type=model_type, auto_map=own)
    change_json(mine / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T", "own.T"]})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    if model_type == "llama":  # transformers has code of its own
        load_model(fetch(mine), "float32")
    else:
        assert "code that comes with a model is never run" in refusal(mine)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop(MATRIX),
        lambda tensors: tensors.pop("lm_head.weight"),
        lambda tensors: tensors.pop("model.norm.weight"),
        lambda tensors: tensors.update(other=tensors.pop(MATRIX)),
        lambda tensors: [tensors.update({f"m.{n}": tensors.pop(n)}) for n in list(tensors)],
    ],
    ids=["a matrix", "the head", "a norm", "another name", "another prefix"],
)
def test_weights_that_are_not_there_are_never_random(mine, change):
    """Neither in `fetch` nor in a folder that did not come from it, on both backends."""
    change_weights(mine, change)
    assert "the weights lack " in refusal(mine)
    for load in (lambda: load_model(mine, "float32"), lambda: start_vllm(mine, 64, "float32", {})):
        with pytest.raises(UserError, match="the weights lack "):
            load()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_refused(mine, value, dtype):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {name: tensor.to(dtype) for name, tensor in tensors.items()}
        tensors[MATRIX][3, 5] = value

    change_weights(mine, change)
    assert f"{MATRIX} is not finite" in refusal(mine)
    for load in (lambda: load_model(mine, "float32"), lambda: start_vllm(mine, 64, "float32", {})):
        with pytest.raises(UserError, match="is not finite"):
            load()


def test_large_weights_are_finite(mine):
    """Their sum of squares is not, in the precision of a norm."""
    change_weights(mine, lambda tensors: tensors.update({MATRIX: tensors[MATRIX] * 1e30}))
    load_model(fetch(mine), "float32")


def test_tied_weights_are_stored_once(mine):
    change_json(mine / "config.json", tie_word_embeddings=True)
    change_weights(mine, lambda tensors: tensors.pop("lm_head.weight"))
    model, _ = load_model(fetch(mine), "float32")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert count_parameters(model_folder("m")) == model.num_parameters()


def test_experts_that_are_stored_one_by_one_are_found_and_missed(mine):
    """transformers joins them to one tensor, whose name no file holds."""
    tokenizer = AutoTokenizer.from_pretrained(mine)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(mine)
    folder = fetch(mine)
    assert any("experts.3." in name for name in load_file(folder / WEIGHTS))
    shutil.rmtree(folder)
    lost = [name for name in load_file(mine / WEIGHTS) if "layers.1." in name and "expert" in name]
    change_weights(mine, lambda tensors: [tensors.pop(name) for name in lost])
    assert "the weights lack model.layers.1." in refusal(mine)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("tokenizer.json", "{", "its tokenizer cannot be read"),
        ("tokenizer.json", "[" * 100_000, "its tokenizer cannot be read"),
        ("tokenizer.json", "[]", "its tokenizer cannot be read"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: expected a mapping, found list"),
        ("tokenizer_config.json", '{"tokenizer_class": 7}', "its tokenizer cannot be read"),
        ("tokenizer_config.json", '{"model_max_length": "x"}', "its tokenizer cannot be read"),
        ("generation_config.json", '{"eos_token_id": "x"}', "expected the number of a token"),
        ("generation_config.json", "[]", "generation_config.json: expected a mapping"),
        ("generation_config.json", '{"a":' * 100_000, "generation_config.json: no valid JSON"),
        ("generation_config.json", '{"max_new_tokens": -1}', "generation_config.json cannot be"),
        ("generation_config.json", '{"eos_token_id": 400000}', "eos_token_id is 400000, and"),
    ],
)
def test_a_broken_tokenizer_or_generation_setting_is_refused(mine, name, text, reason):
    (mine / name).write_text(text)
    assert reason in refusal(mine)


def test_a_folder_without_a_tokenizer_is_refused(mine):
    for file in mine.glob("tokenizer*"):
        file.unlink()
    assert re.search("its tokenizer cannot be read|the tokenizer knows", refusal(mine))


def test_a_vocabulary_of_another_model_is_refused(mine):
    change_weights(mine, lambda tensors: tensors.update(longer(tensors)))
    change_json(mine / "config.json", vocab_size=2_000)
    assert re.search("the tokenizer knows .* tokens, and the embedding has 2,000", refusal(mine))


def longer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return embeddings and head with 2,000 rows."""
    names = ("model.embed_tokens.weight", "lm_head.weight")
    return {name: torch.zeros(2_000, tensors[name].shape[1]) for name in names}


def test_a_token_without_a_row_in_the_embedding_is_named(mine):
    tokenizer = AutoTokenizer.from_pretrained(mine)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    tokenizer.save_pretrained(mine)
    shutil.rmtree(fetch(mine))  # no text contains it, as in Gemma 3's folder
    tokenizer.add_tokens(["ball"])
    tokenizer.save_pretrained(mine)
    assert f"the tokenizer's 'ball' has the id {rows + 1}" in refusal(mine)


def test_a_padding_token_that_was_added_without_a_row_is_named(mine):
    tokenizer = AutoTokenizer.from_pretrained(mine)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(mine)
    assert "the tokenizer's '[PAD]' has the id" in refusal(mine)


def test_quantised_weights_are_counted_as_the_models_and_refused_where_gradients_pass(mine):
    parameters = count_parameters(mine)
    quantise(mine)
    folder = fetch(mine)  # vLLM reads them
    assert count_parameters(folder) == parameters
    with pytest.raises(UserError, match=r"its weights are quantised \(gptq\)"):
        load_model(folder, "float32")


def test_a_quantised_folder_that_lacks_a_matrix_is_refused(mine):
    quantise(mine)
    packed = MATRIX.replace(".weight", ".qweight")
    change_weights(mine, lambda tensors: tensors.pop(packed))
    assert f"the weights lack {MATRIX} of a Llama" in refusal(mine)


def test_weights_that_are_quantised_in_an_unnamed_way_are_refused(mine):
    change_json(mine / "config.json", quantization={"group_size": 64, "bits": 4})
    assert "no quant_method says how" in refusal(mine)


def test_a_strangers_name_does_not_flood_the_terminal(mine):
    change_weights(mine, lambda tensors: tensors.update({"m" * 100_000: tensors.pop(MATRIX)}))
    assert len(refusal(mine)) < 1_000


def test_whole_numbers_in_place_of_weights_are_no_weights(mine):
    change_weights(mine, lambda tensors: tensors.update({MATRIX: tensors[MATRIX].to(torch.int8)}))
    assert f"{MATRIX} has the type I8" in refusal(mine)


@pytest.mark.parametrize(
    ("use", "changes"),
    [
        ("student.model", {"student/model": "m"}),
        ("saliency.teacher", {"saliency/teacher": "m"}),
        ("assemble.scorer", {"assemble/scorer": "m", "assemble/choose": "best"}),
        (None, {"saliency/teacher": "m", "saliency/method": "random", "teachers": ["m"]}),
        (None, {"assemble/scorer": "m", "assemble/choose": "all"}),
    ],
)
def test_quantised_weights_are_refused_for_what_they_are_used_for(mine, write_params, use, changes):
    quantise(mine)
    entry = {"models/m": {"source": "folder", "path": str(mine)}}
    parameters = load_parameters(write_params(entry | changes))
    if use is None:
        fetch_stage(parameters, "m")
    else:
        with pytest.raises(UserError, match=rf"quantised \(gptq\), and {use} needs"):
            fetch_stage(parameters, "m")


def test_a_use_that_is_chosen_after_fetch_refuses_quantised_weights_first(scoring, mine):
    quantise(mine)
    parameters = scoring(mine)
    student = parameters.student.model_copy(update={"model": "tiny"})
    assemble = parameters.assemble.model_copy(update={"scorer": "tiny"})
    parameters = parameters.model_copy(update={"student": student, "assemble": assemble})
    job = Job(model_folder("tiny"), student, (), 6, 12)
    for split in ("train", "validation", "test"):
        write_distill(split, [])
    uses = {
        "saliency.teacher": lambda: WordScores(parameters, None),
        "assemble.scorer": lambda: Scorer(parameters, "any", None),
        "student.model": lambda: encode_splits(job),
    }
    for use, open_model in uses.items():
        with pytest.raises(UserError, match=rf"models/tiny: .*\(gptq\), and {use} needs"):
            open_model()


def test_sizes_are_no_counts(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"shared_expert_intermediate_size": 5632, "vocab_size_per_layer_input": 262144}
    (folder / "config.json").write_text(json.dumps(config))
    check_files(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**12}))
    with pytest.raises(UserError, match="num_hidden_layers is 1,000,000,000,000"):
        check_files(folder)


def test_a_single_file_may_have_an_index(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    names = dict.fromkeys(check_files(folder), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert check_files(folder).keys() == names.keys()


def test_weights_that_another_file_calls_quantised_are_quantised(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    assert quantisation(folder) is None
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert quantisation(folder) == "modelopt"


def test_a_teacher_that_also_sees_has_a_shape(tmp_path, tiny_model):
    text = {"num_hidden_layers": 1, "hidden_size": 16, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    images = {"depth": 1, "hidden_size": 16, "out_hidden_size": 16, "num_heads": 2}
    config = Qwen2_5_VLConfig(text_config=text | heads, vision_config=images)
    config.save_pretrained(tmp_path)
    shutil.copy(tiny_model / "model.safetensors", tmp_path)
    assert model_without_weights(tmp_path, "bfloat16").num_parameters() > 0
