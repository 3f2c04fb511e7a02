"""Answers are counted part by part."""

import pytest

from stages.distil.student import answering
from stages.distil.student.answering import count_correct, generate_answers
from tests.distil.student.test_samples import ROWS, load


@pytest.mark.parametrize("part", [1, 2, 100])
def test_right_answers_of_some_questions_are_counted(family, monkeypatch, part):
    monkeypatch.setattr(answering, "PART", part)
    model, tokenizer, encoder = load(family)
    prompts = [encoder.prompt(row, 4) for row in ROWS]
    texts = generate_answers(model, tokenizer, prompts, 4, "float32")
    questions = [{"options": [], "answer": text} for text in texts]
    questions[2]["answer"] = "another answer"
    for numbers in (range(4), range(1, 4, 2), range(2, 3)):
        count = count_correct(model, tokenizer, prompts, questions, numbers, 4, "float32")
        assert count == len(numbers) - (2 in numbers)
