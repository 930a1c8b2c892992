"""The one exception that speaks to users."""


class InputError(Exception):
    """Something the user gave can't be used: a file, a folder, a configuration field.

    The message is one sentence that names the file or field and says how to mend it. Commands print it without a traceback and
    exit with code 2; anything else that escapes is a bug of ours and keeps its traceback.
    """
