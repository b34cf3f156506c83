"""The mount that holds a path decides; what other machines share is told from what is local."""

from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from igkd_search import filesystems

Mount = namedtuple("Mount", "mountpoint fstype")


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A tree in which folders are mounts of several kinds."""
    root = tmp_path.resolve()
    for name in ("home/me/fast", "home/you", "homely", "old"):
        (root / name).mkdir(parents=True)
    found = [
        Mount("/", "ext4"),
        Mount(f"{root}/home", "nfs4"),
        Mount(f"{root}/home/me/fast", "xfs"),
        Mount(f"{root}/old", "autofs"),
        Mount(f"{root}/old", "fuse.sshfs"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    return root


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("home/you/igkd.db", "nfs4"),
        ("home", "nfs4"),
        ("home/me/not/there/yet/igkd.db", "nfs4"),
        ("home/me/fast/igkd.db", "xfs"),
        ("homely/igkd.db", "ext4"),  # a name that begins alike is no folder below
        ("old/igkd.db", "fuse.sshfs"),  # what is mounted over another hides it
    ],
)
def test_the_innermost_mount_counts(mounts: Path, path: str, kind: str) -> None:
    assert filesystems.kind_of(mounts / path) == kind


def test_a_link_counts_as_what_it_leads_to(mounts: Path) -> None:
    (mounts / "homely" / "link").symlink_to(mounts / "home" / "you")
    assert filesystems.kind_of(mounts / "homely" / "link" / "igkd.db") == "nfs4"


def test_a_relative_path_is_one_below_here(mounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mounts / "home" / "you")
    assert filesystems.kind_of(Path("storage/igkd.db")) == "nfs4"


def test_a_system_that_does_not_tell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(all: bool) -> None:
        raise PermissionError("/proc/self/mounts")

    monkeypatch.setattr(psutil, "disk_partitions", refuse)
    assert filesystems.kind_of(Path("/")) == filesystems.UNKNOWN
    assert not filesystems.is_network(filesystems.UNKNOWN)


def test_this_machine_tells() -> None:
    assert filesystems.kind_of(Path("/proc/self")) == "proc"
    assert filesystems.kind_of(Path(__file__)) not in ("proc", filesystems.UNKNOWN)


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "NFS4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "vboxsf"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"),
    ],
)
def test_what_machines_share_is_a_network(kind: str) -> None:
    assert filesystems.is_network(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *("ext4", "xfs", "btrfs", "zfs", "apfs", "overlay", "tmpfs", "fuse", "fuseblk"),
        *("fuse.ntfs-3g", "9p", "virtiofs", "", "unknown"),
    ],
)
def test_a_disk_of_this_machine_is_none(kind: str) -> None:
    assert not filesystems.is_network(kind)


def test_what_can_be_written_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert filesystems.refusal(tmp_path) is None
    assert filesystems.refusal(tmp_path / "file") is None
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    # not even a superuser writes there
    assert filesystems.refusal(Path("/proc")) is not None
    assert filesystems.refusal(tmp_path / "none" / "file") == "No such file or directory"
