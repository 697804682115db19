from __future__ import annotations

import math

import pytest

from autoprune.devices.latency import Latency
from autoprune.errors import DeviceError

GOOD = {"ms": 18.6, "lo_ms": 12.1, "hi_ms": 29.2, "percentile": "p50", "source": "profile", "device": "rpi4",
        "runtime": "onnxruntime", "runtime_version": "1.31.1", "threads": 4, "n": 101, "notes": ["noisy"]}


def test_json_round_trip():
    latency = Latency.from_json(GOOD)
    assert latency.notes == ("noisy",)
    assert latency.to_json() == GOOD
    assert Latency.from_json(latency.to_json()) == latency


@pytest.mark.parametrize(("changes", "text"), [
    ({}, "18.6 ms (profile, expect 12–29)"),
    ({"source": "measured", "ms": 3.21, "lo_ms": 3.104, "hi_ms": 3.44}, "3.21 ms (measured, p10–p90 3.1–3.4)"),
    ({"percentile": "p90", "ms": 1234.5, "lo_ms": 1000, "hi_ms": 2000}, "1234 ms p90 (profile, expect 1000–2000)"),
    ({"ms": 0.04212, "lo_ms": 0.04, "hi_ms": 0.05}, "0.0421 ms (profile, expect 0.040–0.050)"),
])
def test_text(changes, text):
    assert str(Latency.from_json({**GOOD, **changes})) == text


@pytest.mark.parametrize("changes", [
    {"ms": math.nan}, {"ms": math.inf}, {"ms": 0}, {"ms": -1}, {"ms": "3"}, {"ms": True}, {"lo_ms": 19}, {"hi_ms": 18},
    {"percentile": "p95"}, {"source": "guessed"}, {"threads": 0}, {"threads": 1.5}, {"n": 0}, {"notes": "noisy"},
    {"notes": [1]}, {"device": None}, {"more": 1}])
def test_bad_values_are_refused(changes):
    with pytest.raises(DeviceError):
        Latency.from_json({**GOOD, **changes})


def test_missing_keys_are_named():
    with pytest.raises(DeviceError, match="hi_ms"):
        Latency.from_json({k: v for k, v in GOOD.items() if k != "hi_ms"})
