"""What fits into a student's window, and which targets are taught."""

from dataclasses import replace

import pytest

from stages.distil.encoding.samples import (
    SOFT_LABELS,
    Branch,
    Sample,
    Window,
    fit_targets,
    of_tasks,
    said,
    separate_tasks,
    with_drafts,
)
from stages.distil.interface.errors import UserError
from tests.students import ROWS, TEACHERS, load, prompt_of, row, taught


def test_a_long_question_loses_its_beginning_and_no_option(tiny_model):
    (_, tokenizer, _), unlimited = load(tiny_model)
    [sample] = taught(unlimited, ROWS[1])
    longest = max(len(b.prefix) + len(b.target) for b in sample.branches)
    limit = len(sample.context) + longest - 3
    _, encoder = load(tiny_model, context=limit)
    [cut] = taught(encoder, ROWS[1])
    assert cut.context == sample.context[3:]
    assert cut.branches == sample.branches
    assert tokenizer.decode(cut.context).endswith("\nOptions: red, green")


def test_targets_are_left_out_for_the_options_but_never_the_answer(tiny_model):
    (_, tokenizer, _), unlimited = load(tiny_model)
    [sample] = taught(unlimited, ROWS[1])
    answer, rationale = sample.branches
    options = len(tokenizer.encode("\nOptions: red, green"))
    limit = options + len(answer.prefix) + len(answer.target)
    assert len(rationale.prefix) + len(rationale.target) > limit - options
    _, encoder = load(tiny_model, context=limit)
    [short] = taught(encoder, ROWS[1])
    assert short.branches == [answer]
    assert tokenizer.decode(short.context) == "\nOptions: red, green"
    _, encoder = load(tiny_model, context=limit - 1)
    with pytest.raises(UserError, match=f"question '4': options and answer .* {limit - 1} tokens"):
        taught(encoder, ROWS[1])


def test_the_cut_depends_on_the_targets_that_are_taught(tiny_model):
    """So a question is stored whole: without its long rationale, nothing of it is cut."""
    _, unlimited = load(tiny_model)
    [sample] = taught(unlimited, ROWS[1])
    answer = sample.branches[0]
    limit = len(sample.context) + len(answer.prefix) + len(answer.target)
    _, encoder = load(tiny_model, context=limit)
    [alone] = taught(encoder, ROWS[1], ["answer"])
    assert alone.context == sample.context
    [both] = taught(encoder, ROWS[1], ["answer", "two"])
    assert len(both.context) < len(sample.context)
    assert len(both.branches) == 2


def test_a_prompt_leaves_room_for_the_answer(tiny_model):
    _, encoder = load(tiny_model, context=40)
    long = row(30, {}, [], ("red", "green"))
    prompt = prompt_of(encoder, long, 10)
    assert len(prompt.context) + len(prompt.branches[0].prefix) + 10 == 40
    assert prompt.branches[0].target == []
    [whole] = encoder.prompts([long])
    assert prompt.context == whole.context[-len(prompt.context) :]


def sample(*branches: Branch, context: int = 20, head: int = 2, least: int = 6) -> Sample:
    return Sample("1", list(range(context)), list(branches), head, least)


ANSWER = Branch("answer", [50], [60, 61])
LONG = Branch("one", [51], [70] * 9)
SHORT = Branch("saliency", [52], [80])
DECODER = Window(18, encoder_decoder=False, advice="do it")


def test_what_stands_before_the_question_is_not_cut():
    fits = DECODER.fit(sample(ANSWER, SHORT))
    assert fits.context == [0, 1, *range(7, 20)]
    assert len(fits.context) + 3 == DECODER.limit


def test_the_longest_of_the_optional_targets_goes_first():
    fits = DECODER.fit(sample(ANSWER, LONG, SHORT, context=30, least=12))
    assert fits.branches == [ANSWER, SHORT]
    assert len(fits.context) == DECODER.limit - 3
    alone = DECODER.fit(sample(LONG, context=30, least=12))
    assert (alone.branches, len(alone.context)) == ([], 30)  # there is nothing to read it for


def test_a_target_after_the_answer_takes_the_room_of_both():
    after = replace(SHORT, after_answer=True)
    fits = DECODER.fit(sample(ANSWER, after))
    taken = len(said(fits)) + len(after.prefix) + len(after.target)
    assert len(fits.context) == DECODER.limit - taken


def test_an_encoder_reads_the_question_alone():
    window = Window(18, encoder_decoder=True, advice="")
    fits = window.fit(sample(ANSWER, LONG, context=18))
    assert (len(fits.context), fits.branches) == (18, [ANSWER, LONG])
    assert len(window.fit(sample(ANSWER, LONG)).context) == 18


@pytest.mark.parametrize("task", ["answer", SOFT_LABELS])
def test_neither_the_answer_nor_an_option_is_left_out(task):
    with pytest.raises(UserError, match="take 19 tokens, more than the 18 .* or do it"):
        DECODER.fit(sample(Branch(task, [1], [2] * 12)))


def test_chosen_tasks_keep_their_order_and_samples_without_any_go():
    samples = [sample(ANSWER, LONG, SHORT), sample(LONG)]
    assert of_tasks(samples, {"saliency", "answer"}) == [sample(ANSWER, SHORT)]
    assert of_tasks(samples, set()) == []


@pytest.mark.parametrize("shared", [True, False])
def test_the_rationales_of_a_teacher_that_fit_share_the_weight_of_one(shared):
    """One that is left out takes no share; what is no rationale counts in full."""
    too_long = Branch("one", [51], [70] * 90)
    other = Branch("two", [53], [90])
    option = Branch(SOFT_LABELS, [50], [60], score=-1.0)
    branches = [ANSWER, LONG, SHORT, Branch("one", [51], [71]), other, too_long, option, option]
    samples = [sample(*branches)] if shared else [sample(branch) for branch in branches]
    window = Window(31, encoder_decoder=False, advice="")
    found = [branch for s in fit_targets(samples, window) for branch in s.branches]
    assert too_long not in found
    assert [(branch.task, branch.share) for branch in found] == [
        ("answer", 1),
        ("one", 1 / 2),
        ("saliency", 1),
        ("one", 1 / 2),
        ("two", 1),
        (SOFT_LABELS, 1),
        (SOFT_LABELS, 1),
    ]


def test_drafts_are_branches_of_one_sample_or_of_one_each():
    prompt = sample(Branch("answer", [50], []))
    one, two = (Branch("answer", [50], draft) for draft in ([1], [2, 3]))
    assert with_drafts(prompt, [[1], [2, 3]], shared=True) == [sample(one, two)]
    assert with_drafts(prompt, [[1], [2, 3]], shared=False) == [sample(one), sample(two)]
    assert with_drafts(prompt, [], shared=True) == with_drafts(prompt, [], shared=False) == []


@pytest.mark.parametrize("form", ["branch", "after_answer"])
def test_a_task_alone_repeats_the_answer_that_it_follows(family, form):
    _, encoder = load(family, form=form)
    [shared] = taught(encoder, ROWS[0])
    _, apart = load(family, form=form, shared_context=False)
    encoder_decoder = apart.window.encoder_decoder
    for together, alone in zip(separate_tasks([shared]), taught(apart, ROWS[0]), strict=True):
        [one], [other] = together.branches, alone.branches
        assert (one.task, one.target, one.after_answer) == (other.task, other.target, False)
        if not encoder_decoder:
            assert together.context + one.prefix == alone.context + other.prefix
    assert [s.branches[0].task for s in separate_tasks([shared])] == [
        "answer",
        *TEACHERS,
        "saliency",
    ]
