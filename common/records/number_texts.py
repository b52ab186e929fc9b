"""Check of the numbers in lines of records, many at once: each is a JSON number in the place of one."""

import numpy as np

_OTHER, _OPEN, _CLOSE, _ZERO, _DIGIT, _MINUS, _POINT = b"x ,01-."
_CLASS = bytes.maketrans(b"[]}\n23456789", b" ,,,11111111")
_LETTERS = bytes(byte if byte in b" ,01-.[]}\n23456789" else _OTHER for byte in range(256)).translate(_CLASS)
_AFTER = {
    _OTHER: (_OTHER, _OPEN, _CLOSE),
    _OPEN: (_OTHER, _OPEN, _ZERO, _DIGIT, _MINUS),
    _CLOSE: (_OTHER, _OPEN, _CLOSE),
    _ZERO: (_ZERO, _DIGIT, _POINT, _CLOSE),
    _DIGIT: (_ZERO, _DIGIT, _POINT, _CLOSE),
    _MINUS: (_ZERO, _DIGIT),
    _POINT: (_ZERO, _DIGIT),
}
_NUMBER = {one: place for place, one in enumerate(_AFTER)}
_CLASSES = _LETTERS.translate(bytes(_NUMBER.get(byte, 0) for byte in range(256)))
_PAIRS = {8 * _NUMBER[one] + _NUMBER[other] for one, others in _AFTER.items() for other in others}
_WRONG = bytes(pair not in _PAIRS for pair in range(256))
_LEADING_ZEROS = [bytes(_NUMBER[one] for one in text) for text in (b" 00", b" 01", b"-00", b"-01")]


def are_numbers(text: bytes) -> bool:
    """True if all digits, signs and points stand where the writer puts numbers, and none has a zero too many.

    A number follows a space or an opening bracket, and a comma, a closing bracket or a line feed follows it. False as
    well for a place that is empty. Two points or signs in one number are left to ``float``.
    """
    classes = text.translate(_CLASSES)
    codes = np.frombuffer(classes, np.uint8)
    pairs = (codes[:-1] << 3) + codes[1:]
    return 1 not in pairs.tobytes().translate(_WRONG) and not any(zeros in classes for zeros in _LEADING_ZEROS)
