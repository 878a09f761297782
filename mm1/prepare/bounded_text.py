"""Words from raw data in messages and lists: bounded, whatever the data."""


def shorten(text: str, limit: int) -> str:
    """The text, or its two ends and its length if it has more than `limit`
    characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} ... {text[-half:]} ({len(text):,} characters)"


def escape(text: str) -> str:
    """The text with escapes for what a terminal would obey or cannot show, such as
    bytes of a name that are not UTF-8."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )
