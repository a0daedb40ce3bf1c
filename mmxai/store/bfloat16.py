"""bfloat16 for zarr-python, named as in zarr-extensions; needs zarr and ml_dtypes, never torch.

Registered through the entry point group `zarr.data_type`: zarr 3.4 loads it by itself, zarr 3.1 collects
it but does not load it, so `import mmxai` calls `register()`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from zarr.core.dtype import data_type_registry
from zarr.core.dtype.common import HasEndianness, HasItemSize
from zarr.dtype import ZDType

try:
    from zarr.errors import DataTypeValidationError  # type: ignore[attr-defined]
except ImportError:  # zarr 3.1
    from zarr.dtype import DataTypeValidationError

_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_CANONICAL_NAN = 0x7FC0


@dataclass(frozen=True, kw_only=True)
class BFloat16(ZDType[Any, Any], HasEndianness, HasItemSize):
    """The 16-bit brain float; scalars are `ml_dtypes.bfloat16`. In memory always in native byte order."""

    dtype_cls = type(np.dtype(ml_dtypes.bfloat16))
    _zarr_v3_name: ClassVar[str] = "bfloat16"

    @property
    def item_size(self) -> int:
        return 2

    @classmethod
    def from_native_dtype(cls, dtype: Any) -> BFloat16:
        if dtype != np.dtype(ml_dtypes.bfloat16):
            raise DataTypeValidationError(f"bfloat16: got {dtype}, expected ml_dtypes.bfloat16")
        return cls()

    def to_native_dtype(self) -> np.dtype[Any]:
        if self.endianness != sys.byteorder:
            raise ValueError(f"bfloat16: got {self.endianness}-endian data, expected {sys.byteorder}-endian")
        return np.dtype(ml_dtypes.bfloat16)

    @classmethod
    def _from_json_v2(cls, data: Any) -> BFloat16:
        raise DataTypeValidationError(f"bfloat16 does not exist in Zarr v2; got {data!r}")

    @classmethod
    def _from_json_v3(cls, data: Any) -> BFloat16:
        if data != cls._zarr_v3_name:
            raise DataTypeValidationError(f"bfloat16: got {data!r}, expected {cls._zarr_v3_name!r}")
        return cls()

    def to_json(self, zarr_format: int) -> Any:
        if zarr_format != 3:
            raise ValueError(f"bfloat16: got Zarr format {zarr_format}, expected 3")
        return self._zarr_v3_name

    def _check_scalar(self, data: object) -> bool:
        return isinstance(data, int | float | np.integer | np.floating | ml_dtypes.bfloat16)

    def cast_scalar(self, data: object) -> Any:
        if not self._check_scalar(data):
            raise TypeError(f"bfloat16: got {data!r} of type {type(data)}, expected a number")
        return ml_dtypes.bfloat16(data)

    def default_scalar(self) -> Any:
        return ml_dtypes.bfloat16(0)

    def from_json_scalar(self, data: Any, *, zarr_format: int) -> Any:
        """A number, "NaN", "Infinity", "-Infinity", or "0x" and the four hexadecimal digits of the bits."""
        if isinstance(data, str):
            if data in _SPECIAL:
                return ml_dtypes.bfloat16(_SPECIAL[data])
            if data.startswith("0x") and len(data) == 6:
                return np.array(int(data, 16), np.uint16).view(ml_dtypes.bfloat16)[()]
        elif isinstance(data, int | float):
            return ml_dtypes.bfloat16(data)
        raise TypeError(f"bfloat16: got {data!r}, expected a number or a string that stands for one")

    def to_json_scalar(self, data: object, *, zarr_format: int) -> Any:
        value = self.cast_scalar(data)
        if np.isnan(value):
            bits = int(np.array(value).view(np.uint16))
            return "NaN" if bits == _CANONICAL_NAN else f"0x{bits:04x}"
        if np.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return float(value)


def register() -> None:
    """Make zarr-python know bfloat16 in this process; any number of calls does the same as one."""
    data_type_registry.register(BFloat16._zarr_v3_name, BFloat16)
