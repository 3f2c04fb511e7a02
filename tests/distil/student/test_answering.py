"""The student's texts, and answers that are counted part by part."""

import pytest

from stages.distil.encoding.files import Asked
from stages.distil.student import answering
from stages.distil.student.answering import AnswerLengths, count_correct, generate_answers
from tests.students import ROWS, asked, load, memorise, prompt_of


@pytest.mark.parametrize("part", [1, 2, 100])
def test_right_answers_of_some_questions_are_counted(family, monkeypatch, part):
    monkeypatch.setattr(answering, "PART", part)
    student, encoder = load(family)
    texts = generate_answers(student, [prompt_of(encoder, row, 4) for row in ROWS], 4)
    texts[2] = "another answer"
    questions = [
        Asked(question.prompt, None, [], [], text)
        for question, text in zip(asked(encoder, ROWS), texts, strict=True)
    ]
    for numbers in (range(4), range(1, 4, 2), range(2, 3)):
        count = count_correct(student, questions, numbers, encoder.window, AnswerLengths(4, 4))
        assert count == len(numbers) - (2 in numbers)


@pytest.mark.parametrize("shared_context", [True, False])
def test_answers_do_not_depend_on_the_batch(family, shared_context):
    student, encoder = load(family, shared_context=shared_context)
    prompts = [prompt_of(encoder, r, 8) for r in ROWS]
    together = generate_answers(student, prompts, 8)
    alone = [generate_answers(student, [prompt], 8)[0] for prompt in prompts]
    assert together == alone
    assert any(together)


@pytest.mark.parametrize("shared_context", [True, False])
def test_the_student_gives_the_answer_that_it_learnt(family, shared_context):
    student, encoder = memorise(family, shared_context)
    prompt = prompt_of(encoder, ROWS[0], 12)
    assert generate_answers(student, [prompt], 12) == [f" {ROWS[0]['answer']}"]
