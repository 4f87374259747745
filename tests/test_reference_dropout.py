"""The dropout of the reference against an own Philox, and where it applies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fusedrnn import reference
from reference_problems import make


def philox4x64_10(counter, key):
    """Ten rounds of Philox4x64 in Python integers (Salmon et al. 2011, section 3.3, table 2)."""
    mask = 2**64 - 1
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & mask, (p0 >> 64) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return c0, c1, c2, c3


def test_own_philox():
    """The known answers that come with the authors' Random123 (tests/kat_vectors)."""
    assert philox4x64_10((0, 0, 0, 0), (0, 0)) == (
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    )
    ones = 2**64 - 1
    assert philox4x64_10((ones,) * 4, (ones,) * 2) == (
        0x87B092C3013FE90B,
        0x438C3C67BE8D0224,
        0x9CC7D7C69CD777B6,
        0xA09CAEBF594F0BA0,
    )


@pytest.mark.parametrize("key", [(0, 0), (5, 9), (2**64 - 1, 2**63 + 1)])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("p", [0.25, 1 / 3, 0.9])
def test_mask_element_by_element(key, layer, p):
    shape = (3, 5, 7)  # 105 elements: odd, and no multiple of 8
    want = np.zeros(math.prod(shape))
    for e in range(want.size):
        number = philox4x64_10((1 + e // 8, layer, 0, 0), key)[e % 8 // 2]
        word = number & 0xFFFFFFFF if e % 2 == 0 else number >> 32
        want[e] = 1 / (1 - p) if word >= round(p * 2**32) else 0
    np.testing.assert_array_equal(reference.dropout_mask(shape, p, key, layer), want.reshape(shape))


def test_fraction_kept():
    n = 10**6
    for p in (0.1, 0.5, 0.8):
        mask = reference.dropout_mask((n,), p, (1, 2), 0)
        # five standard deviations of a binomial
        assert abs((mask > 0).mean() - (1 - p)) <= 5 * math.sqrt(p * (1 - p) / n)
        assert set(np.unique(mask)) == {0.0, 1 / (1 - p)}


def test_none_and_all_dropped():
    assert (reference.dropout_mask((4, 5, 6), 0.0, (1, 2), 0) == 1).all()
    assert (reference.dropout_mask((4, 5, 6), 1.0, (1, 2), 0) == 0).all()
    p = make("lstm", layers=2, dropout=1.0)
    blind = p.with_array("x", p.x + 1)
    np.testing.assert_array_equal(p.forward()[0], blind.forward()[0])
    gradients = reference.backward(p.forward()[2], p.dy)
    assert not gradients.x.any() and not gradients.parameters["weight_ih_l1"].any()
    assert gradients.parameters["weight_hh_l1"].any()


def test_mask_depends_on_seed_call_and_layer_alone():
    def mask(key, layer):
        return reference.dropout_mask((4, 4, 8), 0.5, key, layer)

    np.testing.assert_array_equal(mask((1, 2), 0), mask((1, 2), 0))
    different = [mask((1, 2), 0), mask((2, 2), 0), mask((1, 3), 0), mask((1, 2), 1)]
    assert len({m.tobytes() for m in different}) == 4


def test_dropout_is_between_layers_in_time_major_order_and_in_training_only():
    p = make("gru", layers=3, bidirectional=True, dropout=0.5, dropout_key=(3, 4))
    first = replace(p, x=p.x.swapaxes(0, 1), options={**p.options, "batch_first": True})
    y, _, tape = p.forward()
    np.testing.assert_allclose(first.forward()[0].swapaxes(0, 1), y, rtol=1e-13)
    for k, mask in enumerate(tape.masks):
        want = reference.dropout_mask((3, 2, 6), 0.5 if k < 2 else 0.0, (3, 4), k)
        np.testing.assert_array_equal(mask, want)
    plain = replace(p, options={})
    inferred = reference.infer("gru", p.x, p.parameters, p.states[0])[0]
    np.testing.assert_array_equal(inferred, plain.forward()[0])
    assert not np.array_equal(inferred, y)
    single = make("gru", dropout=0.5)
    np.testing.assert_array_equal(single.forward()[0], replace(single, options={}).forward()[0])
