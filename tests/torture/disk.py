"""A file system on a disk that can lose its power: image <- nbdkit (cut_disk.py) <- nbdfuse <- loop device <- mount."""
import contextlib
import mmap
import os
import shutil
import socket
import struct
import subprocess
import time

import harness

HERE = os.path.dirname(os.path.abspath(__file__))
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
        "xfs": ["mkfs.xfs", "-q", "-f", "-K"], "btrfs": ["mkfs.btrfs", "-q", "-f", "-K"]}


def why_not():
    """None, or why this machine cannot do it."""
    if os.geteuid() != 0:
        return "loop devices and mounts need root"
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(path):
            return f"there is no {path}"
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/fuse", os.O_RDWR))
        done = subprocess.run(["losetup", "-f"], capture_output=True, text=True)
        return None if done.returncode == 0 else "no free loop device: " + done.stderr.strip()
    return "/dev/fuse cannot be opened"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


def quietly(*command):
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


class Disk:
    def __init__(self, folder, filesystem="ext4", megabytes=1536):
        self.folder, self.filesystem = folder, filesystem
        self.image, self.socket = os.path.join(folder, "image"), os.path.join(folder, "nbd.sock")
        self.fuse, self.mount = os.path.join(folder, "fuse"), os.path.join(folder, "mnt")
        for path in (self.fuse, self.mount):
            os.makedirs(path)
        with open(self.image, "wb") as f:
            f.truncate(megabytes << 20)
        run(*MKFS[filesystem], self.image)
        switch = os.path.join(folder, "switch")
        with open(switch, "wb") as f:
            f.write(bytes(4096))
        self.switch_path = switch
        with open(switch, "r+b") as f:
            self.switch = mmap.mmap(f.fileno(), 4096)
        self.server = self.bridge = self.loop = None
        self.mounted = False

    def attach(self, keep=0.5, seed=1):
        """Mounts it: the journal's recovery happens here."""
        struct.pack_into("=qqqq", self.switch, 0, 0, 0, 0, 0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        with open(os.path.join(self.folder, "nbd.err"), "ab") as errors:
            self.server = subprocess.Popen(["nbdkit", "-f", "-U", self.socket, "python", os.path.join(HERE, "cut_disk.py"),
                                            "image=" + self.image, "switch=" + self.switch_path, f"keep={keep}", f"seed={seed}"],
                                           stdin=subprocess.DEVNULL, stderr=errors)
            harness.wait_for(lambda: self._listens() or self._dead(self.server), 20, 0.01)
            file = os.path.join(self.fuse, "disk")
            self.bridge = subprocess.Popen(["nbdfuse", file, "--unix", self.socket], stdin=subprocess.DEVNULL, stderr=errors)
        harness.wait_for(lambda: os.path.exists(file) or self._dead(self.bridge), 20, 0.01)
        self.loop = run("losetup", "--show", "-f", file)
        run("mount", "-t", self.filesystem, self.loop, self.mount)
        self.mounted = True

    def _listens(self):
        """The socket is there a moment before somebody listens."""
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(self.socket)
            except OSError:
                return False
        return True

    def _dead(self, process):
        assert process.poll() is None, f"{process.args[0]} ended: " + open(os.path.join(self.folder, "nbd.err"), errors="replace").read()[-2000:]

    def arm(self, requests):
        """The power goes at that write or flush from now."""
        struct.pack_into("=q", self.switch, 0, requests)

    def is_off(self):
        return self.server.poll() is not None

    def wait_off(self, seconds, poll=0.002):
        end = time.monotonic() + seconds
        while not self.is_off():
            if time.monotonic() > end:
                return False
            time.sleep(poll)
        return True

    def off_now(self):
        """Without waiting for a write."""
        struct.pack_into("=q", self.switch, 0, -1)
        with contextlib.suppress(OSError):
            fd = os.open(os.path.join(self.fuse, "disk"), os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.pread(fd, 4096, os.fstat(fd).st_size - (1 << 20))
            finally:
                os.close(fd)
        if not self.wait_off(5):
            self.server.kill()
            self.server.wait(10)

    def survived(self):
        """(sectors that survived, of how many that were not flushed)."""
        return struct.unpack_from("=qq", self.switch, 16)

    def detach(self):
        """Takes everything down, in whatever state it is. In order (nothing lost) when the power is still on."""
        if self.mounted:
            quietly("umount", self.mount) or quietly("umount", "-l", self.mount)
            self.mounted = False
        if self.loop is not None:
            quietly("losetup", "-d", self.loop)
            for _ in range(250):  # it goes when its last user goes
                if not quietly("losetup", self.loop):
                    break
                time.sleep(0.02)
            self.loop = None
        if self.bridge is not None:
            quietly("umount", self.fuse) or quietly("umount", "-l", self.fuse)
            self._end(self.bridge)
            self.bridge = None
        if self.server is not None:
            self._end(self.server)
            self.server = None

    @staticmethod
    def _end(process):
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def remove(self):
        self.detach()
        self.switch.close()
        shutil.rmtree(self.fuse, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.remove()
