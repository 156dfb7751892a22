"""Counter-based noise: known answers, independence of the batch, and the distributions."""

import keras
import numpy as np
import pytest
import scipy.stats
from keras import ops

from keras_pde import noise


def numpy(x):
    return ops.convert_to_numpy(x)


def draw(fn, keys, shape):
    """`fn(keys, shape)` compiled, since JAX compiles each of the 100 operations otherwise."""
    if keras.backend.backend() == "jax":
        import jax

        return numpy(jax.jit(lambda k: fn(k, shape))(keys))
    return numpy(fn(keys, shape))


def keys(seed=3, stream=0, examples=range(4)):
    return noise.keys(seed, stream, np.array(list(examples), "int32"))


@pytest.fixture(scope="module")
def sample():
    """100,000 numbers: 200 examples with 500 each."""
    return draw(noise.uniform, keys(examples=range(200)), (500,))


# Random123, examples/kat_vectors: threefry2x32 20, counter, key, result.
@pytest.mark.parametrize(
    ("key", "counter", "result"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(key, counter, result):
    words = noise.threefry([noise.word(k) for k in key], [noise.word(c) for c in counter])
    assert tuple(int(w) & 0xFFFFFFFF for w in words) == result


@pytest.mark.parametrize("fn", [noise.uniform, noise.normal])
def test_an_example_does_not_depend_on_the_batch(fn):
    whole = draw(fn, keys(examples=range(6)), (3, 5))
    parts = [draw(fn, keys(examples=part), (3, 5)) for part in ([4, 1], [5, 0, 3], [2])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[[4, 1, 5, 0, 3, 2]])


def reference(key, counter):
    """Threefry-2x32-20 in Python integers, from the paper."""
    schedule = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
    x, y = ((c + k) % 2**32 for c, k in zip(counter, key, strict=True))
    for round_ in range(20):
        count = (13, 15, 26, 6, 17, 29, 16, 24)[round_ % 8]
        x = (x + y) % 2**32
        y = ((y << count | y >> 32 - count) % 2**32) ^ x
        if round_ % 4 == 3:
            block = round_ // 4 + 1
            x = (x + schedule[block % 3]) % 2**32
            y = (y + schedule[(block + 1) % 3] + block) % 2**32
    return x, y


@pytest.mark.parametrize(
    ("seed", "stream", "example"), [(3, 0, 7), (-5, 2**31 - 1, 0), (2**40, 9, 1)]
)
def test_numbers_are_what_the_docstring_says_on_every_backend(seed, stream, example):
    key = reference((seed % 2**32, (seed >> 32) % 2**32), (example, stream))
    words = [reference(key, (i, 0)) for i in range(3)]
    bits = [w[0] >> 9 for w in words] + [w[1] >> 9 for w in words]
    expected = (np.array(bits[:5]) + 0.5) / 2**23
    drawn = draw(noise.uniform, keys(seed, stream, [example]), (5,))
    np.testing.assert_array_equal(drawn[0], expected.astype("float32"))


def test_seeds_streams_and_examples_differ():
    cases = [(3, 0), (4, 0), (3, 1), (3 + 2**32, 0), (-1, 0), (2**31, 0), (3, -1)]
    draws = np.concatenate([draw(noise.uniform, keys(*case), (2,)) for case in cases])
    assert len(np.unique(draws)) == draws.size


def test_the_seed_counts_up_to_64_bits_and_wraps():
    np.testing.assert_array_equal(numpy(keys(3)), numpy(keys(3 + 2**64)))


def test_stream_may_be_a_tensor():
    np.testing.assert_array_equal(
        numpy(keys(stream=ops.convert_to_tensor(9, "int32"))), numpy(keys(stream=9))
    )


def test_uniform(sample):
    assert sample.dtype == "float32"
    assert sample.min() > 0 and sample.max() < 1
    assert scipy.stats.kstest(sample.ravel(), "uniform").pvalue > 0.01
    # Neighbours, in an example and between examples, are not correlated.
    for other in (np.roll(sample, 1, axis=1), np.roll(sample, 1, axis=0), sample[:, ::-1]):
        assert abs(np.corrcoef(sample.ravel(), other.ravel())[0, 1]) < 0.015


def test_uniform_end_points_are_never_reached(monkeypatch):
    for word, expected in ((0, 2.0**-24), (-1, 1 - 2.0**-24)):
        monkeypatch.setattr(
            noise, "threefry", lambda key, counter, w=word: [counter[0] * 0 + w] * 2
        )
        np.testing.assert_array_equal(numpy(noise.uniform(keys(), (2,))), np.float32(expected))
        assert np.isfinite(numpy(noise.normal(keys(), (2,)))).all()


def test_normal():
    x = draw(noise.normal, keys(examples=range(200)), (500,))
    assert np.isfinite(x).all()
    assert scipy.stats.kstest(x.ravel(), "norm").pvalue > 0.01


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 1, 5)])
def test_shapes(shape):
    x = draw(noise.uniform, keys(), shape)
    assert x.shape == (4, *shape)
    assert len(np.unique(x)) == x.size


def test_float64():
    x = noise.uniform(keys(), (5,), "float64") if keras.backend.backend() != "jax" else None
    if x is not None:
        np.testing.assert_array_equal(numpy(x), draw(noise.uniform, keys(), (5,)).astype("float64"))
