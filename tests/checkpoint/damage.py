"""What may happen to a weight file. Each function changes its bytes; the first `header` say what the rest is."""

import json
import random
import struct

PICKLE, LFS = b"PK\x03\x04", b"version https://git-lfs"


def flip_in_header(content: bytearray, header: int, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.randrange(header)] ^= 1 << rng.randrange(8)


def flip_in_data(content: bytearray, header: int, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 8, 64))):
        content[rng.randrange(header, len(content))] ^= 1 << rng.randrange(8)


def random_bytes_in_header(content: bytearray, header: int, rng: random.Random) -> None:
    at = rng.randrange(header)
    content[at : at + 8] = rng.randbytes(min(8, len(content) - at))


def cut(content: bytearray, header: int, rng: random.Random) -> None:
    del content[rng.randrange(rng.choice((header, len(content)))) :]


def insert(content: bytearray, header: int, rng: random.Random) -> None:
    at = rng.randrange(rng.choice((header, len(content))))
    content[at:at] = rng.randbytes(rng.choice((1, 8, 1000)))


def remove(content: bytearray, header: int, rng: random.Random) -> None:
    at = rng.randrange(rng.choice((header, len(content))))
    del content[at : at + rng.choice((1, 8, 1000))]


def another_length(content: bytearray, header: int, rng: random.Random) -> None:
    """In a safetensors file the header's length; in GGUF the version, or how many tensors or fields there are."""
    at, form = rng.choice(((4, "<I"), (8, "<Q"), (16, "<Q"))) if content[:4] == b"GGUF" else (0, "<Q")
    (was,) = struct.unpack_from(form, content, at)
    most = (1 << 8 * struct.calcsize(form)) - 1
    struct.pack_into(
        form, content, at, rng.choice((0, 1, was - 1, was + 1, 2 * was, 1 << 20, 1 << 31, most, most // 2))
    )


def another_number(content: bytearray, header: int, rng: random.Random) -> None:
    """Eight or four bytes of the header as a count: of GGUF, sizes, types, offsets and lengths are such."""
    form = rng.choice(("<I", "<Q"))
    at = rng.randrange(header - 8)
    most = (1 << 8 * struct.calcsize(form)) - 1
    struct.pack_into(
        form, content, at, rng.choice((0, 1, 7, 9, 12, 30, 32, 1 << 16, 1 << 28, most, most // 2, most - 31))
    )


def another_field(content: bytearray, header: int, rng: random.Random) -> None:
    """Of a safetensors header: another dtype, shape, place, name or metadata, of which some are still valid."""
    if content[:4] == b"GGUF":
        return another_number(content, header, rng)
    table = json.loads(content[8:header])
    name = rng.choice([key for key in table if key != "__metadata__"])
    entry = table[name]
    a, b = entry["data_offsets"]
    shape, change = entry["shape"], rng.randrange(8)
    if change == 0:
        entry["dtype"] = rng.choice(
            ("F64", "F16", "BF16", "I8", "U8", "F8_E4M3", "F8_E5M2", "BOOL", "I64", "U16", "F4", "?")
        )
    elif change == 1:
        entry["shape"] = rng.choice(
            (shape[::-1], [1, *shape], [0, *shape], [], [1 << 40], shape[:-1], [-1], [0, 1 << 62])
        )
    elif change == 2:
        entry["data_offsets"] = rng.choice(([a, b + 1], [a + 1, b], [b, a], [0, b], [a, 1 << 62], [a], [], [-1, b]))
    elif change == 3:
        table[rng.choice((name + ".x", "scaled_fp8", name.replace("weight", "Q4_0_qweight")))] = table.pop(name)
    elif change == 4:
        del table[name]
    elif change == 5:
        texts = (
            "{}",
            "null",
            "[1]",
            "{",
            '{"layers": {"a": 1}}',
            '{"layers": {"t5_yproj": {"format": "float8_e4m3fn"}}}',
        )
        keys = ("config", "_quantization_metadata", "format")
        table["__metadata__"] = {rng.choice(keys): rng.choice((*texts, '{"depth": 1e9}', '{"caption_heads": 0}'))}
    elif change == 6:
        other = rng.choice([key for key in table if key not in (name, "__metadata__")])
        table[name], table[other] = table[other], table[name]
    else:
        del entry[rng.choice(("dtype", "shape", "data_offsets"))]
    text = json.dumps(table).encode()
    content[:header] = struct.pack("<Q", len(text)) + text
    return None


def another_file(content: bytearray, header: int, rng: random.Random) -> None:
    """Nothing, noise, zeros, or the start of another format."""
    size = rng.choice((0, 1, 7, 8, 9, 100, 1 << 16))
    start = rng.choice((b"", PICKLE, b"\x80\x02", LFS, b"GGUF", b"GGUF\x03\0\0\0", bytes(100)))
    content[:] = (start + rng.choice((rng.randbytes, bytes))(size))[: max(size, len(start))]


MUTATIONS = (
    flip_in_header,
    flip_in_data,
    random_bytes_in_header,
    cut,
    insert,
    remove,
    another_length,
    another_number,
    another_field,
    another_field,
    another_file,
)


def header_size(content: bytes) -> int:
    if content[:4] != b"GGUF":
        return 8 + struct.unpack_from("<Q", content)[0]
    return max(content.rindex(b".weight"), content.rfind(b".bias")) + 40  # with the last tensor's size and place


def damaged(content: bytes, seed: int) -> tuple[str, bytes]:
    """The name of what happened to a file, and its bytes then; each seed gives another, the same each time."""
    rng = random.Random(seed)
    mutation, changed = MUTATIONS[seed % len(MUTATIONS)], bytearray(content)
    mutation(changed, header_size(content), rng)
    return mutation.__name__, bytes(changed)
