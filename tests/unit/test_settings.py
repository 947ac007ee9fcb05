"""Process settings from flags and the environment."""

from datetime import timedelta
from pathlib import Path

import pytest

from controller import settings


def test_without_flags_and_variables_everything_has_a_default() -> None:
    said = settings.read({}, {})
    assert said.namespace is None
    assert said.tick == timedelta(seconds=1)
    assert said.checkpoint == timedelta(seconds=10)
    assert said.scrape_timeout == timedelta(milliseconds=500)
    assert (said.bind, said.port, said.freeze) == ("127.0.0.1", 8080, False)


def test_the_recorder_is_on_port_8080_of_the_shadow_worker_unless_it_is_said_to_be_elsewhere() -> None:
    said = {"shadow_url": "http://shadow.serin-system.svc.cluster.local:8081"}
    of_all = {"percent": 100.0}
    here = {"host": "shadow.serin-system.svc.cluster.local", "port": 8080}
    assert settings.read(said, {}).recorder == here | of_all
    there = settings.read(said | {"shadow_recorder": "other.ns:99", "shadow_percent": "2.5%"}, {}).recorder
    assert there == {"host": "other.ns", "port": 99, "percent": 2.5}
    assert settings.read({}, {}).recorder is None
    with pytest.raises(settings.BadSetting, match="shadow-url is not set"):
        settings.read({"shadow_recorder": "other.ns:99"}, {})


def test_two_replicas_on_one_host_have_different_identities() -> None:
    assert settings.read({}, {}).identity != settings.read({}, {}).identity


def test_a_variable_sets_and_a_flag_wins_over_it() -> None:
    environ = {"SERIN_TICK": "2s", "SERIN_FREEZE": "true"}
    assert settings.read({}, environ).tick == timedelta(seconds=2)
    assert settings.read({"tick": "500ms"}, environ).tick == timedelta(milliseconds=500)
    assert settings.read({}, environ).freeze is True


def test_an_empty_variable_is_an_unset_one() -> None:
    assert settings.read({}, {"SERIN_NAMESPACE": ""}).namespace is None


def test_a_kubeconfig_that_exists_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("{}")
    assert settings.read({"kubeconfig": str(file)}, {}).kubeconfig == file


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("kubeconfig", "/does/not/exist", "a kubeconfig file that exists"),
        ("namespace", "Lab!", "a namespace"),
        ("lease_name", "-x", "the name of a Lease"),
        ("shards", "0", "a number from 1 to 16"),
        ("shards", "17", "a number from 1 to 16"),
        ("shards", "two", "a number from 1 to 16"),
        ("tick", "1", "a duration from 100ms to 1m"),
        ("tick", "1h", "a duration from 100ms to 1m"),
        ("checkpoint", "often", "a duration from 1s to 5m"),
        ("scrape_timeout", "1ms", "a duration from 50ms to 30s"),
        ("prometheus_url", "prometheus:9090", "a URL without user and password"),
        ("prometheus_url", "http://ann:secret@prometheus", "a URL without user and password"),
        ("prometheus_url", "http://", "a URL without user and password"),
        ("prometheus_url", "http://prometheus:99999", "a URL without user and password"),
        ("prometheus_url", "http://prometheus/?x=1", "a URL without user and password"),
        ("prometheus_interval", "100ms", "a duration from 1s to 5m"),
        ("shadow_url", "serin-shadow:8081", "a URL without user or password"),
        ("shadow_recorder", "serin-shadow", "host and port"),
        ("shadow_percent", "0", "a percentage above 0"),
        ("shadow_percent", "101", "a percentage above 0"),
        ("shadow_percent", "nan", "a percentage above 0"),
        ("shadow_recorder", "serin-shadow:0", "host and port"),
        ("shadow_recorder", "http://serin-shadow:80", "host and port"),
        ("freeze", "maybe", '"true" or "false"'),
        ("port", "http", "a port from 0"),
        ("port", "70000", "a port from 0"),
        ("log_format", "xml", '"auto", "json" or "console"'),
        ("identity", " ", "a name that no other replica has"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_its_value_and_what_is_expected(
    field: str, value: str, expected: str
) -> None:
    flag = "--" + field.replace("_", "-")
    with pytest.raises(settings.BadSetting) as by_flag:
        settings.read({field: value}, {})
    assert str(by_flag.value).startswith(f'{flag} is "{value}": expected ')
    assert expected in str(by_flag.value)
    with pytest.raises(settings.BadSetting, match=f"SERIN_{field.upper()} is "):
        settings.read({}, {f"SERIN_{field.upper()}": value})


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(settings.BadSetting, match=r"SERIN_FREZE is not a setting.*SERIN_FREEZE"):
        settings.read({}, {"SERIN_FREZE": "true"})


def test_variables_that_the_kubelet_sets_for_a_service_called_serin_are_not_settings() -> None:
    links = {
        "SERIN_PORT": "tcp://10.0.0.1:8080",
        "SERIN_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "SERIN_PORT_8080_TCP_ADDR": "10.0.0.1",
        "SERIN_SERVICE_HOST": "10.0.0.1",
        "SERIN_SERVICE_PORT": "8080",
        "SERIN_SERVICE_PORT_HTTP": "8080",
        "SERIN_CONTROLLER_SERVICE_HOST": "10.0.0.2",
        "SERIN_CONTROLLER_PORT": "tcp://10.0.0.2:8080",
    }
    assert settings.read({}, links).port == 8080


def test_a_scrape_must_end_before_the_next_begins() -> None:
    with pytest.raises(settings.BadSetting, match="make --scrape-timeout the shorter one"):
        settings.read({"scrape_timeout": "2s"}, {})


def test_checkpoints_are_not_more_frequent_than_ticks() -> None:
    with pytest.raises(settings.BadSetting, match="at least as long as --tick"):
        settings.read({"tick": "30s"}, {})


def test_every_field_can_be_set_from_outside() -> None:
    assert {setting.field for setting in settings.SETTINGS} == set(settings.Settings.__dataclass_fields__)
