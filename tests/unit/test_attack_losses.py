"""What attacks raise: the formulas of their losses, and the derivatives."""

import numpy as np
import pytest
from keras import ops

from keras_pde.attacks import losses
from keras_pde.autodiff import value_and_grad

Z = np.array([[2.0, 1.0, -1.0, 0.5], [0.1, 3.0, 0.2, 2.5], [-1.0, 4.0, 1.5, 1.0]], "float32")
LABELS = np.array([0, 3, 2], "int32")  # right, second, second but one


def test_losses_are_their_formulas():
    ce, margin, dlr = (
        ops.convert_to_numpy(losses.get(name)(ops.convert_to_tensor(Z), LABELS))
        for name in ("ce", "margin", "dlr")
    )
    z = Z.astype("float64")
    expected = np.log(np.exp(z).sum(axis=1)) - z[np.arange(3), LABELS]
    np.testing.assert_allclose(ce, expected, rtol=1e-6)
    np.testing.assert_allclose(margin, [-1.0, 0.5, 2.5], rtol=1e-6)
    np.testing.assert_allclose(dlr, [-1.0 / 1.5, 0.5 / 2.8, 2.5 / 3.0], rtol=1e-6)


def test_dlr_does_not_see_scale_and_shift():
    for scale, shift in ((10.0, 0.0), (0.01, 3.0), (1e4, -7.0)):
        z = ops.convert_to_tensor(scale * Z + shift)
        dlr = ops.convert_to_numpy(losses.dlr(z, LABELS))
        plain = ops.convert_to_numpy(losses.dlr(ops.convert_to_tensor(Z), LABELS))
        np.testing.assert_allclose(dlr, plain, rtol=1e-4)


def test_dlr_and_margin_of_two_classes_are_the_margin():
    z = ops.convert_to_tensor(Z[:, :2])
    y = np.array([0, 1, 0], "int32")
    np.testing.assert_allclose(ops.convert_to_numpy(losses.dlr(z, y)), [-1.0, -2.9, 5.0], rtol=1e-6)


def test_targeted_losses_have_the_other_sign():
    z = ops.convert_to_tensor(Z)
    for name in losses.names():
        loss, other = losses.get(name), (LABELS + 1) % 4
        plain, towards = loss(z, LABELS), loss(z, other, LABELS)
        np.testing.assert_array_equal(
            ops.convert_to_numpy(towards), -ops.convert_to_numpy(plain), err_msg=name
        )


@pytest.mark.parametrize("name", losses.names())
def test_gradients_of_losses_against_finite_differences(name):
    """Misclassified rows too, where libraries have got DLR wrong."""
    loss = losses.get(name)
    gradient = value_and_grad(lambda z: ops.sum(loss(z, LABELS)), ops.convert_to_tensor(Z))[1]
    step, numeric = 2.0**-7, np.zeros(Z.shape)
    for index in np.ndindex(*Z.shape):
        up, down = Z.copy(), Z.copy()
        up[index] += step
        down[index] -= step
        values = [ops.convert_to_numpy(loss(ops.convert_to_tensor(z), LABELS)) for z in (up, down)]
        numeric[index] = (values[0].astype("float64").sum() - values[1].sum()) / (2 * step)
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), numeric, atol=2e-4)


def test_unknown_loss_names_the_nearest():
    with pytest.raises(ValueError, match=r"'margn'.*Did you mean 'margin'"):
        losses.get("margn")
