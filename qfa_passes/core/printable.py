"""Names from a model, made safe to show: a model may call a node anything, including terminal commands."""


def printable(text: str | bytes, limit: int = 120) -> str:
    """Returns ``text`` with every control, format and line-breaking character escaped, and long text cut.

    Covers C0 and C1 controls (ANSI sequences), line and paragraph separators, bidirectional overrides, zero-width and
    unassigned characters and lone surrogates. The result is one line and can be encoded as UTF-8.

    Args:
        text: A name from a model or a file; bytes when it was no valid UTF-8.
        limit: Longest result before escaping; the middle is cut out.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "backslashreplace")
    if len(text) > limit:
        half = (limit - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    """Returns one character or its backslash escape."""
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
