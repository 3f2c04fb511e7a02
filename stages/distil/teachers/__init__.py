"""What teachers write: prompts with solved examples, the backends, the store of texts.

May import: interface, storage, language, weights, models.
"""
