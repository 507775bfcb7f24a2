"""What stands between a decoder's products, in one pass over the numbers each; numba compiles it for the CPU at hand.

torch's own operations for the same go over memory four to ten times, and its exponential takes most of what is left.
What a stream gets depends on its own rows alone: sums run along a row, and so does every loop whose last turns may be
computed in another way than the others. Between processors with vectors of other widths bits may differ.

Shapes: M streams stepped together, S slots, T new steps, P steps before them that a slot keeps, C channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from csm_model.kernels.machine import compiled_by_numba

Loop = Callable[..., None]
Array = npt.NDArray[np.float32]


class Loops(NamedTuple):
    """Compiled; all arrays are contiguous float32, but for `slots` `[M]`, int64."""

    window: Loop
    """`(x [M, T * C], past [S, P * C], slots, out [M, (P + T) * C], elu)`: the kept steps and then the new ones, or
    their ELUs, to `out`; the last P of them to `past`."""
    elu: Loop
    """`(x [N])`: ELU in place."""
    taps: Loop
    """`(window [M, P + T, C], taps [P + 1, C], bias, gain, shift [C], out [M, T, C])`: a depth-wise convolution, taps
    oldest first, and LayerNorm with the epsilon 1e-5."""
    dot: Loop
    """`(window [M, (P + T) * C], C, weight [(P + 1) * C], bias [1], out [M, T])`: a convolution to one channel."""
    exponential: Loop
    """`(x [R, N])`: e to the power of each, of -87 to 88, in place."""
    turn: Loop
    """`(asked [M, 2, 3, H, D], angles [M, 2, D / 2, 2])`: rotates the adjacent pairs of queries and keys, the first two
    of the three, by angles of which the cosine and the sine are given, in place."""
    shape: Loop
    """`(spectra [M, 2, L, 2 * bins], pulses [M, L, 2 * bins], noise [M, L, bins], out [M, L, 2 * bins])`: the
    first spectrum times e to log gains and at phases, plus the second times e to log gains. Spectra and out are complex
    numbers, real and imaginary parts in turn."""
    pulses: Loop
    """`(cycles [N] of float64, hertz [N], half the sampling rate, out [N])`: harmonics up to half the sampling rate, in
    phase, of unit power."""
    attend: Loop
    """`(queries [M, 2, H, D], ring [S, 2, H, rows, D], slots, newest [M] of int64, context, out [M, 2, H, D])`:
    attention of two new rows over the last `context` of their slot up to themselves. The ring has keys and values, also
    the new ones; position p is its row `p % rows`, and `newest` the position of the second new row."""


@functools.cache
def loops() -> Loops:
    """Compiles them, in some seconds; `MissingDependencyError` without numba."""
    numba = compiled_by_numba()
    from llvmlite import ir
    from numba.extending import intrinsic

    @intrinsic
    def _bits(context: Any, value: Any) -> Any:
        return numba.types.int32(numba.types.float32), lambda _, builder, __, args: builder.bitcast(
            args[0], ir.IntType(32)
        )

    @intrinsic
    def _float(context: Any, value: Any) -> Any:
        return numba.types.float32(numba.types.int32), lambda _, builder, __, args: builder.bitcast(
            args[0], ir.FloatType()
        )

    bits: Any = _bits
    to_float: Any = _float
    one, zero = np.float32(1), np.float32(0)
    low, per_octave = np.float32(-87), np.float32(1 / math.log(2))
    # What is added to it is rounded to the nearest integer, which stands in the low bits of the sum.
    magic = np.float32(1.5 * 2**23)
    coarse, fine = np.float32(0.693359375), np.float32(-2.12194440e-4)  # of log 2
    # exp(r) = 1 + r + r^2 p(r), |r| < log(2) / 2 (Cephes, expf.c)
    p0, p1, p2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
    p3, p4, p5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
    shift, exponent = np.int32(23), np.int32(0x3F800000)
    # Sums may not be put in another order: the rounding by `magic` would go.
    exact: Any = {"contract", "nsz", "nnan", "ninf"}

    @numba.njit(fastmath=exact, inline="always")
    def elu_of(x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        z = min(max(x, low), zero)
        rounded = z * per_octave + magic
        n = rounded - magic
        r = z - n * coarse - n * fine
        p = ((((p0 * r + p1) * r + p2) * r + p3) * r + p4) * r + p5
        scale = to_float(np.int32((bits(rounded) << shift) + exponent))
        below = (scale - one) + scale * (p * (r * r) + r)
        return x if x > zero else below

    @numba.njit(fastmath=exact, nogil=True, boundscheck=False, error_model="numpy")
    def window(x, past, slots, out, elu):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        before, new = past.shape[1], x.shape[1]
        for m in range(x.shape[0]):
            row, kept, made = x[m], past[slots[m]], out[m]
            for i in range(before):
                made[i] = kept[i]
            fresh = made[before:]
            if elu:
                for i in range(new):
                    fresh[i] = elu_of(row[i])
            else:
                for i in range(new):
                    fresh[i] = row[i]
            last = made[new:]
            for i in range(before):
                kept[i] = last[i]

    @numba.njit(fastmath=exact, nogil=True, boundscheck=False, error_model="numpy")
    def elu(x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        for i in range(x.shape[0]):
            x[i] = elu_of(x[i])

    @numba.njit(fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
    def taps(window, taps, bias, gain, move, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        kernel, channels = taps.shape
        for m in range(out.shape[0]):
            for t in range(out.shape[1]):
                row = out[m, t]
                row[:] = bias
                for k in range(kernel):
                    heard, tap = window[m, t + k], taps[k]
                    for c in range(channels):
                        row[c] += heard[c] * tap[c]
                total = np.float32(0)
                for c in range(channels):
                    total += row[c]
                mean = total / np.float32(channels)
                spread = np.float32(0)
                for c in range(channels):
                    spread += (row[c] - mean) * (row[c] - mean)
                factor = one / np.sqrt(spread / np.float32(channels) + np.float32(1e-5))
                for c in range(channels):
                    row[c] = (row[c] - mean) * factor * gain[c] + move[c]

    @numba.njit(fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
    def dot(window, channels, weight, bias, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        width = weight.shape[0]
        for m in range(out.shape[0]):
            for t in range(out.shape[1]):
                heard = window[m, t * channels : t * channels + width]
                total = np.float32(0)
                for i in range(width):
                    total += heard[i] * weight[i]
                out[m, t] = total + bias[0]

    # sin(r) for |r| < pi / 2, by its series; pi in three parts, the first two with few bits (Cephes, sinf.c).
    s1, s2, s3 = np.float32(-1 / 6), np.float32(1 / 120), np.float32(-1 / 5040)
    s4, s5 = np.float32(1 / 362880), np.float32(-1 / 39916800)
    pi1, pi2, pi3 = np.float32(3.140625), np.float32(9.67502593994140625e-4), np.float32(1.509957990978376e-7)
    per_pi, sign = np.float32(1 / math.pi), np.int32(31)
    half_turn, small = np.float32(math.pi), np.float32(1e-4)
    half, two = np.float32(0.5), np.float32(2)

    @numba.njit(fastmath=exact, inline="always")
    def sine(x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        rounded = x * per_pi + magic
        n = rounded - magic
        r = ((x - n * pi1) - n * pi2) - n * pi3
        q = r * r
        value = r + r * q * ((((s5 * q + s4) * q + s3) * q + s2) * q + s1)
        return to_float(np.int32(bits(value) ^ (bits(rounded) << sign)))

    @numba.njit(fastmath=exact, nogil=True, boundscheck=False, error_model="numpy")
    def pulses(cycles, hertz, top, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        for i in range(out.shape[0]):
            angle = np.float32(cycles[i] - np.rint(cycles[i])) * half_turn  # half the phase, the pulse at 0
            count = np.floor(np.float32(top / hertz[i]))
            below = sine(angle)
            near = abs(below) < small
            kernel = sine((two * count + one) * angle) / (one if near else two * below)
            out[i] = ((count + half if near else kernel) - half) * np.sqrt(two / count)

    top_power, q1, q2, q3 = np.float32(88), np.float32(-1 / 2), np.float32(1 / 24), np.float32(-1 / 720)
    q4, q5, q6 = np.float32(1 / 40320), np.float32(-1 / 3628800), np.float32(1 / 479001600)

    @numba.njit(fastmath=exact, inline="always")
    def exp_of(x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        z = min(max(x, low), top_power)
        rounded = z * per_octave + magic
        n = rounded - magic
        r = z - n * coarse - n * fine
        p = ((((p0 * r + p1) * r + p2) * r + p3) * r + p4) * r + p5
        return to_float(np.int32((bits(rounded) << shift) + exponent)) * (p * (r * r) + r + one)

    @numba.njit(fastmath=exact, inline="always")
    def cosine(x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        rounded = x * per_pi + magic
        n = rounded - magic
        r = ((x - n * pi1) - n * pi2) - n * pi3
        q = r * r
        value = one + q * (((((q6 * q + q5) * q + q4) * q + q3) * q + q2) * q + q1)
        return to_float(np.int32(bits(value) ^ (bits(rounded) << sign)))

    @numba.njit(fastmath=exact, nogil=True, boundscheck=False, error_model="numpy")
    def exponential(x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        for row in x:
            for i in range(row.shape[0]):
                row[i] = exp_of(row[i])

    @numba.njit(fastmath=exact, nogil=True, boundscheck=False, error_model="numpy")
    def turn(asked, angles):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        for m in range(asked.shape[0]):
            for row in range(2):
                for part in range(2):
                    for h in range(asked.shape[3]):
                        pairs, by = asked[m, row, part, h], angles[m, row]
                        for d in range(by.shape[0]):
                            a, b = pairs[2 * d], pairs[2 * d + 1]
                            pairs[2 * d] = a * by[d, 0] - b * by[d, 1]
                            pairs[2 * d + 1] = a * by[d, 1] + b * by[d, 0]

    @numba.njit(fastmath=exact, nogil=True, boundscheck=False, error_model="numpy")
    def shape(spectra, pulses, noise, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        bins = noise.shape[2]
        for m in range(out.shape[0]):
            for step in range(out.shape[1]):
                voice, breath, made = spectra[m, 0, step], spectra[m, 1, step], out[m, step]
                gains, phases, others = pulses[m, step, :bins], pulses[m, step, bins:], noise[m, step]
                for i in range(bins):
                    gain, other = exp_of(gains[i]), exp_of(others[i])
                    c, s = gain * cosine(phases[i]), gain * sine(phases[i])
                    a, b = voice[2 * i], voice[2 * i + 1]
                    made[2 * i] = a * c - b * s + other * breath[2 * i]
                    made[2 * i + 1] = a * s + b * c + other * breath[2 * i + 1]

    hidden = np.float32(-1e30)

    @numba.njit(fastmath=exact, nogil=True, boundscheck=False, error_model="numpy")
    def exponentials(x, most):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        for i in range(x.shape[0]):
            x[i] = elu_of(x[i] - most) + one

    @numba.njit(fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
    def weights_of(scores):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        most = scores[0]
        for i in range(scores.shape[0]):
            most = max(most, scores[i])
        exponentials(scores, most)
        total = np.float32(0)
        for i in range(scores.shape[0]):
            total += scores[i]
        share = one / total
        for i in range(scores.shape[0]):
            scores[i] *= share

    @numba.njit(fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
    def attend(queries, ring, slots, newest, context, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        rows, width = ring.shape[3], ring.shape[4]
        scale = one / np.sqrt(np.float32(width))
        scores = np.empty((2, rows), np.float32)
        for m in range(queries.shape[0]):
            last = newest[m]
            held = min(rows, last + 1)
            first_scores, second_scores = scores[0, :held], scores[1, :held]
            for h in range(queries.shape[2]):
                keys, values = ring[slots[m], 0, h], ring[slots[m], 1, h]
                first, second = queries[m, 0, h], queries[m, 1, h]
                for j in range(held):
                    key = keys[j]
                    one_sum = other_sum = np.float32(0)
                    for d in range(width):
                        one_sum += first[d] * key[d]
                        other_sum += second[d] * key[d]
                    first_scores[j] = one_sum * scale
                    second_scores[j] = other_sum * scale
                first_scores[last % rows] = hidden
                for p in range(max(0, last + 1 - rows), last - context + 1):
                    second_scores[p % rows] = hidden
                    if p < last - context:
                        first_scores[p % rows] = hidden
                weights_of(first_scores)
                weights_of(second_scores)
                heard, other = out[m, 0, h], out[m, 1, h]
                heard[:] = 0
                other[:] = 0
                for j in range(held):
                    value, a, b = values[j], first_scores[j], second_scores[j]
                    for d in range(width):
                        heard[d] += a * value[d]
                        other[d] += b * value[d]

    return Loops(
        window=window,
        elu=elu,
        taps=taps,
        dot=dot,
        exponential=exponential,
        turn=turn,
        shape=shape,
        pulses=pulses,
        attend=attend,
    )
