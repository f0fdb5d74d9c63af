"""The plan as a TOML file that a person can edit.

    schema_version = 1
    model_digest = "9f2c..."        # the model it was made for
    linear = "none"

    [[site]]
    name = "/model/layers.0/self_attn/Softmax"
    format = "int8"                 # or "float" (fused, not quantized), or "none"
    scale_mode = "dynamic"          # or "static", then with scales
    rotate = "hadamard"             # or "none"
    note = "why it is so"           # for people; not obeyed

Arrays (``k_mean``) lie in a .npz file beside it, named by ``tensors``.
"""

import difflib
import io
import tomllib
import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qfa_passes.core.formats import AttentionFormat, ScaleMode
from qfa_passes.core.plan import PLAN_VERSION, Plan, SitePlan, StaticScales
from qfa_passes.core.printable import printable
from qfa_passes.core.small_file import write_whole
from qfa_passes.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from qfa_passes.plan.plan_schema import PlanTables, SiteTable

_MAX_BYTES = 64 << 20


def read_plan(
    path: Path, *, model_digest: str | None = None, site_names: Collection[str] | None = None
) -> Plan:
    """Reads a plan file.

    Args:
        path: The TOML file.
        model_digest: `LoadedModel.digest` of the model it is for; None skips the comparison.
        site_names: Names of the model's sites; None skips the comparison.

    Raises:
        ConfigError: Not readable, not TOML, an unknown key, a wrong type, another model, an unknown
            site, a newer version.
    """
    where = f"plan '{printable(str(path))}'"
    tables = _validate(_parse(path, where), where)
    plan = Plan(
        model_digest=tables.model_digest,
        sites=tuple(_site(table, where) for table in tables.site),
        linear=tables.linear,
        tensors=_read_tensors(path, tables, where),
    )
    check_plan(plan, where, model_digest, site_names)
    return plan


def write_plan(plan: Plan, path: Path) -> None:
    """Writes a plan file, and a .npz file beside it if the plan has arrays.

    Raises:
        SaveError: The folder cannot be written.
    """
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment("Plan of qfa_passes: what every attention site gets."))
    document.add(
        tomlkit.comment(
            'format = "none" leaves a site as it is, "float" fuses it without quantizing.'
        )
    )
    document["schema_version"] = PLAN_VERSION
    document["model_digest"] = plan.model_digest
    document["linear"] = plan.linear.value
    arrays = path.with_suffix(".npz")
    if plan.tensors:
        document["tensors"] = arrays.name
    entries = tomlkit.aot()
    for site in plan.sites:
        entry = tomlkit.table()
        entry["name"] = site.name
        entry["format"] = site.format.value
        entry["scale_mode"] = site.scale_mode.value
        entry["rotate"] = site.rotation.value
        if site.exempt:
            entry["exempt"] = site.exempt
        if site.note:
            entry["note"] = site.note
        if site.k_mean is not None:
            entry["k_mean"] = site.k_mean
        if site.scales is not None:
            scales = tomlkit.inline_table()
            scales["query"] = list(site.scales.query)
            scales["key"] = list(site.scales.key)
            scales["value"] = list(site.scales.value)
            entry["scales"] = scales
        entries.append(entry)
    document["site"] = entries
    if plan.tensors:
        write_whole(arrays, _packed(plan.tensors))
    write_whole(path, tomlkit.dumps(document).encode())


def _packed(tensors: dict[str, npt.NDArray[np.float32]]) -> bytes:
    """Returns a .npz file; by hand, for np.savez takes no array named ``file``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, array in tensors.items():
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w") as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return buffer.getvalue()


def _parse(path: Path, where: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{where} is larger than {_MAX_BYTES >> 20} MiB")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read",
            why=error.strerror or "",
            hint="check the path; --save-plan writes a plan to start from",
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{where} is not TOML",
            why=str(error),
            hint="--save-plan writes a plan to start from",
        ) from error


def _validate(content: dict[str, Any], where: str) -> "PlanTables":
    from pydantic import ValidationError

    from qfa_passes.plan.plan_schema import PlanTables

    version = content.get("schema_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > PLAN_VERSION:
        raise ConfigError(
            f"{where} has schema_version {version}; this release reads up to {PLAN_VERSION}",
            hint="install a newer qfa_passes, or make the plan again with this one",
        )
    try:
        return PlanTables.model_validate(content)
    except ValidationError as error:
        raise _explain(error, content, where) from None


def _explain(error: "ValidationError", content: dict[str, Any], where: str) -> ConfigError:
    from qfa_passes.plan.plan_schema import PlanTables, ScalesTable, SiteTable

    problems = []
    hint = ""
    for problem in error.errors(include_url=False)[:5]:
        place = problem["loc"]
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
        label = printable(dotted.lstrip("."))
        if len(place) > 1 and place[0] == "site" and isinstance(place[1], int):
            name = content["site"][place[1]]
            if isinstance(name, dict) and isinstance(name.get("name"), str):
                label += f" ('{printable(name['name'])}')"
        if problem["type"] == "extra_forbidden":
            tables: dict[int, type[BaseModel]] = {1: PlanTables, 3: SiteTable, 4: ScalesTable}
            known = list(tables[len(place)].model_fields) if len(place) in tables else []
            close = difflib.get_close_matches(str(place[-1]), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            problems.append(f"unknown key {label}")
        elif problem["type"] == "missing":
            problems.append(f"{label} is missing")
        else:
            given = printable(repr(problem["input"]), 60)
            problems.append(f"{label} = {given}: {problem['msg'].lower()}")
    return ConfigError(f"{where} does not fit", why="; ".join(problems), hint=hint)


def _site(table: "SiteTable", where: str) -> SitePlan:
    scales = None
    if table.scales is not None:
        given = table.scales
        scales = StaticScales(tuple(given.query), tuple(given.key), tuple(given.value))
    if table.scale_mode is ScaleMode.STATIC and scales is None and table.format != "none":
        raise ConfigError(
            f"{where}: site '{printable(table.name)}' has scale_mode static but no scales",
            hint="add scales = { query = ..., key = ..., value = ... } or use dynamic",
        )
    exempt = table.exempt
    if table.format is AttentionFormat.NONE and not exempt:
        exempt = "format none in the plan file"
    return SitePlan(
        name=table.name,
        format=table.format,
        scale_mode=table.scale_mode,
        rotation=table.rotate,
        scales=scales,
        k_mean=table.k_mean,
        exempt=exempt,
        note=table.note,
    )


def _read_tensors(
    path: Path, tables: "PlanTables", where: str
) -> dict[str, npt.NDArray[np.float32]]:
    wanted = {table.k_mean for table in tables.site if table.k_mean is not None}
    if not wanted:
        return {}
    if tables.tensors is None:
        raise ConfigError(f"{where}: k_mean needs the key 'tensors', the name of a .npz file")
    if not tables.tensors or Path(tables.tensors).name != tables.tensors:
        raise ConfigError(
            f"{where}: tensors = {printable(repr(tables.tensors))} is not a plain file name",
            hint="the .npz file lies beside the plan file",
        )
    try:
        with np.load(path.with_name(tables.tensors), allow_pickle=False) as archive:
            missing = wanted - set(archive.files)
            if missing:
                raise ConfigError(
                    f"{where}: '{tables.tensors}' has no array {printable(str(sorted(missing)))}"
                )
            found = {key: np.asarray(archive[key]) for key in sorted(wanted)}
    except (OSError, ValueError, MemoryError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{where}: '{tables.tensors}' cannot be read", why=str(error)) from error
    for key, array in found.items():
        if array.ndim != 2 or array.dtype != np.float32 or not np.isfinite(array).all():
            raise ConfigError(
                f"{where}: array '{printable(key)}' is {array.dtype} {array.shape}",
                why="k_mean is a finite float32 array (Hkv, D)",
            )
    return found


def check_plan(
    plan: Plan, where: str, model_digest: str | None, site_names: Collection[str] | None
) -> None:
    """Checks that a plan fits a model; ``where`` are the words for the plan in messages.

    Raises:
        ConfigError: A site named twice, another model, or a site that the model does not have.
    """
    repeated = [
        name for name, times in Counter(site.name for site in plan.sites).items() if times > 1
    ]
    if repeated:
        raise ConfigError(f"{where} names site '{printable(repeated[0])}' more than once")
    if model_digest is not None and plan.model_digest and plan.model_digest != model_digest:
        raise ConfigError(
            f"{where} was made for another model",
            why=f"its model_digest is {printable(plan.model_digest, 20)}, "
            f"this model's is {model_digest[:12]}...",
            hint="make a plan for this model, or delete the line model_digest if you are sure",
        )
    if site_names is None:
        return
    for site in plan.sites:
        if site.name not in site_names:
            close = difflib.get_close_matches(site.name, site_names, 1)
            raise ConfigError(
                f"{where}: the model has no attention site '{printable(site.name)}'",
                hint=f"did you mean '{printable(close[0])}'?" if close else "see `inspect MODEL`",
            )
