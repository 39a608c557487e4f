"""What HELIOS_REDIS_URL takes: whatever cannot be used is refused at once, in words, and without its password."""

from pathlib import Path

import pytest

from helios.redis_address import AddressInvalid, RedisAddress, address_of
from helios.settings import SettingInvalid, settings_from


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", RedisAddress(hosts=(("h", 6379),))),
        ("redis://", RedisAddress(hosts=(("127.0.0.1", 6379),))),
        ("redis://u:p%40%23@h:1/2", RedisAddress(hosts=(("h", 1),), username="u", password="p@#", db=2)),
        ("redis://:p@[::1]:7/0", RedisAddress(hosts=(("::1", 7),), password="p")),
        ("redis://h/?db=3", RedisAddress(hosts=(("h", 6379),), db=3)),
        ("unix:///run/r.sock?db=1&password=p", RedisAddress(path="/run/r.sock", db=1, password="p")),
        ("rediss://h:6380/0", RedisAddress(hosts=(("h", 6380),), tls=True)),
        (
            "rediss://h/0?ssl_check_hostname=False&ssl_cert_reqs=None",
            RedisAddress(
                hosts=(("h", 6379),), tls=True, tls_options={"ssl_check_hostname": False, "ssl_cert_reqs": "none"}
            ),
        ),
        (
            "redis+sentinel://u:p@a:1,b,[::2]:3/mymaster/4",
            RedisAddress(
                hosts=(("a", 1), ("b", 26379), ("::2", 3)), master="mymaster", db=4, username="u", password="p"
            ),
        ),
        ("redis+sentinel://a/m", RedisAddress(hosts=(("a", 26379),), master="m")),
        ("rediss+sentinel://a/m/0", RedisAddress(hosts=(("a", 26379),), master="m", tls=True)),
    ],
)
def test_every_way_of_naming_redis_is_understood(url: str, expected: RedisAddress) -> None:
    assert address_of(url) == expected
    assert settings_from({"HELIOS_REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "begins with 'http'"),
        ("h:6379", "but it takes one of redis://, rediss://"),
        ("redis://u:secret@h:x/0", "the port"),
        ("redis://u:secret@h:70000/0", "the port"),
        ("redis://u:secret@h/zero", "the database"),
        ("redis://u:secret@h/0/1", "more after its host"),
        ("redis://u:secret#@h/0", "written %23"),
        ("redis://u:secret@a,b/0", "redis+sentinel://"),
        ("redis://u:secret@[::1/0", "is no URL"),
        ("redis://u:secret@:5/0", "a port without a host"),
        ("redis://u:secret@h/0?socket_timeout=1", "the option"),
        ("redis://h/0?password=secret", "the option 'password'"),
        ("redis://u:secret@h/0?ssl_ca_certs=/x", "is not encrypted; rediss:// is"),
        ("redis+sentinel://u:secret@a:1,b:2", "names no primary"),
        ("redis+sentinel://u:secret@a:1,b:2/", "names no primary"),
        ("redis+sentinel://u:secret@a:1,b:two/m/0", "the port"),
        ("redis+sentinel://u:secret@a/m/n", "the database"),
        (
            "rediss://u:secret@h/0?ssl_ca_certs=/nowhere/ca.crt",
            "ssl_ca_certs='/nowhere/ca.crt', but there is no such file",
        ),
        ("rediss://u:secret@h/0?ssl_ca_path=/nowhere", "no such folder"),
        ("rediss://u:secret@h/0?ssl_keyfile=/dev/null", "without ssl_certfile"),
        ("rediss://u:secret@h/0?ssl_cert_reqs=perhaps", "required or none"),
        ("rediss://u:secret@h/0?ssl_check_hostname=perhaps", "true or false"),
        ("unix://", "names no socket"),
    ],
)
def test_what_names_no_redis_is_refused_by_the_variables_name(url: str, said: str) -> None:
    with pytest.raises(AddressInvalid):
        address_of(url)
    with pytest.raises(SettingInvalid, match=r"^HELIOS_REDIS_URL ") as refused:
        settings_from({"HELIOS_REDIS_URL": url})
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_what_is_shown_of_an_address_has_no_password(tmp_path: Path) -> None:
    authority = tmp_path / "ca.crt"
    authority.touch()
    assert address_of(f"rediss://u:secret@h:1/0?ssl_ca_certs={authority}").place == "h:1"
    assert address_of("redis+sentinel://u:secret@a:1,b:2/m/0").place == "m (by Sentinel: a:1, b:2)"
    assert address_of("redis://u:secret@[::1]/0").place == "[::1]:6379"
    assert address_of("unix:///run/r.sock?password=secret").place == "/run/r.sock"
