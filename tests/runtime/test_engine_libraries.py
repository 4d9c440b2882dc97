"""Engines report to nobody."""

import sys
import threading
from pathlib import Path

import pytest

from ad_assets_runtime.engine_libraries import import_onnxruntime, import_openvino
from tests.support.forked import Forked


def test_openvino_sends_nothing_when_it_is_imported(tmp_path: Path) -> None:
    def load() -> int:
        assert "openvino" not in sys.modules
        openvino = import_openvino()
        assert openvino.Core().available_devices
        assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__ == "openvino.tools.ovc.telemetry_stub"
        assert "openvino_telemetry" not in sys.modules
        assert threading.enumerate() == [threading.main_thread()]
        return 0

    log = tmp_path / "log.txt"
    assert Forked(load, log).wait() == 0, log.read_text(encoding="utf-8")


def test_onnx_runtime_is_told_not_to_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    told: list[bool] = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: told.append(True))
    assert import_onnxruntime() is onnxruntime
    assert told
