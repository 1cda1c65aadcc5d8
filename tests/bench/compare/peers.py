"""What is measured: our disk, our plain-FUSE mode, the raw file, and every other program that shows an encrypted store as a file.

Each peer puts its store into a directory of its own, mounts it, and names one file of the asked size that shows a plain disk.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path


class Unavailable(Exception):
    """The peer's programs are not installed."""


def run(*command, **options):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if result.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {(result.stderr or result.stdout).strip()}")
    return result.stdout


def unmount(path):
    for command in (["fusermount3", "-u"], ["umount"], ["umount", "-l"]):
        if subprocess.run([*command, str(path)], capture_output=True).returncode == 0:
            return


def wait_until(what, condition, process=None, seconds=20):
    """Other people's daemons have no common way of saying that they are ready: looks until the mount is there."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what}: ended with {process.returncode}")
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not ready after {seconds} s")
        time.sleep(0.02)


def processes_with(text):
    """Those with this text in their command line."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(text).encode() in line.read_bytes() and int(line.parent.name) != os.getpid():
                found.append(line.parent.name)
        except OSError:
            pass
    return found


class Peer:
    """A store under `dir`; start() returns the path of the disk file."""

    name = ""
    needs = ()
    kind = "peer"           # "peer", "ours", "plain" or "limit"

    def __init__(self, dir, size, settings):
        self.dir, self.size, self.settings = dir, size, settings
        self.process = None
        missing = [program for program in self.needs if shutil.which(program) is None]
        if missing:
            raise Unavailable(f"not installed: {', '.join(missing)}")

    def start(self):
        raise NotImplementedError

    def stop(self):
        pass

    def version(self):
        if not self.needs:
            return ""
        result = subprocess.run([self.needs[0], "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return ((result.stdout or result.stderr).strip().splitlines() or [""])[0]

    def spawn(self, *command):
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self.process

    def end_process(self):
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def password_file(self):
        path = self.dir / "password"
        path.write_text("password")
        return path


class RawFile(Peer):
    name, kind = "raw file", "limit"

    def start(self):
        disk = self.dir / "disk"
        with open(disk, "wb") as file:
            file.truncate(self.size)
        return disk


class FileSystemPeer(Peer):
    """A peer that encrypts a directory: the disk is one file in it."""

    def start(self):
        store, self.mount = self.dir / "store", self.dir / "mnt"
        store.mkdir()
        self.mount.mkdir()
        self.open(store)
        wait_until(self.name, self.mount.is_mount, self.process)
        return self.mount / "disk"

    def open(self, store):
        raise NotImplementedError

    def stop(self):
        unmount(self.mount)
        self.end_process()
        # Some daemons go on writing to their store after the mount is gone.
        wait_until(f"{self.name}: end", lambda: not processes_with(self.dir))


class Gocryptfs(FileSystemPeer):
    name, needs = "gocryptfs", ("gocryptfs",)

    def open(self, store):
        password = self.password_file()
        run("gocryptfs", "-q", "-init", "-passfile", password, store)
        run("gocryptfs", "-q", "-passfile", password, store, self.mount)


class Securefs(FileSystemPeer):
    name, needs = "securefs", ("securefs",)

    def open(self, store):
        run("securefs", "create", "--pass", "password", store)
        self.spawn("securefs", "mount", "--pass", "password", store, self.mount)


class Encfs(FileSystemPeer):
    name, needs = "encfs", ("encfs",)

    def open(self, store):
        run("encfs", "-S", "--standard", store, self.mount, input="password\n")


class Cryfs(FileSystemPeer):
    name, needs = "cryfs", ("cryfs",)

    def open(self, store):
        environment = dict(os.environ, CRYFS_FRONTEND="noninteractive", CRYFS_NO_UPDATE_CHECK="true", HOME=str(self.dir))
        run("cryfs", store, self.mount, input="password\n", env=environment)


class LuksPeer(Peer):
    """A peer that shows a LUKS image as one mounted file."""

    def image(self):
        password, image = self.password_file(), self.dir / "disk.luks"
        run("qemu-img", "create", "-q", "--object", f"secret,id=s,file={password}", "-f", "luks",
            "-o", "key-secret=s,iter-time=10", image, self.size)
        return password, image

    def shown(self):
        self.disk = self.dir / "disk"
        self.disk.touch()
        return self.disk

    def ready(self):
        wait_until(self.name, lambda: self.disk.stat().st_size == self.size, self.process)
        return self.disk

    def stop(self):
        unmount(self.disk)
        self.end_process()


class QemuLuks(LuksPeer):
    name, needs = "qemu-storage-daemon, LUKS", ("qemu-storage-daemon", "qemu-img")

    def start(self):
        password, image = self.image()
        disk = self.shown()
        self.spawn("qemu-storage-daemon", "--object", f"secret,id=s,file={password}",
                   "--blockdev", f"file,node-name=f,filename={image}", "--blockdev", "luks,node-name=l,file=f,key-secret=s",
                   "--export", f"fuse,id=e,node-name=l,mountpoint={disk},writable=on")
        return self.ready()


class NbdkitLuks(LuksPeer):
    name, needs = "nbdkit, LUKS, nbdfuse", ("nbdkit", "nbdfuse", "qemu-img")

    def start(self):
        password, image = self.image()
        socket = self.dir / "socket"
        self.server = self.spawn("nbdkit", "-f", "-U", socket, "--filter=luks", "file", image, f"passphrase=+{password}")
        wait_until("nbdkit", socket.exists, self.server)
        disk = self.shown()
        self.spawn("nbdfuse", disk, f"nbd+unix:///?socket={socket}")
        return self.ready()

    def stop(self):
        super().stop()
        self.process = self.server
        self.end_process()


class KeyService:
    """A private token and a kmsd for our own disks."""

    def __init__(self, dir, settings):
        self.dir, self.bin, repository = dir, settings.bin, settings.repository
        run(repository / "softhsm-config" / "make-token.sh", dir / "token", "bench")
        (dir / "run").mkdir(mode=0o700)
        self.environment = dict(os.environ, SOFTHSM2_CONF=str(dir / "token" / "softhsm2.conf"), KMSD_HOME=str(dir / "kmsd"),
                                KMSD_SOCKET=str(dir / "run" / "kmsd.sock"))
        module = run("bash", "-c", f". {repository}/softhsm-config/packages.sh; softhsm_module").strip()
        run(self.bin / "kmsd", "init", "--module", module, "--token-label", "bench", "--pin-file", dir / "token" / "pin",
            env=self.environment)
        ready, writer = os.pipe()
        self.process = subprocess.Popen([str(self.bin / "kmsd"), "serve", "--ready-fd", str(writer)], env=self.environment,
                                        pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=open(dir / "kmsd.log", "wb"))
        os.close(writer)
        with os.fdopen(ready) as pipe:
            line = pipe.readline().strip()
        if line != "ready":
            raise RuntimeError("kmsd did not start: " + (dir / "kmsd.log").read_text())

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


class Evsfs(Peer):
    name, kind = "evsfs", "ours"
    mount_options = ()

    def start(self):
        program = self.settings.bin / "evsfs"
        self.key_service = KeyService(self.dir, self.settings)
        self.environment = self.key_service.environment
        volume, self.mount = self.dir / "volume.evs", self.dir / "mnt"
        self.mount.mkdir()
        run(program, "create", volume, "--size", self.size, "--key", "evs/default", env=self.environment)
        mounted = json.loads(run(program, "mount", volume, self.mount, "--json", *self.mount_options, env=self.environment))
        return Path(mounted["path"])

    def stop(self):
        run(self.settings.bin / "evsfs", "umount", self.mount, env=self.environment)
        self.key_service.stop()

    def version(self):
        return run(self.settings.bin / "evsfs", "--version").strip()


class PlainFuse(Peer):
    name, kind = "evsfs --raw (no encryption)", "plain"

    def start(self):
        disk, self.mount = self.dir / "disk.raw", self.dir / "mnt"
        self.mount.mkdir()
        with open(disk, "wb") as file:
            file.truncate(self.size)
        mounted = json.loads(run(self.settings.bin / "evsfs", "mount", "--raw", disk, self.mount, "--json"))
        return Path(mounted["path"])

    def stop(self):
        run(self.settings.bin / "evsfs", "umount", self.mount)


PEERS = (RawFile, PlainFuse, Evsfs, Securefs, Gocryptfs, NbdkitLuks, QemuLuks, Encfs, Cryfs)
