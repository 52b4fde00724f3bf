"""Seeded damage to bytes: the same seed always gives the same mutations, so that a failure can be repeated by its index."""

import random
import re
from collections.abc import Callable, Iterator, Sequence

MAX_BYTES = 1 << 20  # A mutation never grows its input past this, so that slowness is the reader's and not ours

INTERESTING_BYTES = b"\x00\x01\x09\x0a\x0d\x1b\x20\x22\x27\x2c\x2d\x2e\x3a\x5b\x5c\x5d\x7b\x7d\x7f\x80\xc0\xfe\xff"
INTERESTING_NUMBERS = (
    *(b"0", b"-1", b"-0", b"1", b"1.5", b"127", b"255", b"2147483648", b"9223372036854775807", b"9223372036854775808"),
    *(
        b"18446744073709551616",
        b"-99999999999999999999",
        b"9" * 400,
        b"1e309",
        b"-1e309",
        b"1e-400",
        b"0x7f",
        b"1_000",
        b"007",
    ),
    *(
        b"NaN",
        b"-Infinity",
        b"Infinity",
        b".nan",
        b".inf",
        b"-.inf",
        b"nan",
        b"true",
        b"null",
        b'""',
        b"[]",
        b"{}",
        b'"text"',
    ),
)
INTERESTING_WORDS = tuple(
    value.to_bytes(size, order, signed=False)
    for size in (2, 4, 8)
    for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
    for order in ("little", "big")
)
BAD_TEXT = (
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x80\xae",
        b"\\ud800",
    ),
    *(
        b"\x1b[31m",
        b"\r",
        b"\x85",
        b"\xe2\x80\xa8",
        b"\\u0000",
        b"../../",
        b"/dev/null",
        b"%s",
        b"'",
        b'"',
        b"\\",
        b"#",
        b"&a *a",
    ),
    *(
        b"!!python/object:os.system ",
        b"<<: ",
        b"---\n",
        b"\t",
        b"? ",
        b"| ",
        b"=1+1",
        b"{{x}}",
        b"[bold]",
        b"\n\n",
        b",,,,",
    ),
)
BRACKETS = ((b"[", b"]"), (b"{", b"}"), (b"(", b")"), (b'{"a":', b"}"), (b"- ", b""), (b"&x [*x, ", b"]"))
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
STRING = re.compile(rb'"[^"\n]{0,200}"')
VALUE = re.compile(rb':\s*("[^"\n]{0,200}"|-?[\d.]+|true|false|null|[A-Za-z_][\w./-]*)')


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Return a span of data: mostly short, now and then long."""
    start = rng.randrange(len(data) + 1)
    length = rng.choice((1, 2, 4, 8, 16, 64, 256, max(1, len(data) // 4)))
    return start, min(len(data), start + length)


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    if rng.random() < 0.5:
        new = bytes([rng.choice(INTERESTING_BYTES)])
    else:
        new = rng.choice(INTERESTING_WORDS)
    return (data[:start] + new + data[start + len(new) :])[: len(data)]


def _overwrite_head(data: bytes, rng: random.Random) -> bytes:
    """Overwrite within the first 64 bytes, where binary formats keep lengths and magic numbers."""
    start = rng.randrange(min(64, len(data)))
    new = rng.choice(INTERESTING_WORDS)
    return (data[:start] + new + data[start + len(new) :])[: len(data)]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    pick = rng.random()
    if pick < 0.4:
        new = rng.choice(BAD_TEXT)
    elif pick < 0.7:
        new = rng.choice(INTERESTING_NUMBERS)
    else:
        new = rng.randbytes(rng.choice((1, 2, 8, 64, 1024)))
    return data[:start] + new + data[start:]


def _duplicate(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 16, 100)) + data[end:]


def _move(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    rest = data[:start] + data[end:]
    place = rng.randrange(len(rest) + 1)
    return rest[:place] + data[start:end] + rest[place:]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((0, 1, 8, rng.randrange(len(data)), max(0, len(data) - rng.randrange(16))))]


def _extend(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\x00" * 64, b"\n", rng.randbytes(16), data, b"\x1a", b"}"))


def _nest(data: bytes, rng: random.Random) -> bytes:
    """Put deep nesting of brackets somewhere, or round everything."""
    opening, closing = rng.choice(BRACKETS)
    depth = rng.choice((2, 50, 1_200, 20_000))
    start, end = _span(data, rng) if rng.random() < 0.7 else (0, len(data))
    return data[:start] + opening * depth + data[start:end] + closing * depth + data[end:]


def _replace_match(
    pattern: re.Pattern[bytes], group: int, choices: Sequence[bytes]
) -> Callable[[bytes, random.Random], bytes]:
    def replace(data: bytes, rng: random.Random) -> bytes:
        matches = list(pattern.finditer(data[:200_000]))
        if not matches:
            return _insert(data, rng)
        start, end = rng.choice(matches).span(group)
        return data[:start] + rng.choice(choices) + data[end:]

    return replace


def _drop_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def _swap_strings(data: bytes, rng: random.Random) -> bytes:
    """Put one quoted string of the data in another's place: a key that comes twice, a value of a wrong kind."""
    matches = list(STRING.finditer(data[:200_000]))
    if len(matches) < 2:
        return _move(data, rng)
    one, other = rng.sample(matches, 2)
    return data[: one.start()] + other.group() + data[one.end() :]


BLIND = (_flip_bits, _flip_bits, _overwrite, _overwrite_head, _delete, _insert, _duplicate, _move, _truncate, _extend)
AWARE = (
    _replace_match(NUMBER, 0, INTERESTING_NUMBERS),
    _replace_match(NUMBER, 0, INTERESTING_NUMBERS),
    _replace_match(VALUE, 1, INTERESTING_NUMBERS),
    _replace_match(VALUE, 1, INTERESTING_NUMBERS + tuple(b'"' + text + b'"' for text in BAD_TEXT)),
    _replace_match(STRING, 0, INTERESTING_NUMBERS + BAD_TEXT),
    _nest,
    _drop_line,
    _swap_strings,
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return data after one to four random kinds of damage, no longer than the input or MAX_BYTES, whichever is longer."""
    limit = max(len(data), MAX_BYTES)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        if not data:
            return rng.choice((b"", b"\x00", b"{}", b"[]", b"\n", b"\xff\xfe"))
        data = rng.choice(AWARE if rng.random() < 0.5 else BLIND)(data, rng)[:limit]
    return data


def mutations(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield count mutations of the seeds, in turn; number i depends on the seeds, the seed and i alone."""
    for index in range(count):
        yield mutate(seeds[index % len(seeds)], random.Random(f"{seed}/{index}"))
