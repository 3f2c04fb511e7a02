"""Text processing without a model: answers, words, the quality gate, prompts.

May import: interface, storage.
"""
