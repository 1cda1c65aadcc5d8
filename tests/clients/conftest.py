"""A kmsd of its own on a SoftHSM token of its own, and the public clients pointed at it.

A client gets three things and nothing else: the endpoint, the CA file and an access key.
"""

import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile

import boto3
import botocore.config
import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.http.http_config import HttpConfig
from huaweicloudsdkkms.v2 import KmsClient

ROOT = pathlib.Path(__file__).resolve().parents[2]
REGION = "eu-test-1"
# Few, so that a test can take all of them.
CONNECTIONS = 64
PROJECT = "0123456789abcdef0123456789abcdef"


def program(name):
    """The program under test: $ECS_TEST_BIN, else what cargo built last."""
    places = [os.environ.get("ECS_TEST_BIN"), ROOT / "target/release", ROOT / "target/debug"]
    found = [path for place in places if place and (path := pathlib.Path(place) / name).exists()]
    assert found, f"{name} is not built: cargo build -p {name}"
    return found[0]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Installation:
    """kmsd, its token and its files in one directory. `proxied`: before the token stands the module that obeys `order`."""

    def __init__(self, directory, proxied=False):
        self.dir = pathlib.Path(directory)
        self.home = self.dir / "kmsd"
        self.socket = self.dir / "run/kmsd.sock"
        self.socket.parent.mkdir(mode=0o700)
        token = self.dir / "token"
        subprocess.run([ROOT / "softhsm-config/make-token.sh", token, "clients"], check=True, capture_output=True)
        self.env = {**os.environ, "SOFTHSM2_CONF": str(token / "softhsm2.conf")}
        self.port = free_port()
        module = next(path for pattern in ("softhsm", "*/softhsm") for path in
                      pathlib.Path("/usr/lib").glob(f"{pattern}/libsofthsm2.so"))
        self.control = self.dir / "proxy"
        if proxied:
            self.env |= {"PKCS11_PROXY_MODULE": str(module), "PKCS11_PROXY_CONTROL": str(self.control)}
            self.order("")
            module = os.environ["ECS_TEST_PROXY"]
        self.run("init", "--module", module, "--token-label", "clients", "--pin-file", token / "pin",
                 "--socket", self.socket, "--listen", f"127.0.0.1:{self.port}", "--home", self.home)
        self.set_limit("connections", CONNECTIONS)
        self.process = None
        self.start()
        self.admin = self.access_key("admin", admin=True)

    def order(self, orders):
        """New orders for the module before the token; tests/pkcs11-proxy/src/lib.rs lists them."""
        new = self.control.with_suffix(".new")
        new.write_text(orders)
        new.rename(self.control)

    def set_limit(self, name, value):
        """For the next start."""
        config = self.home / "kmsd.toml"
        text, replaced = re.subn(rf"^{name} = \d+$", f"{name} = {value}", config.read_text(), flags=re.M)
        assert replaced == 1, text
        config.write_text(text)

    def run(self, *arguments):
        done = subprocess.run([program("kmsd"), *arguments], env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self):
        read, write = os.pipe()
        with open(self.dir / "kmsd.log", "ab") as log:
            self.process = subprocess.Popen(
                [program("kmsd"), "serve", "--home", self.home, "--ready-fd", str(write)],
                env=self.env, pass_fds=[write], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        os.close(write)
        with open(read, encoding="ascii") as ready:
            line = ready.readline()
        assert line == "ready\n", self.log()

    def stop(self):
        self.process.terminate()
        assert self.process.wait(30) == 0, self.log()

    def kill(self):
        """Ends it if it still runs."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log(self):
        return (self.dir / "kmsd.log").read_text()

    @property
    def endpoint(self):
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self):
        return str(self.home / "tls/ca.pem")

    def local(self, method, path, body=None):
        """A request on the Unix socket, as the user who runs the tests."""
        connection = UnixConnection(self.socket)
        connection.request(method, path, None if body is None else json.dumps(body),
                           {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
        return reply.status, json.loads(text) if text else None

    def access_key(self, description, admin=False):
        status, made = self.local("POST", "/kmsd/v1/access-keys", {"description": description, "admin": admin})
        assert status == 200, made
        return made["access_key_id"], made["secret_access_key"]

    def boto(self, access_key=None, **options):
        """boto3's client."""
        key, secret = access_key or self.admin
        config = botocore.config.Config(retries={"total_max_attempts": 1}, **options)
        return boto3.client("kms", endpoint_url=self.endpoint, verify=self.ca, region_name=REGION,
                            aws_access_key_id=key, aws_secret_access_key=secret, config=config)

    def huawei(self, access_key=None):
        """The Huawei Cloud SDK's client."""
        key, secret = access_key or self.admin
        config = HttpConfig.get_default_config()
        config.ssl_ca_cert = self.ca
        return (KmsClient.new_builder().with_http_config(config).with_endpoint(self.endpoint)
                .with_credentials(BasicCredentials(key, secret, PROJECT)).build())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def kmsd():
    directory = tempfile.mkdtemp(prefix="kmsd-clients.", dir=os.environ.get("ECS_TEST_RUN_DIR"))
    installation = None
    try:
        installation = Installation(directory)
        yield installation
        installation.stop()
    finally:
        if installation:
            installation.kill()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def kms(kmsd):
    """boto3 with an administrator's access key."""
    return kmsd.boto()


@pytest.fixture(scope="session")
def huawei(kmsd):
    """The Huawei Cloud SDK with an administrator's access key."""
    return kmsd.huawei()


@pytest.fixture
def key_id(kms):
    """A new key."""
    return kms.create_key()["KeyMetadata"]["KeyId"]
