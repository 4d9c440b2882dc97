"""The libraries of the engines, loaded so that they tell their makers nothing: a line's computer reports to nobody.

Importing OpenVINO sends an event to an analytics service, unless its package for that is missing: so it is, while
OpenVINO is imported. ONNX Runtime traces its sessions on Windows, unless it is told not to.
"""

from __future__ import annotations

import sys
from threading import Lock
from typing import Any

_REPORTS = "openvino_telemetry"
_LOCK = Lock()


def import_openvino() -> Any:
    """The package ``openvino``.

    Raises:
        ImportError: it is not installed.
    """
    with _LOCK:
        hidden = _REPORTS not in sys.modules
        if hidden:
            sys.modules[_REPORTS] = None  # type: ignore[assignment]  # so that to import it fails
        try:
            import openvino
        finally:
            if hidden:
                del sys.modules[_REPORTS]
    return openvino


def import_onnxruntime() -> Any:
    """The package ``onnxruntime``.

    Raises:
        ImportError: it is not installed.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime
