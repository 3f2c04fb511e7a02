"""A model reads the control tokens of its chat template, and those that a text quotes as text."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stages.distil.attribution.prompts import encode_prompt
from stages.distil.language.chat import Chat
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.storage.examples import Example
from tests.conftest import CHAT

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
LETTERS = sorted({*"▁ abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ?.,:_|<>/s1\n[]", "\n"})
QUOTING = "Why does <|im_end|> end </s> it, <s><s>?"
PLAIN = "Why does it end it, so?"


def byte_level(folder, **changes):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>", "</s>"]})
    return tokenizer


def wrapped(model, pre, decoder, normalizer=None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = pre, decoder
    if normalizer:
        backend.normalizer = normalizer
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHAT,
    )


def metaspace(folder, scheme="first"):
    """A tokenizer as Llama 2's: a space before the text, and byte-pair merges."""
    vocabulary = {token: n for n, token in enumerate([*SPECIAL, *LETTERS, "it", "▁it"])}
    merges = [("i", "t"), ("▁", "it")]
    model = models.BPE(vocabulary, merges, unk_token="<unk>")
    pre = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return wrapped(model, pre, decoders.Metaspace(prepend_scheme=scheme))


def legacy(folder):
    """A tokenizer as Llama 2's was first: its normaliser puts a space before each piece."""
    vocabulary = {token: n for n, token in enumerate([*SPECIAL, *LETTERS, "it", "▁it"])}
    merges = [("i", "t"), ("▁", "it")]
    model = models.BPE(vocabulary, merges, unk_token="<unk>")
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer = wrapped(model, None, decoders.Replace("▁", " "), normalizers.Sequence(spaces))
    return tokenizer


def unigram(folder):
    """A tokenizer as T5's, whose vocabulary has control tokens as pieces of plain text."""
    pieces = [(token, 0.0) for token in SPECIAL]
    pieces += [(letter, -5.0) for letter in LETTERS] + [("▁it", -2.0)]
    model = models.Unigram(pieces, unk_id=0)
    return wrapped(model, pre_tokenizers.Metaspace(), decoders.Metaspace())


TOKENIZERS = [byte_level, metaspace, legacy, unigram]


@pytest.fixture(params=TOKENIZERS, ids=lambda make: make.__name__)
def tokenizer(request, tiny_model):
    return request.param(tiny_model)


def controls(tokenizer, tokens) -> list[int]:
    known = tokenizer.convert_tokens_to_ids(SPECIAL[1:])
    return [token for token in tokens if token in known]


def talk(question: str) -> Conversation:
    return Conversation("Be brief.", ((f"Who? {question}", question),), question, "So:")


@pytest.mark.parametrize("template", [CHAT, None])
def test_a_quoted_control_token_is_plain_text(tokenizer, template):
    tokenizer.chat_template = template
    chat = Chat("far", tokenizer)
    quoting, plain = (chat.encode(talk(text))[0] for text in (QUOTING, PLAIN))
    assert controls(tokenizer, quoting) == controls(tokenizer, plain)
    prompt = chat.prompt(talk(QUOTING))
    assert prompt.text.count("</s>") == 3
    tokens, spans = chat.tokens(prompt, offsets=True)
    assert tokens == quoting
    covered = {place for a, b in spans for place in range(a, b)}
    assert all(n in covered for n, letter in enumerate(prompt.text) if not letter.isspace())


@pytest.mark.parametrize("template", [CHAT, None])
def test_the_rest_of_a_prompt_keeps_its_tokens(tokenizer, template):
    """What stands outside the quotes is read as without them."""
    tokenizer.chat_template = template
    chat = Chat("far", tokenizer)
    prompt = chat.prompt(Conversation("Be brief.", (), f"it is {QUOTING} it", "it:"))
    tokens, spans = chat.tokens(prompt, offsets=True)
    whole = tokenizer(prompt.text, add_special_tokens=template is None, return_offsets_mapping=True)
    first, last = prompt.quoted[0][0] - 6, prompt.quoted[-1][1] + 4
    for before, after in ((0, first), (last, len(prompt.text))):
        inside = [
            [(t, span) for t, span in zip(*each, strict=True) if before <= span[0] < after]
            for each in ((tokens, spans), (whole["input_ids"], whole["offset_mapping"]))
        ]
        assert inside[0] == inside[1]
        assert inside[0]


def test_a_text_without_quotes_has_the_tokens_and_the_key_of_its_text(tokenizer):
    for template in (CHAT, None):
        tokenizer.chat_template = template
        chat = Chat("far", tokenizer)
        text = chat.render(talk(PLAIN))
        tokens = tokenizer.encode(text, add_special_tokens=template is None)
        assert chat.encode(talk(PLAIN))[0] == tokens
        assert chat.identify(talk(PLAIN)) == text
        assert chat.identify(talk(QUOTING)) != chat.render(talk(QUOTING))


def test_characters_of_private_use_are_no_way_to_a_control_token(tokenizer):
    chat = Chat("far", tokenizer)
    private = "".join(chr(n) * 10 for start in (0xF0000, 0x100000) for n in range(start, start + 9))
    question = f"{QUOTING} {private}"
    prompt = chat.prompt(Conversation("", (), question, ""))
    assert question in prompt.text
    tokens, _ = chat.tokens(prompt)
    assert controls(tokenizer, tokens) == controls(
        tokenizer, chat.encode(Conversation("", (), PLAIN, ""))[0]
    )


def test_a_quoted_token_in_question_rationale_and_label_is_text_for_the_attribution(tokenizer):
    chat = Chat("far", tokenizer)
    example = Example("1", "train", QUOTING, ["<s> it", "so"], "<s> it")
    text = f"{QUOTING}\nOptions: <s> it, so"
    conversation = Conversation("Be brief.", (), f"{text} Reply.", "So:")
    prompt = encode_prompt(chat, conversation, example, "<s> it", "So </s> it is.", "both")
    assert controls(tokenizer, prompt.ids) == controls(
        tokenizer, chat.encode(Conversation("Be brief.", (), "a", "So:"))[0]
    )
    assert controls(tokenizer, prompt.label) == []
    whole = f"{text}\nSo </s> it is."
    words = [whole[a:b] for a, b in prompt.spans]
    assert words == ("Why does im_end end s it s s s it so So s it is".split())
    assert set(prompt.words) == set(range(len(words)))


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_reply_has_the_tokens_that_follow_its_prompt(scheme):
    """Alone, the tokenizer would put a space before it."""
    tokenizer = metaspace(None, scheme)
    chat = Chat("far", tokenizer)
    prompt, reply = chat.encode_reply(talk(PLAIN), "it")
    assert tokenizer.convert_ids_to_tokens(reply) == ["it"]
    assert prompt == chat.encode(talk(PLAIN))[0]
    tokenizer.chat_template = None
    _, reply = Chat("far", tokenizer).encode_reply(talk(PLAIN), "it")
    assert tokenizer.convert_ids_to_tokens(reply) == ["▁it"]
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
    )
    _, reply = Chat("far", tokenizer).encode_reply(Conversation("", (), PLAIN, ""), "it")
    assert tokenizer.convert_ids_to_tokens(reply) == ["▁it"]


def test_a_byte_level_reply_is_encoded_as_before(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    chat = Chat("far", tokenizer)
    _, reply = chat.encode_reply(talk(PLAIN), "mother")
    assert reply == tokenizer.encode("mother", add_special_tokens=False)
    assert chat.identify(talk(PLAIN), "mother") == chat.render(talk(PLAIN))
    assert chat.identify(talk(PLAIN), "<s>") == chat.render(talk(PLAIN))  # none of its tokens
    assert chat.identify(talk(PLAIN), "<|im_end|>") != chat.render(talk(PLAIN))


@pytest.mark.parametrize("question", [PLAIN, QUOTING])
def test_a_text_that_goes_on_has_no_end_of_text(tokenizer, question):
    """`add_eos_token` and the like end a text; an encoder reads the end, a decoder goes on."""
    start, end = tokenizer.convert_tokens_to_ids(["<s>", "</s>"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    tokenizer.chat_template = None
    conversation = Conversation("", (), question, "So:")
    decoder, encoder = (Chat("far", tokenizer, None, both) for both in (False, True))
    tokens, _ = decoder.encode(conversation)
    assert controls(tokenizer, tokens) == [start]
    assert tokens[0] == start
    assert encoder.encode(conversation)[0] == [*tokens, end]
    assert decoder.identify(conversation) != encoder.identify(conversation)
    if question == PLAIN:
        assert encoder.identify(conversation) == encoder.render(conversation)
    example = Example("1", "train", question, [], "it")
    prompts = [encode_prompt(chat, conversation, example, "it") for chat in (decoder, encoder)]
    assert prompts[1].ids == [*prompts[0].ids, end]
    assert prompts[0].ids == tokens
    tokenizer.chat_template = CHAT
    chat = Chat("far", tokenizer)
    assert start not in controls(tokenizer, chat.encode(conversation)[0])
