"""What a reader sees of a text: which texts read the same, and what of a model's text is text."""

import re
import unicodedata

import regex

# Unicode's Default_Ignorable_Code_Point (soft hyphen, zero-width space, byte-order mark, marks of
# direction, variation selectors, fillers …) and the marks of interlinear annotations, but for the
# joiners U+200C and U+200D. Spelled out, since `re` finds them faster than `regex` does.
_INVISIBLE = (
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_FLAG = r"\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f"  # of a region, such as Scotland's
_JOINERS = r"\u200c\u200d"
_NOT_SHOWN = re.compile(rf"({_FLAG})|{_INVISIBLE}")
# A joiner shows after a virama (Indic scripts), where it joins emoji, and where it keeps letters
# apart or joins them (Persian, Arabic), as RFC 5892, appendix A, has it.
_BEFORE = r"(?<=[\p{Joining_Type=L}\p{Joining_Type=D}]\p{Joining_Type=T}*)"
_AFTER = r"(?=\p{Joining_Type=T}*[\p{Joining_Type=R}\p{Joining_Type=D}])"
_NOT_BEFORE, _NOT_AFTER = _BEFORE.replace("<=", "<!"), _AFTER.replace("=", "!", 1)
_JOINER = regex.compile(
    rf"((?<=\p{{Canonical_Combining_Class=Virama}})[{_JOINERS}]"
    rf"|{_BEFORE}\u200c{_AFTER}"
    rf"|{_BEFORE}\u200d{_NOT_AFTER}|{_NOT_BEFORE}\u200d{_AFTER}"
    r"|(?<=\p{Extended_Pictographic}\p{Emoji_Modifier}?)\u200d(?=\p{Extended_Pictographic}))"
    rf"|[{_JOINERS}]",
    regex.VERSION1,
)
_REPEATED_JOINER = re.compile("(\u200c|\u200d)\\1+")
# Hyphens that look like the one on a keyboard, and the blank Braille pattern.
_ALIKE = {0x2010: "-", 0x2011: "-", 0x2800: " "}

# Escape sequences of terminals: CSI (colours, moves), OSC and its like (titles, links), others.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_LINE_BREAK = re.compile(r"\r\n|[\r\x0b\x0c\x85]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def appearance(text: str, lines: bool = False) -> str:
    """Return a form that two texts share if a reader cannot tell them apart.

    It is the text in NFC, without characters that do not show, and with one space for any white
    space. Joiners stay where they show. With `lines`, line breaks and the indentation of lines
    count, as they do in code. Compatibility forms, case and look-alike letters stay different.
    """
    if not text.isascii():
        text = _NOT_SHOWN.sub(lambda match: match[1] or "", text)
        if "\u200c" in text or "\u200d" in text:
            text = _REPEATED_JOINER.sub(r"\1", text)
            text = _JOINER.sub(lambda match: match[1] or "", text)
        text = unicodedata.normalize("NFC", text).translate(_ALIKE)
    return fold_spaces(text, lines)


def fold_spaces(text: str, lines: bool = False) -> str:
    """Return a text with one space for any white space, and none around it.

    With `lines`, line breaks and the indentation of lines stay.
    """
    if not lines:
        return " ".join(text.split())
    rows = (row.rstrip() for row in text.strip().splitlines())
    return "\n".join(row[: len(row) - len(row.lstrip())] + " ".join(row.split()) for row in rows)


def as_text(written: str) -> str:
    """Return what a model wrote as text alone: without what terminals, pages and tables obey.

    Escape sequences, NUL and other control characters (C0, C1) and halves of surrogate pairs are
    removed; carriage returns, form feeds and the like are line breaks. Tabs stay.
    """
    if not _CONTROL.search(written):
        return written
    written = _LINE_BREAK.sub("\n", _SEQUENCE.sub("", written))
    return _CONTROL.sub("", written)
