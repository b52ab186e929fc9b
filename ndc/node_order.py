"""Order in which elimination visits the nodes, and its default stages."""


def node_order(count: int, pairs: bool = False) -> list[int]:
    """0 .. count-1 in an order of which every beginning is spread over the whole range.

    The van der Corput sequence from the top (the last, the middle, the quarters, ...): the highest noise levels
    separate classes best. With ``pairs``, 2j and 2j+1 stay together and an odd last node comes last.
    """
    if pairs:
        return [node for j in node_order(count // 2) for node in (2 * j, 2 * j + 1)] + [count - 1] * (count % 2)
    bits = max(1, (count - 1).bit_length())
    points = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(count)]
    rank = {point: place for place, point in enumerate(sorted(points))}
    return [count - 1 - rank[point] for point in points]


def default_stages(count: int, nodes_per_step: int) -> list[int]:
    """4, 6, then four steps from each power of two to the next, times ``nodes_per_step``, below ``count``."""
    steps = [4, 6, *(n for k in range(3, count.bit_length()) for n in range(1 << k, 2 << k, 1 << (k - 2)))]
    return [nodes_per_step * n for n in steps if nodes_per_step * n < count]
