"""cluster.toml: what it may say, and the sentence for what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.cluster.ray_cluster.cluster_file import read_cluster_file
from server.errors import SettingsError

ROOT = Path(__file__).parents[5]
SERVER = """
[server]
model = "m"
database_url = "postgresql+asyncpg://loragate@db/loragate"
depot = "s3://b/a"
"""
HEAD = 'replicas = 3\ndata_dir = "/d"\n'


def read(folder: Path, text: str) -> str:
    """The sentence of the refusal."""
    file = folder / "cluster.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        read_cluster_file(file)
    assert str(file) in str(refused.value)
    return str(refused.value)


def test_the_example_is_complete() -> None:
    file = read_cluster_file(ROOT / "deploy/ray/cluster.toml")
    assert file.replicas and file.server["depot"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "data_dir"),
        ("x", "is not TOML"),
        (HEAD + "replica = 1" + SERVER, "replica: Extra inputs"),
        ('data_dir = "/d"' + SERVER, "give either replicas or the table [autoscaling]"),
        (HEAD + "[autoscaling]\nmax_replicas = 2" + SERVER, "give either replicas or"),
        ('data_dir = "/d"\n[autoscaling]\nmin_replicas = 3\nmax_replicas = 2' + SERVER, "min_replicas 3 is above"),
        ('data_dir = "/d"\n[autoscaling]\nmax_replicas = 2\nkv_use_after = 0.9' + SERVER, "must be below kv_use"),
        ('replicas = 3\ndata_dir = "d"' + SERVER, "must begin with /"),
        ("replicas = 0\ndata_dir = '/d'" + SERVER, "replicas: Input should be greater than or equal to 1"),
        (HEAD + SERVER.replace("model", "modell"), "server.modell is not a setting. Did you mean model?"),
        (HEAD + SERVER + "port = 1", "the cluster decides it"),
        (HEAD + SERVER + 'sign_in_client_secret = "s"', "LORAGATE_SIGN_IN_CLIENT_SECRET_FILE on the machines"),
        (HEAD + SERVER.replace("loragate@", "loragate:pw@"), "set PGPASSWORD on the machines"),
        (HEAD + SERVER.replace("postgresql+asyncpg:", "sqlite+aiosqlite:"), "must name a PostgreSQL"),
        (HEAD + '[server]\nmodel = "m"', "must name a PostgreSQL"),
        (HEAD + SERVER.replace("depot", "served_model_name"), "server.depot is missing"),
    ],
)  # fmt: skip
def test_what_it_may_not_say(text: str, said: str, tmp_path: Path) -> None:
    sentence = read(tmp_path, text)
    assert said in sentence and ":pw@" not in sentence


def test_settings_that_servers_would_refuse_are_refused_here(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(HEAD + SERVER + "max_loras = 8\nmax_cpu_loras = 4", encoding="utf-8")
    with pytest.raises(SettingsError, match="--max-cpu-loras 4 is below --max-loras 8"):
        read_cluster_file(file)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_cluster_file(tmp_path / "none.toml")
