"""The claims of docs/quantization.md about cache formats hold."""

from tests.reference.cache_formats import compute_errors, errors

NORMAL, LOUD, SHIFTED, VALUES = range(4)


def test_what_each_format_costs() -> None:
    found = {name: list(by_data.values()) for name, _, by_data in errors()}
    plain, turned = found["int8 per token"], found["int8 per token, rotated, K mean"]
    assert max(turned) <= 5e-4
    assert max(found["int8 per channel"]) <= 5e-4
    assert plain[NORMAL] <= 5e-4 < min(plain[LOUD], plain[SHIFTED])
    assert found["fp8 e4m3"][LOUD] < plain[LOUD] / 2
    assert all(a < b for a, b in zip(found["fp8 e4m3"], found["fp8 e5m2"], strict=True))
    assert max(found["int4"][NORMAL], found["int4"][SHIFTED], found["int4"][VALUES]) <= 2e-2
    assert found["int4"][LOUD] < found["int4, rotated, K mean"][LOUD]


def test_what_each_format_takes() -> None:
    bits = {name: count for name, count, _ in errors()}
    assert bits["int8 per channel"] == 8
    assert bits["int8 per token"] == bits["fp8 e4m3"] == bits["fp8 e5m2"] == 8.5
    assert bits["int4"] == 4.75


def test_what_attention_in_fp8_costs() -> None:
    found = {name: list(by_data.values()) for name, by_data in compute_errors()}
    assert max(found["int8, rotated"]) <= 6e-4
    for name in ("fp8 e4m3", "fp8 e5m2"):
        assert found[name][NORMAL] > 5 * found["int8"][NORMAL]
    assert found["fp8 e4m3"][LOUD] < found["int8"][LOUD]
