"""Versions of the algorithms: part of the key of everything that is kept between runs.

Raise a version when a change to the code, or to a parameter's default, changes the algorithm's
result for the same input. Source files are not part of any key: other changes invalidate nothing.
tests/test_versions.py pins a small result to each version.
"""

QUESTIONS = 5  # drawing, reading and choosing questions
TEXTS = 3  # encoding a teacher's prompt, generating the text
TUNING = 1  # fine-tuning a teacher before its attribution
ATTRIBUTION = 3  # encoding a prompt and its words, and their scores
USEFULNESS = 1  # a rationale before its conclusion, log p(answer) with and without it; its ratio
TARGETS = 4  # the quality gate, votes, joining a question with its targets, its salient words
TRAINING = 3  # encoding the student's samples, loss, order, schedule, the best epoch
EVALUATION = 4  # answering, reading an answer, counting
