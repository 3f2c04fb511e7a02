"""Which kinds of students may read a question once for all its targets."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    Gemma3TextConfig,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from stages.distil.encoding.samples import Branch, Sample, separate_tasks
from stages.distil.interface.errors import UserError
from stages.distil.student.batch import Collator, check_shared_context
from stages.distil.student.losses import CrossEntropy
from tests.students import all_taught, load, loss_sums

COMMON = {"vocab_size": 400, "hidden_size": 48, "num_hidden_layers": 2}
SIZE = COMMON | {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
INDEPENDENT = {
    "llama": LlamaConfig(**SIZE),
    "qwen": Qwen2Config(**SIZE),
    "a window longer than the text": MistralConfig(**SIZE, sliding_window=4096),
}
DEPENDENT = {
    "a window shorter than the text": Gemma3TextConfig(**SIZE, head_dim=12, sliding_window=16),
    "mamba": MambaConfig(**COMMON, state_size=8),
    "mamba2": Mamba2Config(
        **COMMON, state_size=8, num_heads=8, head_dim=12, n_groups=1, chunk_size=16
    ),
    "alibi": BloomConfig(vocab_size=400, hidden_size=48, n_layer=2, n_head=4),
}


def tokens(start: int, count: int) -> list[int]:
    return [5 + 7 * n % 390 for n in range(start, start + count)]


SAMPLE = Sample(
    "long",
    tokens(0, 40),
    [Branch(str(n), tokens(9 * n, 3), tokens(50 * n, 4 + 9 * n)) for n in range(3)],
)
SHORT = Sample("short", tokens(2, 3), SAMPLE.branches[:2])


def build(config: PreTrainedConfig, tiny_model: Path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    return model, Collator(model, AutoTokenizer.from_pretrained(tiny_model))


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_attention_alone_keeps_targets_apart(kind, tiny_model):
    check_shared_context(*build(INDEPENDENT[kind], tiny_model), [SHORT, SAMPLE])


def test_both_families_of_the_tests_share(family):
    (model, tokenizer, _), encoder = load(family)
    model.train()
    check_shared_context(model, Collator(model, tokenizer), all_taught(encoder))
    assert model.training


@pytest.mark.parametrize("kind", DEPENDENT)
def test_a_state_a_short_window_and_alibi_are_refused(kind, tiny_model):
    model, collate = build(DEPENDENT[kind], tiny_model)
    with pytest.raises(UserError, match="set student.shared_context=false") as error:
        check_shared_context(model, collate, [SHORT, SAMPLE])
    assert type(model).__name__ in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", DEPENDENT | INDEPENDENT)
def test_separate_passes_are_the_models_own(kind, tiny_model):
    """In a padded batch of all targets, each loss is that of its text alone."""
    model, collate = build((DEPENDENT | INDEPENDENT)[kind], tiny_model)
    separate = separate_tasks([SAMPLE])
    check_shared_context(model, collate, separate)  # there is nothing to share
    with torch.no_grad():
        losses = [CrossEntropy(branch.task) for branch in SAMPLE.branches]
        sums = loss_sums(model, collate(separate), losses)
        for sample, own in zip(separate, sums, strict=True):
            [branch] = sample.branches
            ids = torch.tensor([sample.context + branch.prefix + branch.target])
            labels = ids.clone()
            labels[:, : -len(branch.target)] = -100
            mean = model(input_ids=ids, labels=labels).loss
            torch.testing.assert_close(own, mean * len(branch.target), rtol=1e-4, atol=0)


def test_a_leak_of_one_word_is_found(tiny_model):
    """The last token of the last target sees the first of another branch."""
    model, collate = build(INDEPENDENT["llama"], tiny_model)

    def leaking(samples):
        batch = collate(samples)
        if batch.inputs["attention_mask"].dim() == 4:
            batch.inputs["attention_mask"][..., -1, len(SAMPLE.context)] = True
        return batch

    with pytest.raises(UserError, match="they differ by"):
        check_shared_context(model, leaking, [SAMPLE])
