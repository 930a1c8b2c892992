"""The one exception that speaks to users."""

import unicodedata


class InputError(Exception):
    """Something the user gave can't be used: a file, a folder, a configuration field.

    The message is one sentence that names the file or field and says how to mend it. Commands print
    it without a traceback and exit with code 2; anything else that escapes is a bug of ours and
    keeps its traceback. What a file or a name brings into the sentence can't break its line or
    command a terminal: control characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(map(_shown, message)))


def _shown(character):
    control = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return character.encode("unicode_escape").decode() if control else character
