"""JSON as records have it: what a lenient reader would half understand is an error."""

import json
import math

LARGEST = 2**63
"""Whole numbers at or beyond it, on either side of zero, fit no array and are refused."""


def parse(text: str | bytes):
    """What a JSON text stands for.

    Raises:
        ValueError: it is no JSON or no UTF-8; a number is NaN, infinite or too large; an object has
            a name twice, of which one would be lost; text holds half a character (a surrogate),
            which can't be written again; or it is nested too deeply.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        content = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_float,
            parse_int=_int,
        )
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}") from error
    except UnicodeEncodeError:
        raise ValueError("it holds half a character") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    return content


def _object(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"{next(name for name in names if names.count(name) > 1)!r} stands there twice"
        )
    return content


def _no_number(text):
    raise ValueError(f"{text} is no number")


def _float(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _int(text):
    if len(text) > 20 or not -LARGEST < int(text) < LARGEST:
        raise ValueError(f"{text[:20]} is too large a number")
    return int(text)
