"""The plan file's tables as data models: types are strict and unknown keys are errors."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from qfa_passes.core.formats import AttentionFormat, LinearFormat, Rotation, ScaleMode

Step = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _as_list(value: Any) -> Any:
    """Takes one number where a list of one is meant."""
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


Steps = Annotated[list[Step], Field(min_length=1), BeforeValidator(_as_list)]


class ScalesTable(BaseModel):
    """``scales``: the value of one code step, one number or one per head."""

    model_config = ConfigDict(extra="forbid", strict=True)
    query: Steps
    key: Steps
    value: Steps


class SiteTable(BaseModel):
    """One ``[[site]]``."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[str, Field(min_length=1)]
    format: Annotated[AttentionFormat, Field(strict=False)] = AttentionFormat.INT8
    scale_mode: Annotated[ScaleMode, Field(strict=False)] = ScaleMode.DYNAMIC
    rotate: Annotated[Rotation, Field(strict=False)] = Rotation.NONE
    exempt: str = ""
    note: str = ""
    scales: ScalesTable | None = None
    k_mean: str | None = None


class PlanTables(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    schema_version: Annotated[int, Field(ge=1)]
    model_digest: str = ""
    linear: Annotated[LinearFormat, Field(strict=False)] = LinearFormat.NONE
    tensors: str | None = None
    site: list[SiteTable] = []
