"""GroupNorm of video in channels_last_3d, each frame by itself; the formulas are in mochi/vae/norm.py.

All kernels are bound by memory: x is read once for its statistics and once to be normalised. Normalising writes it
once, activated and with its border. Lengths are no constants of a kernel: it is compiled once for each number of
channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096
"""Elements of a tile of pixels x channels. A program of four warps holds it in registers: four loads of 16 bytes for
each thread."""

PROGRAMS = 8192
"""So many programs fill a GPU many times over. With more to do, each program takes more tiles."""

CHUNKS = 512
"""Chunks of a frame at most. Their statistics are put together at the end."""


def frame_statistics(x: Tensor, groups: int) -> Tensor:
    x = _in_order(x)
    batch, channels, frames, height, width = x.shape
    pixels, (rows, columns) = height * width, _tile(channels)
    across, tiles = triton.cdiv(channels, columns), triton.cdiv(pixels, rows)
    steps = min(max(tiles * across * batch * frames // PROGRAMS, triton.cdiv(tiles, CHUNKS), 1), tiles)
    chunks = triton.cdiv(tiles, steps)
    accurate = torch.promote_types(x.dtype, torch.float32)
    parts = x.new_empty(2, batch * frames, chunks, channels, dtype=accurate)
    _chunk_statistics[chunks, batch * frames, across](
        x, parts, parts[1], pixels, frames, steps, x.stride(0), x.stride(2), channels, rows, columns
    )
    statistics = x.new_empty(2, batch, frames, groups, dtype=accurate)
    each = channels // groups
    _group_statistics[batch * frames, groups](
        parts, parts[1], statistics, statistics[1], pixels, chunks, steps * rows, channels, each,
        max(64, triton.next_power_of_2(chunks)), min(16, triton.next_power_of_2(each)),
    )  # fmt: skip
    return statistics


def pooled(parts: Tensor, shares: Tensor) -> Tensor:
    parts = parts.contiguous()
    whole = torch.empty_like(parts[0])
    values = whole.numel() // 2
    block = 256
    _pooled[triton.cdiv(values, block),](parts, shares, whole, values, len(parts), block)
    return whole


def normalise(
    x: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, eps: float, activate: bool, out: Tensor
) -> None:
    x = _in_order(x)
    batch, channels, frames, height, width = x.shape
    rows, columns = _tile(channels)
    grid = triton.cdiv(out.shape[3] * out.shape[4], rows), batch * frames, triton.cdiv(channels, columns)
    batch_stride, _, *strides = out.stride()
    _normalise[grid](
        x, statistics.contiguous(), weight, bias, out, eps, batch * frames, frames, height, width, *out.shape[3:],
        x.stride(0), x.stride(2), batch_stride, *strides, channels, statistics.shape[-1], activate, rows, columns,
    )  # fmt: skip


def _tile(channels: int) -> tuple[int, int]:
    """Pixels and channels of a tile, powers of two."""
    columns = min(triton.next_power_of_2(channels), 256)
    return ELEMENTS // columns, columns


def _in_order(x: Tensor) -> Tensor:
    """x with the values of each frame in order: channels, columns, rows."""
    last = torch.channels_last_3d
    return x if x[:1, :, :1].is_contiguous(memory_format=last) else x.contiguous(memory_format=last)


@triton.jit(do_not_specialize=["pixels", "frames", "steps"])
def _chunk_statistics(
    x, means, squares, pixels, frames, steps, batch_stride, frame_stride,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean of each channel, and sum of its squares about it, of a chunk of a frame: `steps` tiles of ROWS pixels.

    Each place of a tile has a mean and a sum of its own (Welford 1962), put together in the end (Chan, Golub, LeVeque
    1983): as exact as two passes, wherever the mean lies.
    """
    chunk, frame = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    row = chunk * steps * ROWS + tl.arange(0, ROWS)
    start = (frame // frames).to(tl.int64) * batch_stride + (frame % frames).to(tl.int64) * frame_stride
    place = x + start + row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    exact = means.dtype.element_ty
    mean = tl.zeros((ROWS, COLUMNS), exact)
    square = tl.zeros((ROWS, COLUMNS), exact)
    step = 0
    while step < steps:
        there = (row + step * ROWS < pixels)[:, None] & (channel < CHANNELS)[None, :]
        value = tl.load(place + step * (ROWS * CHANNELS), there, other=0).to(exact)
        apart = tl.where(there, value - mean, 0)
        step += 1
        mean += apart * (1 / tl.full((), step, exact))
        square += apart * (value - mean)
    left = pixels - chunk * steps * ROWS
    count = tl.minimum(tl.maximum((left - tl.arange(0, ROWS) + ROWS - 1) // ROWS, 0), steps).to(exact)[:, None]
    whole = tl.sum(mean * count, 0) / tl.minimum(left, steps * ROWS).to(exact)
    apart = mean - whole[None, :]
    out = (frame * tl.num_programs(0) + chunk).to(tl.int64) * CHANNELS + channel
    tl.store(means + out, whole, channel < CHANNELS)
    tl.store(squares + out, tl.sum(square + count * apart * apart, 0), channel < CHANNELS)


@triton.jit(do_not_specialize=["pixels", "chunks", "chunk_pixels"])
def _group_statistics(
    means, squares, out_mean, out_variance, pixels, chunks, chunk_pixels,
    CHANNELS: tl.constexpr, EACH: tl.constexpr, CHUNKS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean and variance of a frame and group of EACH channels from those of chunks, COLUMNS channels at a time."""
    frame, group = tl.program_id(0), tl.program_id(1)
    chunk, channel = tl.arange(0, CHUNKS), tl.arange(0, COLUMNS)
    exact = means.dtype.element_ty
    count = tl.maximum(tl.minimum(pixels - chunk * chunk_pixels, chunk_pixels), 0).to(exact)[:, None]
    place = (frame * chunks + chunk).to(tl.int64)[:, None] * CHANNELS + (group * EACH + channel)[None, :]
    mean = tl.full((), 0, exact)
    square = tl.full((), 0, exact)
    seen = tl.full((), 0, exact)
    for first in tl.static_range(0, EACH, COLUMNS):
        there = (chunk < chunks)[:, None] & (first + channel < EACH)[None, :]
        counts = tl.where(there, count, 0)
        more = tl.sum(tl.sum(counts, 1), 0)
        part = tl.load(means + place + first, there, other=0)
        part_mean = tl.sum(tl.sum(part * counts, 1), 0) / more
        apart = part - part_mean
        part_square = tl.load(squares + place + first, there, other=0) + counts * apart * apart
        step = part_mean - mean
        mean += step * (more / (seen + more))
        square += tl.sum(tl.sum(part_square, 1), 0) + step * step * (seen * (more / (seen + more)))
        seen += more
    out = frame * tl.num_programs(1) + group
    tl.store(out_mean + out, mean)
    tl.store(out_variance + out, square / seen)


@triton.jit(do_not_specialize=["values"])
def _pooled(parts, shares, whole, values, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and variance of BLOCK wholes from those of their parts."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = place < values
    mean = tl.zeros((BLOCK,), whole.dtype.element_ty)
    for part in tl.static_range(COUNT):
        mean += tl.load(shares + part) * tl.load(parts + 2 * part * values + place, there, other=0)
    variance = tl.zeros_like(mean)
    for part in tl.static_range(COUNT):
        apart = tl.load(parts + 2 * part * values + place, there, other=0) - mean
        theirs = tl.load(parts + (2 * part + 1) * values + place, there, other=0)
        variance += tl.load(shares + part) * (theirs + apart * apart)
    tl.store(whole + place, mean, there)
    tl.store(whole + values + place, variance, there)


@triton.jit(do_not_specialize=["all_frames", "frames", "height", "width", "out_height", "out_width"])
def _normalise(
    x, statistics, weight, bias, out, eps, all_frames, frames, height, width, out_height, out_width,
    batch_stride, frame_stride, out_batch, out_frame, out_row, out_column,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, ACTIVATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile of `out`, ROWS pixels of a frame. Pixels of the border take the pixel of x that is nearest to them."""
    frame = tl.program_id(1)
    sample, time = (frame // frames).to(tl.int64), (frame % frames).to(tl.int64)
    channel = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    mine = channel < CHANNELS
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row, column = pixel // out_width, pixel % out_width
    from_row = tl.minimum(tl.maximum(row - (out_height - height) // 2, 0), height - 1)
    from_column = tl.minimum(tl.maximum(column - (out_width - width) // 2, 0), width - 1)
    there = (pixel < out_height * out_width)[:, None] & mine[None, :]

    source = (from_row * width + from_column).to(tl.int64) * CHANNELS
    value = tl.load(x + sample * batch_stride + time * frame_stride + source[:, None] + channel[None, :], there)
    group = frame * GROUPS + channel // (CHANNELS // GROUPS)
    mean = tl.load(statistics + group, mine)
    variance = tl.load(statistics + all_frames * GROUPS + group, mine)
    scale = tl.load(weight + channel, mine).to(mean.dtype) / tl.sqrt(variance + eps)
    shift = tl.load(bias + channel, mine).to(mean.dtype)
    value = (value.to(mean.dtype) - mean[None, :]) * scale[None, :] + shift[None, :]
    if ACTIVATE:
        value = value * tl.sigmoid(value)

    target = row.to(tl.int64) * out_row + column.to(tl.int64) * out_column
    target = sample * out_batch + time * out_frame + target[:, None] + channel[None, :]
    tl.store(out + target, value, there)
