"""Which kind of file system a path lies on, and whether other machines share it.

SQLite relies on locks and on memory that its processes share through a file. Network file systems
keep neither promise between hosts, and the locks not always on one.

9p and virtiofs do not count as network: a virtual machine may have no other disk than one its host
lends by them, and the workers in it run under one kernel, which is all that SQLite asks for.
"""

import os
import tempfile
from pathlib import Path

import psutil

UNKNOWN = "unknown"
_NETWORK = {
    *("nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "webdav", "ncpfs", "afs", "coda"),
    *("lustre", "gpfs", "beegfs", "fhgfs", "ceph", "glusterfs", "panfs", "pvfs2", "orangefs"),
    *("wekafs", "gfs2", "ocfs2"),
    # folders that a virtual machine shares with its host, beside a disk of its own
    *("vboxsf", "vmhgfs", "prl_fs"),
}
_NETWORK_BY_FUSE = {
    *("sshfs", "glusterfs", "ceph", "ceph-fuse", "beegfs", "juicefs", "mfs", "moosefs", "davfs"),
    *("s3fs", "goofys", "rclone", "mount-s3", "mountpoint-s3", "gcsfuse", "blobfuse", "blobfuse2"),
    *("curlftpfs", "smbnetfs", "vmhgfs-fuse", "seaweedfs", "lizardfs"),
}


def kind_of(path: Path) -> str:
    """The kind of file system, as mount names it (ext4, nfs4, fuse.sshfs), that holds the path.

    A path that is not there yet counts as its nearest parent that is; "unknown" where the system
    does not tell.
    """
    place = standing(path).resolve()
    found, depth = UNKNOWN, -1
    try:
        mounted = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return UNKNOWN
    for mount in mounted:
        point = Path(mount.mountpoint)
        # of several mounts on one point the last hides the others
        if place.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = mount.fstype or UNKNOWN, len(point.parts)
    return found


def is_network(kind: str) -> bool:
    """Whether a kind of file system is one that several machines share over a network."""
    system, _, by_fuse = kind.lower().partition(".")
    return system in _NETWORK or (system == "fuse" and by_fuse in _NETWORK_BY_FUSE)


def refusal(path: Path) -> str | None:
    """Why a file cannot be written, or no file be made in a folder; None when it can. By trying."""
    try:
        if path.is_dir():
            tempfile.TemporaryFile(dir=path).close()
        else:
            path.open("r+b").close()
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def standing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    places = [path.absolute(), *path.absolute().parents]
    # os.path, since Path.exists raises below a folder that may not be searched
    return next(place for place in places if os.path.exists(place))
