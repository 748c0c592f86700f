"""A database that speaks TLS only: pods are given the authority by one value, and then trust no other server."""

import base64
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, lent_namespace, until
from tests.e2e.installation import IMAGE, OPERATOR, Installation
from tests.e2e.machine import Machine
from tests.support.helm import CHART
from tests.support.kubernetes_certificates import Certificates, make_certificates

NAMESPACE = "perdure-e2e-encryption"
# The server has its key from a Secret, as it would from cert-manager, and takes nobody who does not encrypt.
SERVER = """
for programs in /usr/lib/postgresql/*/bin; do PATH="$PATH:$programs"; done
printf '%s' "$PASSWORD" > /tmp/password
initdb --pgdata=/tmp/data --username=perdure --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --no-locale
echo 'hostssl all all all scram-sha-256' > /tmp/data/pg_hba.conf
exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp \
  -c ssl=on -c ssl_cert_file=/tls/tls.crt -c ssl_key_file=/tls/tls.key
"""


@pytest.fixture
def secure(installation: Installation, machine: Machine, tmp_path: Path) -> Iterator[Cluster]:
    """A namespace with a database that is `database` by its certificate, and reached as `alias` too."""
    own = make_certificates(tmp_path / "own", names=[f"database.{NAMESPACE}.svc"])
    strange = make_certificates(tmp_path / "strange")
    with lent_namespace(machine.kubeconfig, NAMESPACE, tmp_path) as cluster:
        cluster.apply(
            secret("server", {"tls.crt": own.server.certificate.read_text(), "tls.key": own.server.key.read_text()}),
            secret("authority", authority(own)),
            secret("strange-authority", authority(strange)),
            server(machine.database_image),
        )
        for name in ("database", "alias"):
            url = f"postgresql://perdure:secret@{name}.{NAMESPACE}.svc/postgres"
            cluster.apply(service(name), secret(name, {"uri": url}))
        cluster.until_ready("app=database", 1)
        yield cluster


def test_pods_verify_the_server_of_the_database_in_full(secure: Cluster) -> None:
    values = [
        "crds.enabled=false",
        "postgresql.external.existingSecret=database",
        "postgresql.tls.existingSecret=authority",
        f"workers.shop.image.repository={IMAGE}",
        "workers.shop.modules={shop.orders}",
    ]
    chosen = [word for value in values for word in ("--set", value)]
    chosen += ["--set-string", "workers.shop.image.tag=1"]
    secure.helm.out("install", "secure", str(CHART), "--wait", "--timeout=3m", *chosen)
    assert '"phase": "Succeeded"' in secure.helm.out("test", "secure", "--logs", "--timeout=3m")

    for change, complaint in (
        ("postgresql.tls.existingSecret=strange-authority", "certificate verify failed"),
        ("postgresql.external.existingSecret=alias", 'does not match host name "alias'),
    ):
        secure.helm.out("upgrade", "secure", str(CHART), *chosen, "--set", change)
        until(partial(init_containers_say, secure, complaint), complaint)
    assert secure.pods(OPERATOR), "the operator that reaches the database has to stay"


def init_containers_say(cluster: Cluster, words: str) -> bool:
    """Tell whether an operator waits in its init container, and says these words there."""
    waiting = [pod["metadata"]["name"] for pod in cluster.get("pods", OPERATOR) if pod["status"]["phase"] == "Pending"]
    return any(words in cluster.run("logs", pod, "--container=migrate", "--tail=5").stdout for pod in waiting)


def authority(certificates: Certificates) -> dict[str, str]:
    return {"ca.crt": certificates.authority.read_text()}


def secret(name: str, values: dict[str, str]) -> dict[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def service(name: str) -> dict[str, Any]:
    spec = {"selector": {"app": "database"}, "ports": [{"port": 5432}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def server(image: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "database", "labels": {"app": "database"}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 999,
                "runAsGroup": 999,
                "fsGroup": 999,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "postgresql",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-euc", SERVER],
                    "env": [{"name": "PASSWORD", "value": "secret"}],
                    "readinessProbe": {"tcpSocket": {"port": 5432}, "periodSeconds": 1},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
                }
            ],
            "volumes": [{"name": "tls", "secret": {"secretName": "server", "defaultMode": 0o440}}],
        },
    }
