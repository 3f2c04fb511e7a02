"""Where questions come from: one small module a source, each yielding `Example`s."""
