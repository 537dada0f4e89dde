"""Where free ports are looked for."""

from __future__ import annotations

import pytest

from parties.setup import PORTS_VARIABLE, Plan, create_environment
from protocol.errors import SettingsInvalid


@pytest.mark.parametrize("text", ["", "20000", "a-b", "20000-20010", "80-9000", "30000-20000", "60000-70000"])
def test_a_wrong_range_of_ports_is_refused(tmp_path, monkeypatch, text: str) -> None:
    monkeypatch.setenv(PORTS_VARIABLE, text)
    with pytest.raises(SettingsInvalid) as caught:
        create_environment(tmp_path / "env", Plan(base_port=0), lambda _party: None)
    assert caught.value.code == "SETTINGS_INVALID"
    assert PORTS_VARIABLE in str(caught.value)
