"""The claims of docs/quantization.md about the int8 recipe hold."""

from tests.reference.granularity import by_future_key, by_qk_recipe, by_shape, by_weight_scale


def test_the_operator_is_within_its_bound_at_every_shape() -> None:
    for label, errors in by_shape():
        assert max(errors) <= 5e-4, label


def test_block_local_weights_do_not_lose_the_tail() -> None:
    for label, (row_127, row_255, block_255) in by_weight_scale():
        assert block_255 < row_255 < row_127, label
        assert block_255 <= 5e-4, label


def test_scales_per_token_shift_and_rotation_each_help_where_they_should() -> None:
    rows = dict(by_qk_recipe())
    normal = rows["unit normal"]
    outliers = rows["two channels of K 30 times larger"]
    shifted = rows["two channels of K shifted by 30"]
    tensor, token, mean, rotated, both = range(5)
    for errors in rows.values():
        assert errors[token] < errors[tensor]
    assert normal[both] < 1.1 * normal[token]
    assert outliers[rotated] < outliers[token] / 4
    assert shifted[mean] < shifted[token] / 20
    assert shifted[both] < shifted[token] / 20


def test_a_later_key_does_not_change_the_error_of_earlier_rows() -> None:
    (_, (_, token)), (_, (tensor_grown, token_grown)) = by_future_key()
    assert token_grown == token
    assert tensor_grown > 100 * token_grown
