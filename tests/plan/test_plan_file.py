"""The plan file: what is written is read again, and every mistake is named."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfa_passes.core.formats import AttentionFormat, Rotation, ScaleMode
from qfa_passes.core.plan import PLAN_VERSION, Plan, SitePlan, StaticScales
from qfa_passes.errors import ConfigError, SaveError
from qfa_passes.plan.plan_file import read_plan, write_plan

VALID = """
schema_version = 1
model_digest = "abc"

[[site]]
name = "/layers.0/Softmax"
format = "int8"
scale_mode = "static"
rotate = "hadamard"
scales = { query = 0.5, key = [0.25, 0.125], value = 1 }

[[site]]
name = "/layers.1/Softmax"
format = "none"
"""


def plan_file(folder: Path, text: str = VALID) -> Path:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str, **options: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_plan(plan_file(folder, text), **options)
    return caught.value


def test_reads_what_a_person_writes(tmp_path: Path) -> None:
    plan = read_plan(plan_file(tmp_path))
    first, second = plan.sites
    assert plan.model_digest == "abc"
    assert first.scales == StaticScales((0.5,), (0.25, 0.125), (1.0,))
    assert (first.scale_mode, first.rotation) == (ScaleMode.STATIC, Rotation.HADAMARD)
    assert first.quantized
    assert second.format is AttentionFormat.NONE
    assert not second.quantized
    assert "plan file" in second.exempt
    assert plan.site("/layers.1/Softmax") is second


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
STEPS = st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=4).map(tuple)


@st.composite
def site_plans(draw: st.DrawFn) -> SitePlan:
    static = draw(st.booleans())
    exempt = draw(st.sampled_from(["", "by hand"]))
    return SitePlan(
        name=draw(NAMES),
        format=draw(st.sampled_from([AttentionFormat.INT8, AttentionFormat.FLOAT])),
        scale_mode=ScaleMode.STATIC if static else ScaleMode.DYNAMIC,
        rotation=draw(st.sampled_from(Rotation)),
        scales=StaticScales(draw(STEPS), draw(STEPS), draw(STEPS)) if static else None,
        exempt=exempt,
    )


@given(st.lists(site_plans(), max_size=4, unique_by=lambda site: site.name), NAMES)
def test_written_and_read_again(
    tmp_path_factory: pytest.TempPathFactory, sites: list[SitePlan], digest: str
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    plan = Plan(model_digest=digest, sites=tuple(sites))
    write_plan(plan, path)
    assert read_plan(path) == plan


def test_arrays_lie_beside_the_plan(tmp_path: Path) -> None:
    shift = np.arange(6, dtype=np.float32).reshape(2, 3)
    sites = (SitePlan("a", k_mean="file"), SitePlan("b"))
    path = tmp_path / "plan.toml"
    write_plan(Plan(sites=sites, tensors={"file": shift}), path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["plan.npz", "plan.toml"]
    plan = read_plan(path)
    assert np.array_equal(plan.k_mean(plan.sites[0]), shift)
    assert plan.k_mean(plan.sites[1]) is None
    first = (tmp_path / "plan.npz").read_bytes()
    write_plan(plan, path)
    assert (tmp_path / "plan.npz").read_bytes() == first


def test_old_plan_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plan_file(tmp_path)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SaveError, match="No space left"):
        write_plan(Plan(), path)
    assert path.read_text() == VALID
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.toml"]


@pytest.mark.parametrize(
    ("change", "wanted", "hint"),
    [
        (
            ("rotate =", "rotation ="),
            "unknown key site[0].rotation ('/layers.0/Softmax')",
            "'rotate'",
        ),
        (('"hadamard"', '"hadamrd"'), "site[0].rotate ('/layers.0/Softmax') = 'hadamrd'", ""),
        (('"int8"', "8"), "site[0].format ('/layers.0/Softmax') = 8", ""),
        (("query = 0.5", "query = 0"), "site[0].scales.query[0] ('/layers.0/Softmax') = 0", ""),
        (("query = 0.5", "query = nan"), "finite", ""),
        (("query = 0.5", "query = []"), "at least 1 item", ""),
        (("query = 0.5, ", ""), "scales.query ('/layers.0/Softmax') is missing", ""),
        (("query =", "qery = 1, query ="), "unknown key site[0].scales.qery", "'query'"),
        (('name = "/layers.0/Softmax"', ""), "site[0].name is missing", ""),
        (("model_digest", "modeldigest"), "unknown key modeldigest", "'model_digest'"),
        (('"abc"', "17"), "model_digest = 17", "string"),
        (("schema_version = 1", "schema_version = '1'"), "schema_version = '1'", "integer"),
        (("schema_version = 1", ""), "schema_version is missing", ""),
        (("schema_version = 1", "schema_version = true"), "schema_version = True", ""),
        (("[[site]]", "[site]"), "", ""),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, change: tuple[str, str], wanted: str, hint: str
) -> None:
    error = refused(tmp_path, VALID.replace(*change, 1))
    assert wanted in str(error)
    assert hint in str(error)
    assert "plan.toml" in error.what
    assert error.exit_code == 2


def test_not_toml_names_the_line(tmp_path: Path) -> None:
    assert "line 2" in str(refused(tmp_path, "a = 1\nb = = 2\n"))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plan(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\x00")
    with pytest.raises(ConfigError, match="not TOML"):
        read_plan(binary)


def test_plan_of_another_model(tmp_path: Path) -> None:
    error = refused(tmp_path, VALID, model_digest="0123456789abcdef")
    assert "another model" in error.what
    assert "abc" in error.why
    assert "0123456789ab" in error.why
    assert read_plan(plan_file(tmp_path), model_digest="abc").model_digest == "abc"


def test_a_plan_without_digest_fits_any_model(tmp_path: Path) -> None:
    text = VALID.replace('model_digest = "abc"', "")
    assert len(read_plan(plan_file(tmp_path, text), model_digest="xyz").sites) == 2


def test_unknown_site(tmp_path: Path) -> None:
    names = ["/layers.0/Softmax", "/layers.10/Softmax"]
    error = refused(tmp_path, VALID, site_names=names)
    assert "no attention site '/layers.1/Softmax'" in error.what
    assert "did you mean" in error.hint


def test_site_named_twice(tmp_path: Path) -> None:
    error = refused(tmp_path, VALID.replace("layers.1", "layers.0"))
    assert "more than once" in error.what


def test_newer_version(tmp_path: Path) -> None:
    newer = f"schema_version = {PLAN_VERSION + 1}"
    error = refused(tmp_path, VALID.replace("schema_version = 1", newer) + "\nnew_key = 1\n")
    assert f"schema_version {PLAN_VERSION + 1}" in error.what
    assert "newer qfa_passes" in error.hint


def test_static_without_scales(tmp_path: Path) -> None:
    text = 'schema_version = 1\n[[site]]\nname = "a"\nscale_mode = "static"\n'
    assert "no scales" in refused(tmp_path, text).what


K_MEAN = 'schema_version = 1\ntensors = "{}"\n[[site]]\nname = "a"\nk_mean = "m"\n'


@pytest.mark.parametrize("name", ["../plan.npz", "/etc/passwd", "a/b.npz", ""])
def test_arrays_elsewhere_are_not_read(tmp_path: Path, name: str) -> None:
    assert "plain file name" in refused(tmp_path, K_MEAN.format(name)).what


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    text = K_MEAN.format("m.npz")
    assert "cannot be read" in refused(tmp_path, text).what
    np.savez(tmp_path / "m.npz", other=np.zeros((1, 2), np.float32))
    assert "no array" in refused(tmp_path, text).what
    np.savez(tmp_path / "m.npz", m=np.zeros(2, np.float32))
    assert "float32 (2,)" in refused(tmp_path, text).what
    np.savez(tmp_path / "m.npz", m=np.full((1, 2), np.nan, np.float32))
    assert "finite" in refused(tmp_path, text).why
    np.savez(tmp_path / "m.npz", m=np.array([object()]))
    assert "cannot be read" in refused(tmp_path, text).what
    assert "'tensors'" in refused(tmp_path, text.replace('tensors = "m.npz"', "")).what


def test_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    text = 'schema_version = 1\n[[site]]\nname = "\\u001b[31m"\nbad = 1\n'
    assert "\x1b" not in str(refused(tmp_path, text))
