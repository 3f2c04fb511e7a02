"""The student is trained on the tokens that its chat template and tokenizer give a server."""

import json
import string
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, PreTrainedTokenizerFast, T5Config

from stages.distil.encoding.encoder import Encoder
from stages.distil.encoding.samples import Sample
from stages.distil.interface.method import REASONING, Student, StudentPrompt
from stages.distil.language.student_prompts import (
    ANSWER_TASK,
    DEFAULT,
    SALIENCY_TASK,
    question_text,
    rationale_task,
    reasoning_text,
    student_context,
)
from stages.distil.student.export import configure_inference
from tests.students import TASKS as NAMES
from tests.students import TEACHERS, options_of, prompt_of, taught

PREFIXES = {"answer": "predict", "one": "explain", "two": "say why", "saliency": "Words"}
PAPER = StudentPrompt(options="lettered", prefixes=PREFIXES)
TASKS = [ANSWER_TASK, rationale_task(1), rationale_task(2), SALIENCY_TASK]
BEGIN, END = "<s>", "</s>"
CORPUS = [
    "Question: Who is Ann's aunt?\nOptions: he, she, Bob?\nAnswer: she, as she said.\nReason 1: it"
    " is 2 (or 12).\nReason 2: yes!\nKey words: aunt, Ann",
] * 3
# As in Llama 3 and Qwen 2: a line break joins the punctuation before it.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = pre_tokenizers.Digits(individual_digits=True)
LINES = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
SPACES = normalizers.Replace(" ", "▁")


def trainer(**arguments) -> trainers.BpeTrainer:
    special = ["<unk>", BEGIN, END]
    return trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, show_progress=False, **arguments
    )


def finish(tokenizer: Tokenizer, begin: bool = False, end: bool = False) -> PreTrainedTokenizerFast:
    """Add tokens to the beginning and end of every text; return the tokenizer."""
    if begin or end:
        tokenizer.post_processor = TemplateProcessing(
            single=" ".join([BEGIN] * begin + ["$A"] + [END] * end),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BEGIN, END)],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END)


def byte_level(*steps, regex: bool = False, **added) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes; `regex` splits texts as GPT-2 does."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainer(initial_alphabet=alphabet))
    return finish(tokenizer, **added)


def sentencepiece(normalizer=None, scheme: str = "never") -> PreTrainedTokenizerFast:
    """Return a tokenizer of pieces of words, and of bytes where there is no piece."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator([text.replace("\n", " ") for text in CORPUS], trainer())
    learnt = json.loads(learner.to_str())["model"]
    pieces = [*learnt["vocab"], *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", BEGIN, END])
    if normalizer:
        tokenizer.normalizer = normalizer
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return finish(tokenizer, begin=True)


def unigram() -> PreTrainedTokenizerFast:
    """Return a tokenizer as T5's."""
    pieces = ["<unk>", BEGIN, END, *string.printable, "▁", "▁Answer", "▁she", "aunt?"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(pieces))) for piece in pieces], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return finish(tokenizer, end=True)


TOKENIZERS = {
    "smollm2": byte_level(DIGITS, regex=True),
    "qwen2": byte_level(LINES),
    "llama3": byte_level(LINES, begin=True),
    "begin and end": byte_level(LINES, begin=True, end=True),
    "llama2": sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), SPACES])),
    "llama2, first": sentencepiece(scheme="first"),
    "llama2, always": sentencepiece(scheme="always"),
    "gemma": sentencepiece(SPACES),
    "superwords": byte_level(),  # merges anything, such as ": she"
}
TOKENIZERS["qwen2"].backend_tokenizer.normalizer = normalizers.NFC()
MARKS = ".?!:\"')7a犬é…"
ENDINGS = [*MARKS, "e\u0301", "🏳️‍🌈", "?!", " ", "  ", "\n", "? \n", "\r\n"]
PARTS = [*ENDINGS, "she", " Ann", ", ", "Options", "12"]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=4).map("".join)
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def student(name: str, **arguments) -> tuple[PreTrainedTokenizerFast, Encoder]:
    tokenizer = TOKENIZERS[name]
    model = SimpleNamespace(config=LlamaConfig(), generation_config=None)
    settings = Student(model="tiny", **arguments)
    configure_inference(model, tokenizer, settings, 6)
    return tokenizer, Encoder(model.config, tokenizer, settings, TEACHERS)


def row(question: str, options: list[str], text: str = "she") -> dict:
    rationales = [{"teacher": teacher, "text": text, "status": "ok"} for teacher in TEACHERS]
    return {
        "id": "1",
        "question": question,
        "options": options,
        "answer": text,
        "rationales": rationales,
        "saliency": [text],
    }


def tokens_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the tokens of a text that goes on, so without a token for its end."""
    tokens = tokenizer(text)["input_ids"]
    return tokens[:-1] if tokens[-1] == tokenizer.eos_token_id else tokens


def served(
    tokenizer: PreTrainedTokenizerFast,
    question: str,
    options: list[str],
    prompt: StudentPrompt = DEFAULT,
    **variables,
) -> list[int]:
    messages = [{"role": "user", "content": question_text(question, options, prompt)}]
    arguments = {"tokenize": True, "return_dict": True} | variables
    return tokenizer.apply_chat_template(messages, **arguments)["input_ids"]


def check(name: str, question: str, options: list[str], text: str = "she") -> None:
    """Compare every sample of a question with the tokens of its text and with those served."""
    tokenizer, encoder = student(name)
    end = tokenizer.eos_token_id
    example = row(question, options, text)
    [sample] = taught(encoder, example)
    assert [branch.task for branch in sample.branches] == NAMES
    for task, branch in zip(TASKS, sample.branches, strict=True):
        whole = student_context(question, options) + task
        prompt, written = sample.context + branch.prefix, branch.target[:-1]
        assert branch.target[-1] == end
        assert prompt == tokens_of(tokenizer, whole)
        if name == "superwords":
            assert tokenizer.decode(prompt + written) == f"{whole} {text}"
        else:
            assert prompt + written == tokens_of(tokenizer, f"{whole} {text}")
    scored = options_of(encoder, example)
    expected = served(tokenizer, question, options)
    for read in (sample, prompt_of(encoder, example, 4), *scored):
        assert read.context + read.branches[0].prefix == expected
    drafts = [branch for sample in scored for branch in sample.branches]
    for option, branch in zip(options, drafts, strict=True):
        [learnt] = taught(encoder, row(question, [], option), ["answer"])
        assert branch.target == learnt.branches[0].target


def check_paper(name: str, question: str, options: list[str], text: str = "she") -> None:
    """Compare the papers' samples, one for each task, with the tokens of their texts."""
    tokenizer, encoder = student(name, prompt=PAPER, shared_context=False)
    example = row(question, options, text)
    samples = taught(encoder, example)
    assert [sample.branches[0].task for sample in samples] == NAMES
    asked = question_text(question, options, PAPER)
    for sample, task, prefix in zip(samples, TASKS, PREFIXES.values(), strict=True):
        whole = f"{prefix}: {asked}{task}"
        prompt = encoder.window.fit_prompt(sample, 4)
        assert prompt.context + prompt.branches[0].prefix == tokens_of(tokenizer, whole)
        assert sample.context + sample.branches[0].prefix == tokens_of(tokenizer, whole)
    expected = served(tokenizer, question, options, PAPER)
    scored = options_of(encoder, example, shared=False)
    for read in (samples[0], prompt_of(encoder, example, 4), *scored):
        assert read.context + read.branches[0].prefix == expected


def check_reasons(name: str, question: str, options: list[str], text: str = "she") -> None:
    """Compare both ways of asking a student that reasons first with what it was trained on."""
    tokenizer, encoder = student(name, form="before_answer")
    example = row(question, options, text)
    [sample] = taught(encoder, example)
    answer, rationale, *_ = sample.branches
    [reasoning] = encoder.prompts([example], REASONING)
    reasoned = reasoning.context + reasoning.branches[0].prefix
    assert sample.context + rationale.prefix == reasoned
    assert served(tokenizer, question, options) == reasoned
    assert served(tokenizer, question, options, enable_thinking=True) == reasoned
    direct = served(tokenizer, question, options, enable_thinking=False)
    assert sample.context + answer.prefix == direct
    whole = f"{student_context(question, options)}\nRationale: {reasoning_text(text)} {text}"
    if name != "superwords":
        written = sample.context + rationale.prefix + rationale.target[:-1]
        assert written == tokens_of(tokenizer, whole)


both_prompts = pytest.mark.parametrize("compare", [check, check_paper, check_reasons])


@every_tokenizer
@both_prompts
@pytest.mark.parametrize("options", [[], ["he", "she"]])
def test_the_student_is_served_with_the_tokens_of_its_training(name, compare, options):
    for ending in ENDINGS:
        compare(name, f"Who is Ann's aunt{ending}", [option + ending for option in options])


@every_tokenizer
@both_prompts
@given(TEXTS, st.lists(TEXTS, max_size=3), TEXTS)
def test_any_text_is_served_as_it_was_trained(name, compare, question, options, text):
    compare(name, question, options, text)


def test_these_tokenizers_merge_across_the_borders_of_the_parts():
    def tokens(name: str, text: str) -> list[str]:
        return TOKENIZERS[name].tokenize(text)

    assert tokens("smollm2", "aunt?\nAnswer")[-3:] == ["?", "Ċ", "Answer"]
    for name in ("qwen2", "llama3"):
        assert tokens(name, "aunt?\nAnswer")[-2:] == ["?Ċ", "Answer"]
    for name in ("llama2", "llama2, first", "llama2, always"):
        assert tokens(name, "\nAnswer")[:2] == ["▁", "<0x0A>"]
    assert tokens("llama2", " she")[0] == tokens("gemma", " ")[0] == "▁"
    assert tokens("llama2, first", "<s>Question")[1][0] == "Q"
    start = tokens("superwords", "\nAnswer:")
    assert tokens("superwords", "\nAnswer: she")[: len(start)] != start


@pytest.mark.parametrize("options", [[], ["he", "she"]])
def test_without_merges_each_part_has_the_tokens_of_its_own_text(options):
    """So SmolLM2's stored trainings stay valid."""
    tokenizer, encoder = student("smollm2")
    [sample] = taught(encoder, row("Who is Ann's aunt?", options))
    assert sample.context == tokenizer.encode(student_context("Who is Ann's aunt?", options))
    assert [b.prefix for b in sample.branches] == [tokenizer.encode(task) for task in TASKS]
    target = [*tokenizer.encode(" she"), tokenizer.eos_token_id]
    assert [b.target for b in sample.branches] == [target] * 4


@every_tokenizer
def test_a_cut_prompt_is_the_end_of_the_served_one(name):
    question, options = "Who is Ann's aunt? " * 9, ["he", "she?"]
    tokenizer, _ = student(name)
    expected = served(tokenizer, question, options)
    _, encoder = student(name, context=len(expected) - 1)
    prompt = prompt_of(encoder, row(question, options), 4)
    head = int(expected[0] == tokenizer.bos_token_id)
    tokens = prompt.context + prompt.branches[0].prefix
    assert tokens == expected[:head] + expected[head + 5 :]


@pytest.mark.parametrize("tokenizer", [unigram(), TOKENIZERS["begin and end"]], ids=["T5", "BART"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_encoder_reads_the_tokens_of_the_question_and_the_prefix(tokenizer, ending):
    question = f"Who is Ann's aunt{ending}"
    context = student_context(question, [])

    def samples(shared: bool) -> list[Sample]:
        settings = Student(model="tiny", shared_context=shared)
        return taught(Encoder(T5Config(), tokenizer, settings, TEACHERS), row(question, []))

    wholes = [tokenizer(context + task)["input_ids"] for task in TASKS]
    assert [sample.context for sample in samples(shared=False)] == wholes
    [shared] = samples(shared=True)
    assert shared.context == tokenizer(context)["input_ids"]


@pytest.mark.parametrize("options", [[], ["he", "she"]])
def test_with_prefixes_t5_reads_and_writes_the_texts_of_the_papers_code(options):
    """The encoder's text is `predict: …`, the decoder's the target alone."""
    tokenizer = unigram()
    settings = Student(model="tiny", prompt=PAPER, shared_context=False)
    encoder = Encoder(T5Config(), tokenizer, settings, TEACHERS)
    example = row("Who is Ann's aunt?", options)
    samples = taught(encoder, example)
    asked = question_text("Who is Ann's aunt?", options, PAPER)
    for sample, prefix in zip(samples, PREFIXES.values(), strict=True):
        assert sample.context == tokenizer(f"{prefix}: {asked}")["input_ids"]
        [branch] = sample.branches
        assert (branch.prefix, branch.target) == ([], tokenizer("she")["input_ids"])
    for read in (prompt_of(encoder, example, 4), *options_of(encoder, example, shared=False)):
        assert (read.context, read.branches[0].prefix) == (samples[0].context, [])


@pytest.mark.parametrize("name", ["smollm2", "llama2", "gemma", "T5"])
def test_a_cut_question_keeps_its_prefix(name):
    config, tokenizer = (
        (T5Config(), unigram()) if name == "T5" else (LlamaConfig(), TOKENIZERS[name])
    )
    example = row("Who is Ann's aunt? " * 9, ["he", "she?"])

    def encoder(**limit) -> Encoder:
        settings = Student(model="tiny", prompt=PAPER, shared_context=False, **limit)
        return Encoder(config, tokenizer, settings, TEACHERS)

    for number, before in ((0, "predict:"), (2, "say why:")):
        whole = taught(encoder(), example)[number]
        tokens = whole.context + whole.branches[0].prefix
        room = 0 if name == "T5" else 4
        limit = len(tokens) + room - 30
        cut = encoder(context=limit).window.fit_prompt(whole, 4)
        short = cut.context + cut.branches[0].prefix
        assert len(short) == limit - room
        kept = tokens_of(tokenizer, before)
        assert tokens[: len(kept)] == kept
        assert short == kept + tokens[len(kept) + 30 :]
