"""A real Kubernetes control plane for tests: etcd and kube-apiserver on loopback, in a folder of their own.

    with ControlPlane() as plane:
        plane.kubectl("get", "namespaces")

There is no node, so pods stay pending; without `controller_manager=True` nothing collects garbage and a deleted
namespace stays. It reads no setting of the user's (kubeconfig, proxy, etcd variables). Called by the fixtures of the
operator and chart tests, and by `python -m tests.support.kubernetes build`, which builds the programs beforehand.
"""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import urlopen

from tests.support.kubernetes_audit import POLICY, AuditEntry, read_audit_log
from tests.support.kubernetes_certificates import make_certificates, write_kubeconfig
from tests.support.kubernetes_programs import ProgramsError, cluster_binary, program_command
from tests.support.ports import free_ports

__all__ = ["Answer", "AuditEntry", "ControlPlane", "ControlPlaneError", "ProgramsError", "cluster_binary"]

READY_TIMEOUT = 90.0
COMMAND_TIMEOUT = 180.0
# Enough for owned objects, namespaces, service accounts and the pods of Deployments, and little work when idle.
CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "deployment-controller",
    "replicaset-controller",
)
# Reads until the test process is gone, however it went, then kills the servers' process group and removes the folder.
WATCHDOG = 'cat >/dev/null; kill -s KILL -- "-$1"; for _ in 1 2 3 4 5; do rm -rf -- "$2" && exit; sleep 0.2; done'


class ControlPlaneError(RuntimeError):
    """A server or a kubectl command failed; the message carries the end of what it said."""


@dataclass(frozen=True)
class Answer:
    """What the API server answered to one request."""

    status: int
    body: Any


class _Server:
    """One running program and its log."""

    def __init__(self, name: str, flags: Sequence[str], folder: Path, group: int) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        # What the user's environment says to etcd or to a client (ETCD_*, KUBECONFIG, HTTPS_PROXY) is not for tests.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "TMPDIR": str(folder)}
        command = program_command(name)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *flags],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=group,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def tail(self, lines: int = 25) -> str:
        text = self.log.read_text(errors="replace")
        return f"--- the end of {self.log.name} ---\n" + "\n".join(text.splitlines()[-lines:])


class ControlPlane:
    """etcd and kube-apiserver, with RBAC, an administrator's kubeconfig and an audit log of our objects.

    Nothing survives the process that started it, even if that process is killed.
    """

    def __init__(self, *, controller_manager: bool = False) -> None:
        """Prepare a control plane; `start()` (or `with`) starts it."""
        self._with_controller_manager = controller_manager
        self._folder: Path | None = None
        self._servers: dict[str, _Server] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """The temporary folder of the data, keys and logs; it goes with `stop()`."""
        if self._folder is None:
            raise ControlPlaneError("The control plane is not started: call start() first.")
        return self._folder

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of the administrator (group system:masters), complete in itself."""
        return self.folder / "kubeconfig"

    @property
    def url(self) -> str:
        """The address of the API server; it stays the same over stop_api_server() and start_api_server()."""
        return f"https://127.0.0.1:{self._api_port}"

    def start(self) -> None:
        """Start everything and return when the API server is ready. After an error nothing is left running."""
        if self._folder is not None:
            raise ControlPlaneError("The control plane is started already.")
        self._folder = Path(tempfile.mkdtemp(prefix="perdure-control-plane-"))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self._etcd_port, self._peer_port, self._api_port = free_ports(3)
        self._certificates = make_certificates(self.folder / "pki")
        write_kubeconfig(self.kubeconfig, self.url, self._certificates.authority, self._certificates.administrator)
        (self.folder / "audit-policy.yaml").write_text(POLICY)
        (self.folder / "home").mkdir()
        self._servers["etcd"] = etcd = _Server("etcd", self._etcd_flags(), self.folder, group=0)
        self._group = etcd.process.pid
        # A session of its own: an interrupt at the terminal or a signal to the test's process group does not reach it.
        self._watchdog = subprocess.Popen(
            ["sh", "-c", WATCHDOG, "watchdog", str(self._group), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.start_api_server()
        if self._with_controller_manager:
            self._start_server("kube-controller-manager", self._controller_manager_flags())

    def stop(self) -> None:
        """Kill every server and remove the folder. Does nothing when nothing runs."""
        for server in reversed(self._servers.values()):
            server.kill()
        self._servers.clear()
        if self._watchdog is not None:
            # Killed before its input closes: its only work is for a test process that could not come to this line.
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def stop_api_server(self) -> None:
        """Kill the API server as an outage would; etcd and all objects stay."""
        if "kube-apiserver" not in self._servers:
            raise ControlPlaneError("The API server is not running.")
        self._servers.pop("kube-apiserver").kill()

    def start_api_server(self) -> None:
        """Start the API server (again), at the same address, and return when it is ready."""
        if "kube-apiserver" in self._servers:
            raise ControlPlaneError("The API server is running already.")
        self._start_server("kube-apiserver", self._api_server_flags())
        self.wait_until(self._is_ready, "the API server was ready")

    def back_up(self, folder: Path) -> None:
        """Copy what the cluster knows to a folder that is not there yet."""
        with self._without_etcd():
            shutil.copytree(self.folder / "etcd", folder)

    def restore(self, folder: Path) -> None:
        """Put back what was copied: the cluster knows nothing that came later."""
        with self._without_etcd():
            shutil.rmtree(self.folder / "etcd")
            shutil.copytree(folder, self.folder / "etcd")

    @contextmanager
    def _without_etcd(self) -> Iterator[None]:
        self._servers.pop("etcd").kill()
        yield
        self._start_server("etcd", self._etcd_flags())
        self.stop_api_server()
        self.start_api_server()

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Let etcd refuse every write, as it does when its space is used up, and take it back."""
        (member,) = self._ask_etcd("cluster/member/list", {})["members"]
        alarm = {"memberID": member["ID"], "alarm": "NOSPACE"}
        self._ask_etcd("maintenance/alarm", {**alarm, "action": "ACTIVATE"})
        try:
            yield
        finally:
            self._ask_etcd("maintenance/alarm", {**alarm, "action": "DEACTIVATE"})

    def _ask_etcd(self, path: str, body: dict[str, Any]) -> Any:
        with urlopen(f"http://127.0.0.1:{self._etcd_port}/v3/{path}", json.dumps(body).encode(), 10) as answer:
            return json.load(answer)

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; `--kubeconfig` among the arguments makes it another user.

        Raises ControlPlaneError with what kubectl said if it fails, unless `check` is false.
        """
        answer = subprocess.run(
            [*program_command("kubectl"), *arguments],
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(self.folder / "home"),
                "KUBECONFIG": str(self.kubeconfig),
            },
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        if check and answer.returncode != 0:
            words = " ".join(arguments)
            raise ControlPlaneError(
                f"`kubectl {words}` ended with {answer.returncode}:\n{answer.stderr}{answer.stdout}"
            )
        return answer

    def request(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Answer:
        """Send one request as the administrator, in a few milliseconds where kubectl takes a hundred.

        `path` starts with `/`; `body` is sent as JSON. An answer that is not JSON is returned as text.
        """
        connection = http.client.HTTPSConnection("127.0.0.1", self._api_port, context=self._tls(), timeout=60)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": content_type, "Accept": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        is_json = (response.getheader("Content-Type") or "").startswith("application/json")
        return Answer(response.status, json.loads(text) if is_json else text)

    def kubeconfig_for(self, service_account: str, namespace: str = "default") -> Path:
        """Return a kubeconfig, good for an hour, of a service account that exists."""
        account = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}"
        answer = self.request("POST", f"{account}/token", {"spec": {"expirationSeconds": 3600}})
        if answer.status != 201:
            raise ControlPlaneError(f"No token for service account {namespace}/{service_account}: {answer.body}")
        path = self.folder / f"kubeconfig-{namespace}-{service_account}"
        return write_kubeconfig(path, self.url, self._certificates.authority, answer.body["status"]["token"])

    def audit_entries(
        self,
        verb: str | None = None,
        subresource: str | None = None,
        *,
        namespace: str | None = None,
        name: str | None = None,
    ) -> list[AuditEntry]:
        """Return the requests for objects of our group that the API server has taken in, oldest first.

        Each filter that is given must be equal; `subresource=""` means the object itself. A request is listed before
        it is carried out, so one that has been answered is always here (its `code` may follow a moment later).
        """
        wanted = {"verb": verb, "subresource": subresource, "namespace": namespace, "name": name}
        filters = {field: value for field, value in wanted.items() if value is not None}
        entries = read_audit_log(self.folder / "audit.log")
        return [entry for entry in entries if all(getattr(entry, field) == filters[field] for field in filters)]

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = READY_TIMEOUT) -> None:
        """Return as soon as `condition()` is true; raise ControlPlaneError if a server ends or time runs out before."""
        deadline = time.monotonic() + timeout
        while not condition():
            for server in self._servers.values():
                if server.process.poll() is not None:
                    code = server.process.returncode
                    raise ControlPlaneError(f"{server.name} ended with {code} before {what}.\n{server.tail()}")
            if time.monotonic() > deadline:
                logs = "\n".join(server.tail() for server in self._servers.values())
                raise ControlPlaneError(f"Waited {timeout:.0f} s in vain until {what}.\n{logs}")
            time.sleep(0.05)

    def _start_server(self, name: str, flags: Sequence[str]) -> None:
        self._servers[name] = _Server(name, flags, self.folder, self._group)

    def _is_ready(self) -> bool:
        try:
            return self.request("GET", "/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._certificates.authority))
        administrator = self._certificates.administrator
        context.load_cert_chain(str(administrator.certificate), str(administrator.key))
        return context

    def _etcd_flags(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        return _flags(
            {
                "name": "test",
                "data-dir": self.folder / "etcd",
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": f"test={peer}",
                # A test that loses power is run again; without this each write waits for the disk.
                "unsafe-no-fsync": "true",
            }
        )

    def _api_server_flags(self) -> list[str]:
        key = self._certificates.service_account_key
        flags = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": self._api_port,
            "cert-dir": self.folder / "pki",
            "tls-cert-file": self._certificates.server.certificate,
            "tls-private-key-file": self._certificates.server.key,
            "client-ca-file": self._certificates.authority,
            "authorization-mode": "Node,RBAC",
            "service-cluster-ip-range": "10.96.0.0/16",
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            "service-account-issuer": "https://kubernetes.default.svc",
            "endpoint-reconciler-type": "none",
            "audit-policy-file": self.folder / "audit-policy.yaml",
            "audit-log-path": self.folder / "audit.log",
            # In megabytes; beyond it the log would be renamed in the middle of a test that counts.
            "audit-log-maxsize": 4096,
        }
        if not self._with_controller_manager:
            # Nobody makes the default service account of a namespace, without which no pod would be accepted.
            flags["disable-admission-plugins"] = "ServiceAccount"
        return _flags(flags)

    def _controller_manager_flags(self) -> list[str]:
        return _flags(
            {
                "kubeconfig": self.kubeconfig,
                "leader-elect": "false",
                "secure-port": 0,
                "controllers": ",".join(CONTROLLERS),
                "root-ca-file": self._certificates.authority,
                "service-account-private-key-file": self._certificates.service_account_key,
            }
        )


def _flags(values: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def main(arguments: Sequence[str]) -> int:
    """Build the programs if they are not there yet, and print where they are."""
    if list(arguments) != ["build"]:
        print("usage: python -m tests.support.kubernetes build", file=sys.stderr)
        return 2
    try:
        # With KUBEBUILDER_ASSETS set there is nothing to build, and this says whether they are there.
        print(program_command("kube-apiserver")[0])
    except ProgramsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
