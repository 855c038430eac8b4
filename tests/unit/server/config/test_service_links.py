"""Service links of Kubernetes and Docker are told from settings, whatever the service is called."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config.service_links import ignored_service_links, service_links
from server.config.settings import Settings, load
from server.errors import SettingsError

Port = tuple[str, int, str]  # name ("" for none), number, protocol


def kubernetes_variables(service: str, address: str, ports: list[Port]) -> dict[str, str]:
    """What the kubelet adds for one Service, as Kubernetes documents it."""
    prefix = service.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    added = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(ports[0][1])}
    for name, _, _ in ports:
        if name:
            number = next(number for other, number, _ in ports if other == name)
            added[f"{prefix}_SERVICE_PORT_{name.upper().replace('-', '_')}"] = str(number)
    first = f"{ports[0][2].lower()}://{host}:{ports[0][1]}"
    return added | {f"{prefix}_PORT": first} | _port_variables(prefix, host, address, ports)


def docker_variables(alias: str, address: str, ports: list[Port], others: dict[str, str]) -> dict[str, str]:
    """What Docker adds for `--link container:alias`, as Docker documents it."""
    prefix = alias.upper().replace("-", "_")
    added = {f"{prefix}_NAME": f"/client/{alias}", f"{prefix}_PORT": f"tcp://{address}:{ports[0][1]}"}
    added |= {f"{prefix}_ENV_{name}": value for name, value in others.items()}
    return added | _port_variables(prefix, address, address, ports)


def _port_variables(prefix: str, host: str, address: str, ports: list[Port]) -> dict[str, str]:
    added = {}
    for _, number, protocol in ports:
        one = f"{prefix}_PORT_{number}_{protocol}"
        added[one] = f"{protocol.lower()}://{host}:{number}"
        added |= {f"{one}_PROTO": protocol.lower(), f"{one}_PORT": str(number), f"{one}_ADDR": address}
    return added


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True)
SERVICES = st.one_of(st.just("loragate"), LABEL.map(lambda label: f"loragate-{label}"))
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
PORTS = st.lists(
    st.tuples(st.one_of(st.just(""), LABEL), st.integers(1, 65535), st.sampled_from(["TCP", "UDP", "SCTP"])),
    min_size=1,
    max_size=4,
)


@given(SERVICES, ADDRESSES, PORTS)
def test_every_variable_of_a_kubernetes_service_is_a_link(
    service: str, address: str, ports: list[Port]
) -> None:
    added = kubernetes_variables(service, address, ports)
    settings = {"LORAGATE_MODEL": "m", "LORAGATE_MAX_LORAS": "4", "LORAGATE_KEY": "sk-1", "PATH": "/bin"}
    assert service_links(added | settings) == added.keys()
    for name, value in added.items():
        assert service_links({name: value}) == {name}, "each is recognised by itself"


@given(SERVICES, st.ip_addresses(v=4).map(str), PORTS, st.dictionaries(LABEL.map(str.upper), st.text()))
def test_every_variable_of_a_docker_link_is_a_link(
    alias: str, address: str, ports: list[Port], others: dict[str, str]
) -> None:
    added = docker_variables(alias, address, ports, others)
    assert service_links(added | {"LORAGATE_MODEL": "m"}) == added.keys()


@given(st.sampled_from(sorted(Settings.model_fields)), st.text())
def test_no_setting_is_taken_for_a_link(field: str, value: str) -> None:
    name = f"LORAGATE_{field.upper()}"
    links = service_links({name: value})
    assert not links or (field == "port" and value.startswith(("tcp://", "udp://", "sctp://")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LORAGATE_PORT", "9000"),
        ("LORAGATE_PORT", ""),
        ("LORAGATE_PORT", "tcp://loragate:8000"),
        ("LORAGATE_PORT", "tcp://10.0.0.1"),
        ("LORAGATE_PORT", "tcp://10.0.0.1:0"),
        ("LORAGATE_PORT", "tcp://10.0.0.1:65536"),
        ("LORAGATE_PORT", "tcp://10.0.0.1:8000/"),
        ("LORAGATE_PORT", "tcp://10.0.0.1:8000\n"),
        ("LORAGATE_PORT", "tcp://fd00::1:8000"),
        ("LORAGATE_PORT", "tcp://[10.0.0.1]:8000"),
        ("LORAGATE_PORT", "tcp://[fe80::1%eth0]:8000"),
        ("LORAGATE_PORT", "http://10.0.0.1:8000"),
        ("LORAGATE_SERVICE_HOST", "loragate.example.com"),
        ("LORAGATE_SERVICE_HOST", "fe80::1%eth0"),
        ("LORAGATE_SERVICE_PORT", "http"),
        ("LORAGATE_SERVICE_PORT", "08000"),
        ("LORAGATE_SERVICE_PORT_HTTP", "65536"),
        ("LORAGATE_PORT_8000_TCP", "tcp://10.0.0.1:8001"),
        ("LORAGATE_PORT_8000_TCP", "udp://10.0.0.1:8000"),
        ("LORAGATE_PORT_8000_TCP_PROTO", "udp"),
        ("LORAGATE_PORT_8000_TCP_PORT", "8001"),
        ("LORAGATE_PORT_70000_TCP_PORT", "70000"),
        ("LORAGATE_PORT_8000_TCP_ADDR", "loragate"),
        ("LORAGATE_PORT_8000_HTTP", "http://10.0.0.1:8000"),
        ("LORAGATE_PORT_HTTP", "8000"),
        ("LORAGATE_CONSOLE_PORT", "9000"),
        ("LORAGATE_console_SERVICE_PORT", "80"),
        ("LORAGATE_HOST", "10.0.0.1"),
        ("LORAGATE_NAME", "/client/loragate"),
        ("LORAGATE_ENV_MODEL", "m"),
        ("LORAGATEX_PORT", "tcp://10.0.0.1:8000"),
        ("OTHER_PORT", "tcp://10.0.0.1:8000"),
    ],
)
def test_another_name_or_value_is_no_link(name: str, value: str) -> None:
    assert service_links({name: value}) == set()


def test_a_containers_name_alone_does_not_hide_its_neighbours() -> None:
    """`_NAME` and `_ENV_` count only beside the URL of the same alias."""
    given_ = {"LORAGATE_SERVICE_PORT": "8000", "LORAGATE_SERVICE_NAME": "/a/b", "LORAGATE_SERVICE_ENV_X": "1"}
    assert service_links(given_) == {"LORAGATE_SERVICE_PORT"}
    given_ = {"LORAGATE_PORT": "tcp://10.0.0.1:80", "LORAGATE_NAME": "models/a", "LORAGATE_ENV_X": "1"}
    assert service_links(given_) == {"LORAGATE_PORT"}


# The settings


@pytest.fixture
def linked(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a pod beside two Services of ours."""
    for name in list(os.environ):
        if name.startswith("LORAGATE_"):
            monkeypatch.delenv(name)
    added = kubernetes_variables("loragate", "10.0.0.1", [("http", 8000, "TCP"), ("metrics", 9100, "TCP")])
    added |= kubernetes_variables("loragate-console", "fd00::2", [("", 80, "TCP")])
    for name, value in added.items():
        monkeypatch.setenv(name, value)
    return added


def test_settings_ignore_links_and_tell_their_names(linked: dict[str, str]) -> None:
    assert load({"model": "m"}).port == 8000
    assert ignored_service_links() == sorted(linked)


def test_a_port_beside_links_is_the_setting(linked: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGATE_PORT", "9000")
    assert load({"model": "m"}).port == 9000
    assert ignored_service_links() == sorted(linked.keys() - {"LORAGATE_PORT"})


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("LORAGATE_MAX_LORA", "4", "LORAGATE_MAX_LORAS"),
        ("LORAGATE_SERVICE_HOST", "localhost", "LORAGATE_"),
        ("LORAGATE_PORTS", "tcp://10.0.0.1:8000", "LORAGATE_PORT"),
    ],
)
def test_an_unknown_variable_beside_links_is_still_an_error(
    linked: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, value: str, nearest: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"{name} is not a setting.*Did you mean {nearest}"):
        load({"model": "m"})


def test_a_url_that_is_no_link_is_a_wrong_port(
    linked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAGATE_PORT", "tcp://loragate:8000")
    with pytest.raises(SettingsError, match="--port tcp://loragate:8000"):
        load({"model": "m"})
