"""``--part K/N``: one of N shares of the work, for the jobs of an array."""


def parse_part(text: str) -> tuple[int, int]:
    """The part and the number of parts: ``"2/8"`` -> (2, 8). Raises ``ValueError`` unless 1 <= K <= N."""
    words = text.split("/")
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not 1 <= int(words[0]) <= int(words[1]):
        raise ValueError(f"--part must be K/N with 1 <= K <= N, such as 2/8; got {text}")
    return int(words[0]), int(words[1])
