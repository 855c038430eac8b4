from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from adapters.artifact import inspect_artifact
from adapters.errors import StoreDamaged, StoreFull
from adapters.store import store as store_module
from adapters.store.store import Store, StoredArtifact
from tests.unit.adapters.building import BASE, make_tensors, write_adapter


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, seed: int = 0) -> StoredArtifact:
    with store.staging() as staging:
        write_adapter(staging.files, make_tensors(seed=seed))
        report = inspect_artifact(staging.files, base=BASE, max_lora_rank=16)
        artifact = store.seal(staging, report.config)
        assert not store.path(artifact.digest).exists() or seed == 0
        store.publish(staging, artifact)
    return artifact


def tree(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*")}


def test_an_artifact_is_found_by_its_digest_and_is_read_only(store: Store, tmp_path: Path) -> None:
    artifact = put(store)
    folder = store.require(artifact.digest)
    assert folder == tmp_path / "store" / "sha256" / artifact.digest
    assert tree(folder) == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    assert artifact.size_bytes == (folder / "adapter_model.safetensors").stat().st_size
    assert not any(path.stat().st_mode & 0o222 for path in (folder, *folder.iterdir()))
    assert not tree(tmp_path / "store" / "staging")
    inspect_artifact(folder, base=BASE, max_lora_rank=16)  # what is stored is what was checked


def test_the_same_adapter_has_the_same_digest_wherever_it_comes_from(store: Store) -> None:
    first, again, other = put(store), put(store), put(store, seed=1)
    assert first == again
    assert first.digest != other.digest
    assert store.check({first.digest, other.digest}, deep=True) == ()


def test_nothing_is_left_when_staging_ends_early(store: Store, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), store.staging() as staging:
        write_adapter(staging.files)
        raise KeyboardInterrupt
    assert tree(tmp_path / "store") == {"sha256", "staging"}


@pytest.mark.parametrize(
    ("damage", "quick"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), True),
        (lambda folder: os.truncate(folder / "adapter_model.safetensors", 100), True),
        (lambda folder: (folder / "manifest.json").write_text("{}"), True),
        (lambda folder: _flip_a_byte(folder / "adapter_model.safetensors"), False),
        (lambda folder: _flip_a_byte(folder / "adapter_config.json"), False),
    ],
    ids=["file gone", "truncated", "manifest", "weights", "config"],
)
def test_damage_is_found_and_mended_by_adding_again(
    store: Store, damage: Callable[[Path], None], quick: bool
) -> None:
    artifact = put(store)
    folder = store.path(artifact.digest)
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    damage(folder)
    assert store.check([artifact.digest], deep=True) == (artifact.digest,)
    assert store.check([artifact.digest]) == ((artifact.digest,) if quick else ())
    if quick:
        with pytest.raises(StoreDamaged, match="missing or damaged; add the adapter again"):
            store.require(artifact.digest)
    put(store)
    assert store.check([artifact.digest], deep=True) == ()


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_garbage_is_what_nothing_needs_and_is_old_enough(store: Store, tmp_path: Path) -> None:
    kept, gone = put(store, 1), put(store, 2)
    assert store.collect_garbage({kept.digest}) == ()  # too young
    assert store.collect_garbage({kept.digest}, min_age_s=0) == (gone.digest,)
    assert store.check([kept.digest], deep=True) == ()
    os.utime(store.path(kept.digest), (0, 0))
    put(store, 0)
    again = put(store, 0)
    os.utime(store.path(again.digest), (0, 0))
    put(store, 0)  # published again: young again
    assert store.collect_garbage(()) == (kept.digest,)
    interrupted = tmp_path / "store" / "sha256" / f".gone-{gone.digest}"
    interrupted.mkdir()
    os.utime(interrupted, (0, 0))
    assert store.collect_garbage({again.digest}) == (gone.digest,)
    assert not interrupted.exists()


@pytest.mark.parametrize("newest_first", [False, True])
def test_garbage_whose_earlier_removal_was_interrupted_goes_with_what_was_left_of_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest_first: bool
) -> None:
    digest = put(store).digest
    (tmp_path / "store" / "sha256" / f".gone-{digest}").mkdir()
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(listed(path), reverse=newest_first)))
    assert store.collect_garbage((), min_age_s=0) == (digest,)
    assert tree(tmp_path / "store") == {"sha256", "staging"}
    assert store.collect_garbage((), min_age_s=0) == ()


def test_what_is_left_of_an_interrupted_removal_goes_though_the_artifact_is_needed_again(
    store: Store, tmp_path: Path
) -> None:
    digest = put(store).digest
    left = tmp_path / "store" / "sha256" / f".gone-{digest}"
    left.mkdir()
    assert store.collect_garbage({digest}) == () and left.exists(), "it may be in removal now"
    os.utime(left, (0, 0))
    assert store.collect_garbage({digest}) == ()
    assert not left.exists()
    assert store.check([digest], deep=True) == ()


def test_a_full_disk_is_told_and_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("write_file", "sync_file", "sync_folder"):

        def full(*args: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret")

        with monkeypatch.context() as patch:
            patch.setattr(store_module, name, full)
            with pytest.raises(StoreFull, match="disk that holds the adapter store is full") as caught:
                put(store)
            assert "/secret" not in str(caught.value)
        assert tree(tmp_path / "store") == {"sha256", "staging"}


def test_a_really_full_disk(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("a small file system can be mounted by root only; the test before this one fakes it")
    try:
        small = Store(mount)
        with pytest.raises(StoreFull), small.staging() as staging:
            (staging.files / "adapter_model.safetensors").write_bytes(b"x" * 200_000)
        assert tree(mount) == {"sha256", "staging"}
    finally:
        subprocess.run(["umount", mount], check=True)


def test_staging_of_dead_processes_is_cleaned_and_of_living_ones_kept(store: Store, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from adapters.store.store import Store\n"
        "with Store(Path(sys.argv[1])).staging() as s:\n"
        "    (s.files / 'x').write_text('half'); print(flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, tmp_path / "store"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with store.staging() as mine:
        assert store.clean_staging() == 0
        child.kill()
        child.wait()
        assert store.clean_staging() == 1
        assert mine.files.exists()
    assert tree(tmp_path / "store") == {"sha256", "staging"}


def test_what_is_stored_is_the_same_text_in_every_release(store: Store) -> None:
    """Digests stand in databases: with another byte in these files none would be found again."""
    with store.staging() as staging:
        (staging.files / "adapter_model.safetensors").write_bytes(b"weights")
        artifact = store.seal(staging, {"r": 4, "alpha": 8, "name": "é"})
        folder = store.publish(staging, artifact)
    config = '{\n "alpha": 8,\n "name": "\\u00e9",\n "r": 4\n}\n'
    assert (folder / "adapter_config.json").read_text() == config
    sizes = {"adapter_config.json": len(config), "adapter_model.safetensors": 7}
    files = ",\n".join(
        f'  "{name}": {{\n   "sha256": "{sha256((folder / name).read_bytes()).hexdigest()}",\n'
        f'   "size_bytes": {size}\n  }}'
        for name, size in sizes.items()
    )
    manifest = f'{{\n "files": {{\n{files}\n }},\n "format": 1\n}}\n'
    assert (folder / "manifest.json").read_text() == manifest
    assert artifact == StoredArtifact(sha256(manifest.encode()).hexdigest(), 7)
    assert [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())] == [0o555, *[0o444] * 3]


def test_what_a_deep_check_finds_is_remembered_until_it_is_added_again(store: Store) -> None:
    one, other = put(store).digest, put(store, 1).digest
    for digest in (one, other):
        file = store.path(digest) / "adapter_config.json"
        file.chmod(0o644)
        _flip_a_byte(file)
        store.require(digest)  # reads no content
        assert store.check([digest], deep=True) == (digest,)
    assert store.damaged == {one, other}
    assert store.check([one]) == () and store.damaged == {one, other}
    with pytest.raises(StoreDamaged, match=rf"artifact {one[:12]} is missing"):
        store.require(one)
    put(store)
    store.require(one)
    assert store.damaged == {other}
    _flip_a_byte(store.path(other) / "adapter_config.json")
    assert store.check([other], deep=True) == () and store.damaged == set()


def test_everything_is_on_the_disk_before_it_is_visible(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    put(store)
    sealed = ["adapter_model.safetensors", "adapter_config.json", "manifest.json", "sealed"]
    assert synced == [*sealed, "sha256"]


def test_a_removal_that_was_interrupted_stands_in_nobodys_way(store: Store, tmp_path: Path) -> None:
    artifact = put(store)
    (tmp_path / "store" / "sha256" / f".gone-{artifact.digest}").mkdir()
    folder = store.path(artifact.digest)
    folder.chmod(0o755)
    (folder / "manifest.json").unlink()
    put(store)
    assert store.check([artifact.digest], deep=True) == ()
    assert [path.name for path in folder.parent.iterdir()] == [artifact.digest]


def test_the_youngest_garbage_is_exactly_as_old_as_the_grace(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store).digest
    os.utime(store.path(digest), (100, 100))
    monkeypatch.setattr(store_module.time, "time", lambda: 160.0)
    assert store.collect_garbage((), min_age_s=60.5) == ()
    assert store.collect_garbage((), min_age_s=60) == (digest,)


def test_what_several_dead_processes_left_is_counted(store: Store, tmp_path: Path) -> None:
    staging = tmp_path / "store" / "staging"
    for name in ("one", "two"):
        (staging / name).mkdir()
    for name in ("one", "two", "died-before-it-made-a-folder"):
        (staging / f"{name}.lock").touch()
    (staging / "removed-meanwhile.lock").symlink_to("nowhere")
    assert store.clean_staging() == 3
    assert tree(staging) == {"removed-meanwhile.lock"}
