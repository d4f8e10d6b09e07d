"""node/config.py: flags, variables and a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from edgecache.node.config import (
    Config,
    cloud_node_address,
    default_disk_bytes,
    default_memory_bytes,
    load,
    parse_address,
    parse_size,
)
from edgecache.node.cost import ONLY_TIME, Prices
from edgecache.protocol.errors import InvalidValue


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 * 1024**2),
        ("4GiB", 4 * 1024**3),
        ("1.5g", 3 * 1024**3 // 2),
        ("10MB", 10_000_000),
        ("1048576", 1024**2),
        ("64 kib", 64 * 1024),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1MiB", "5XB", "1e9", "5 M i B", "٣MiB", "9" * 30])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="expected a size such as 512MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:7440", ("127.0.0.1", 7440)), ("[::1]:0", ("::1", 0)), ("pi.local:1", ("pi.local", 1))],
)
def test_an_address_has_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["7440", ":7440", "host:", "host:-1", "host:65536", "host:٣", "ho\nst:1", ""])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="expected HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("flag", ["--name", "--cluster"])
def test_a_name_is_no_longer_than_others_will_take_it(flag: str) -> None:
    assert load([flag, "é" * 100], {})
    with pytest.raises(InvalidValue, match="name of 202 bytes: at most 200"):
        load([flag, "é" * 101], {})


def test_the_eviction_policy_is_one_that_there_is() -> None:
    assert load([], {}).eviction == "predictive-lru-k"
    assert load(["--eviction", "s3-fifo"], {}).eviction == "s3-fifo"
    for named in ("belady", "LRU", ""):
        with pytest.raises(InvalidValue, match=r"--eviction: .*expected one of fifo, lru, .*predictive-lru-k"):
            load(["--eviction", named], {})


def test_a_disk_has_a_size_or_there_is_none(tmp_path: Path) -> None:
    assert load(["--disk", "8GiB"], {}).disk_bytes == 8 * 1024**3
    assert load([], {"EDGECACHE_DISK": "0"}).disk_bytes == 0
    file = tmp_path / "node.toml"
    file.write_text("disk = 0\n")
    assert load(["--config", str(file)], {}).disk_bytes == 0
    with pytest.raises(InvalidValue, match="--disk: '1MiB': at least 16777216 bytes, or 0 for no disk"):
        load(["--disk", "1MiB"], {})


def test_the_default_disk_is_a_tenth_of_what_is_free_and_does_not_shrink_as_it_fills(tmp_path: Path) -> None:
    there = os.statvfs(tmp_path)
    share = there.f_bavail * there.f_frsize // 10
    chosen = default_disk_bytes(tmp_path, 0)
    assert chosen in (0, 4 * 1024**3) or abs(chosen - share) < share // 10
    assert default_disk_bytes(tmp_path, 10 * 1024**4) == 4 * 1024**3
    assert default_disk_bytes(tmp_path, 10 * 1024**4, is_cloud=True) >= 8 * 1024**4


def test_nothing_configured_is_a_whole_configuration() -> None:
    assert load([], {}) == Config()


def test_flags_win_over_variables_and_those_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('name = "file"\nreplicas = 3\nseed = ["a:1", "b:2"]\nlog-format = "json"\n')
    config = load(
        ["--config", str(file), "--name", "flag"],
        {"EDGECACHE_NAME": "variable", "EDGECACHE_REPLICAS": "4", "HOME": "/"},
    )
    assert config == Config(name="flag", replicas=4, seeds=(("a", 1), ("b", 2)), log_format="json", config_file=file)


def test_a_variable_may_name_the_file_and_several_seeds(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('memory = "2MiB"\ninsecure = true\n')
    config = load([], {"EDGECACHE_CONFIG": str(file), "EDGECACHE_SEED": "a:1, b:2", "EDGECACHE_NO_MDNS": "1"})
    seeds = (("a", 1), ("b", 2))
    assert config == Config(memory_bytes=2 * 1024**2, insecure=True, no_mdns=True, seeds=seeds, config_file=file)


def test_a_cluster_key_is_a_flag_a_variable_and_a_setting(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('cluster-key = "/etc/edgecache.key"\n')
    for config in (
        load(["--cluster-key", "/etc/edgecache.key"], {}),
        load([], {"EDGECACHE_CLUSTER_KEY": "/etc/edgecache.key"}),
        load(["--config", str(file)], {"EDGECACHE_INSECURE": "0"}),
    ):
        assert (config.cluster_key, config.insecure) == (Path("/etc/edgecache.key"), False)


def test_a_cluster_key_and_insecure_exclude_each_other_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("insecure = true\n")
    for flags, environment in (
        (["--cluster-key", "key", "--insecure"], {}),
        (["--insecure"], {"EDGECACHE_CLUSTER_KEY": "key"}),
        (["--cluster-key", "key", "--config", str(file)], {}),
    ):
        with pytest.raises(InvalidValue, match="--cluster-key and --insecure: choose"):
            load(flags, environment)


def test_a_cloud_is_an_object_store_or_a_cloud_node(tmp_path: Path) -> None:
    assert load(["--cloud", "s3://bucket/prefix"], {}).cloud == "s3://bucket/prefix"
    given = ["--cloud", "edgecache://cloud.example:7441", "--cluster-key", "key"]
    assert cloud_node_address(load(given, {}).cloud or "") == ("cloud.example", 7441)
    assert cloud_node_address("s3://bucket") is None
    assert load(["--cloud", "edgecache://127.0.0.1:7441"], {}).cluster_key is None  # an ssh tunnel, say
    for flags in (given[:2], [*given[:2], "--insecure"]):
        with pytest.raises(InvalidValue, match=r"--cloud edgecache://cloud\.example:7441: .* with --cluster-key FILE"):
            load(flags, {})
    for url in ("edgecache://", "edgecache://host", "edgecache://host:7441/path", "edgecache://user@host:port"):
        with pytest.raises(InvalidValue, match="expected edgecache://HOST:PORT"):
            load(["--cloud", url, "--cluster-key", "key"], {})
    with pytest.raises(InvalidValue, match=r"expected s3://, .* or edgecache://"):
        load(["--cloud", "ftp://host"], {})


def test_a_cloud_node_is_asked_and_asks_nobody() -> None:
    assert load([], {}).role == "edge"
    assert load(["--role", "cloud", "--cluster-key", "key", "--peer-listen", "0.0.0.0:7441"], {}).role == "cloud"
    with pytest.raises(InvalidValue, match="--role: 'fog': expected edge or cloud"):
        load(["--role", "fog"], {})
    for flags in (["--cloud", "s3://b"], ["--seed", "a:1"], ["--encoder", "edgecache/tiny"]):
        with pytest.raises(InvalidValue, match=f"--role cloud: takes no {flags[0]}"):
            load(["--role", "cloud", *flags], {})


def test_a_cloud_node_is_open_to_who_has_the_key_or_to_this_machine() -> None:
    assert load(["--role", "cloud", "--insecure"], {}).insecure
    for flags in (["--listen", "0.0.0.0:7440"], ["--peer-listen", "10.0.0.1:7441"]):
        with pytest.raises(InvalidValue, match="--role cloud: listens beyond loopback with --cluster-key FILE only"):
            load(["--role", "cloud", "--insecure", *flags], {})


def test_a_stronger_layer_decides_between_an_encoder_and_none() -> None:
    assert load(["--no-encoder"], {"EDGECACHE_ENCODER": "edgecache/tiny"}) == Config(no_encoder=True)
    assert load(["--encoder", "hf:x"], {"EDGECACHE_NO_ENCODER": "1"}) == Config(encoder="hf:x")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("colour = 'red'", "colour: no such setting; there are cloud, cluster, cluster_key"),
        ("replicas = 'two'", "replicas: 'two': expected a number from 1 to 16"),
        ("energy = '1,2'", "energy: '1,2': expected seconds per joule"),
        ("energy = '1,-2,3'", "energy: '1,-2,3': expected seconds per joule"),
        ("energy = '1,nan,3'", "energy: '1,nan,3': expected seconds per joule"),
        ("replicas = true", "replicas: True: expected a number"),
        ("insecure = 'perhaps'", "insecure: 'perhaps': expected true or false"),
        ("seed = 5", "seed: 5: expected a list of HOST:PORT"),
        ("name = ", "--config"),
    ],
)
def test_a_wrong_file_is_named_with_the_setting(content: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(content)
    with pytest.raises(InvalidValue) as caught:
        load(["--config", str(file)], {})
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--memory", "1025GiB"], "--memory: '1025GiB': at most 1099511627776 bytes"),
        (["--seed", "kitchen:0"], "--seed: 'kitchen:0': expected the port of a peer, from 1 to 65535"),
        (["--data-dir", "~nobody-of-this-name/x"], "nobody knows the home directory of ~nobody-of-this-name"),
        (["--config", "/nowhere.toml"], "--config /nowhere.toml: No such file or directory"),
    ],
)
def test_a_wrong_flag_is_named_with_its_limit(flags: list[str], complaint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        load(flags, {})
    assert str(caught.value).endswith(complaint)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(InvalidValue, match="EDGECACHE_LISTEN: 'here': expected HOST:PORT"):
        load([], {"EDGECACHE_LISTEN": "here"})


def test_the_peer_port_follows_the_http_port_unless_it_is_taken() -> None:
    assert Config().peer_candidates(7440) == [("127.0.0.1", 7441), ("127.0.0.1", 0)]
    assert Config(listen=("0.0.0.0", 0)).peer_candidates(50000) == [("0.0.0.0", 0)]
    assert Config(peer_listen=("10.0.0.1", 9)).peer_candidates(7440) == [("10.0.0.1", 9)]


def test_the_default_memory_is_a_quarter_of_something() -> None:
    assert 1024**2 <= default_memory_bytes() < 1024**5


def test_maps_from_old_features_are_files(tmp_path: Path) -> None:
    assert load(["--convert", "a.safetensors", "--convert", "b.safetensors"], {}).conversions == (
        Path("a.safetensors"), Path("b.safetensors")
    )  # fmt: skip
    assert load([], {"EDGECACHE_CONVERT": f"a{os.pathsep}b"}).conversions == (Path("a"), Path("b"))
    file = tmp_path / "node.toml"
    file.write_text('convert = ["~/a"]\n')
    assert load(["--config", str(file)], {}).conversions == (Path.home() / "a",)
    file.write_text("convert = 1\n")
    with pytest.raises(InvalidValue, match="expected a list of files"):
        load(["--config", str(file)], {})


def test_energy_is_three_prices() -> None:
    assert load(["--energy", "0.1,1e-6,2.4"], {}).energy == Prices(0.1, 1e-6, 2.4)
    assert load([], {}).energy == ONLY_TIME
