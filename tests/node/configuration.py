"""What the programs of the cluster are told: their flags and their files.

What lives here: text. What must not: processes. `servers` starts the programs with it.
"""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from tests.node.place import (
    API_PORT,
    API_SERVICE,
    CONTAINERD,
    DNS_SERVICE,
    ETCD,
    FOLDER,
    INNER_KUBECONFIG,
    INSIDE,
    KUBECONFIG,
    KUBELET,
    LOGS,
    NAME,
    NODE,
    PAUSE_IMAGE,
    PKI,
    PODS,
    SERVICES,
    SOCKET,
)
from tests.support.kubernetes_audit import POLICY
from tests.support.kubernetes_certificates import make_certificates, write_kubeconfig
from tests.support.kubernetes_programs import program_command

CONTAINERD_CONFIG = f"""\
version = 2
root = "{CONTAINERD}/root"
state = "{CONTAINERD}/state"
# It would make folders below /opt.
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
netns_mounts_under_state_dir = true
# Without this a machine that may not lower a score, a container for one, cannot start any pod.
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
options = {{ Root = "{CONTAINERD}/runc" }}
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{FOLDER}/cni/conf"
"""
POD_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": f"{FOLDER}/cni/addresses",
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
KUBELET_CONFIG: Mapping[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "address": NODE,
    "authentication": {
        "anonymous": {"enabled": False},
        "webhook": {"enabled": True},
        "x509": {"clientCAFile": f"{PKI}/authority.crt"},
    },
    "authorization": {"mode": "Webhook"},
    "containerRuntimeEndpoint": f"unix://{SOCKET}",
    "cgroupDriver": "cgroupfs",
    "cgroupRoot": f"/{NAME}",
    "enforceNodeAllocatable": [],
    "failCgroupV1": False,
    "failSwapOn": False,
    "localStorageCapacityIsolation": False,
    # The disk and the memory are shared with everything else on this machine.
    "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    "imageGCHighThresholdPercent": 100,
    "clusterDNS": [DNS_SERVICE],
    "clusterDomain": "cluster.local",
    "resolvConf": f"{KUBELET}/resolv.conf",
    "podLogsDir": f"{KUBELET}/pod-logs",
    "volumePluginDir": f"{KUBELET}/volume-plugins",
    "healthzBindAddress": NODE,
    "syncFrequency": "10s",
    "shutdownGracePeriod": "0s",
}
CORE_FILE = f"""\
. {{
    bind {NODE}
    errors
    ready {NODE}:8181
    kubernetes cluster.local {{
        kubeconfig {INNER_KUBECONFIG}
        ttl 5
    }}
}}
"""
DNS_OBJECTS = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {
            "clusterIP": DNS_SERVICE,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-node",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": NAME},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE]}],
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    },
]


def write() -> None:
    """Write every file that the programs read, with fresh keys."""
    for folder in (LOGS, KUBELET, CONTAINERD, FOLDER / "cni" / "conf", INNER_KUBECONFIG.parent):
        folder.mkdir(parents=True)
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    certificates = make_certificates(PKI, addresses=[NODE, INSIDE, API_SERVICE], names=names)
    for path, address in ((KUBECONFIG, INSIDE), (INNER_KUBECONFIG, NODE)):
        url = f"https://{address}:{API_PORT}"
        write_kubeconfig(path, url, certificates.authority, certificates.administrator)
    (FOLDER / "audit-policy.yaml").write_text(POLICY)
    (FOLDER / "containerd.toml").write_text(CONTAINERD_CONFIG)
    (FOLDER / "cni" / "conf" / "10-pods.conflist").write_text(json.dumps(POD_NETWORK))
    (FOLDER / "kubelet.yaml").write_text(yaml.safe_dump(dict(KUBELET_CONFIG)))
    (FOLDER / "Corefile").write_text(CORE_FILE)
    (KUBELET / "resolv.conf").touch()


def command(name: str) -> list[str]:
    """Return the command line of one program of the cluster."""
    if name == "containerd":
        return ["containerd", f"--config={FOLDER}/containerd.toml"]
    if name == "coredns":
        return [*program_command("coredns"), "-conf", f"{FOLDER}/Corefile"]
    return [*program_command(name), *(f"--{flag}={value}" for flag, value in _FLAGS[name].items())]


_FLAGS: Mapping[str, Mapping[str, object]] = {
    "etcd": {
        "name": NAME,
        "data-dir": FOLDER / "etcd",
        "listen-client-urls": ETCD,
        "advertise-client-urls": ETCD,
        # A cluster that loses power is made anew; without this each write waits for the disk.
        "unsafe-no-fsync": "true",
    },
    "kube-apiserver": {
        "etcd-servers": ETCD,
        "bind-address": "0.0.0.0",
        "advertise-address": NODE,
        "secure-port": API_PORT,
        "cert-dir": PKI,
        "tls-cert-file": PKI / "server.crt",
        "tls-private-key-file": PKI / "server.key",
        "client-ca-file": PKI / "authority.crt",
        "authorization-mode": "Node,RBAC",
        "allow-privileged": "true",
        "service-cluster-ip-range": SERVICES,
        "service-account-key-file": PKI / "service-account.key",
        "service-account-signing-key-file": PKI / "service-account.key",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        # The node's name is in no DNS.
        "kubelet-preferred-address-types": "InternalIP",
        "kubelet-client-certificate": PKI / "administrator.crt",
        "kubelet-client-key": PKI / "administrator.key",
        "audit-policy-file": FOLDER / "audit-policy.yaml",
        "audit-log-path": FOLDER / "audit.log",
        "audit-log-maxsize": 4096,
    },
    "kube-controller-manager": {
        "kubeconfig": INNER_KUBECONFIG,
        "leader-elect": "false",
        "bind-address": "127.0.0.1",
        "cert-dir": PKI,
        "root-ca-file": PKI / "authority.crt",
        "service-account-private-key-file": PKI / "service-account.key",
        "flex-volume-plugin-dir": KUBELET / "volume-plugins",
    },
    "kube-scheduler": {
        "kubeconfig": INNER_KUBECONFIG,
        "leader-elect": "false",
        "bind-address": "127.0.0.1",
        "cert-dir": PKI,
    },
    "kubelet": {
        "config": FOLDER / "kubelet.yaml",
        "kubeconfig": INNER_KUBECONFIG,
        "hostname-override": NAME,
        "node-ip": NODE,
        "root-dir": KUBELET / "root",
        "cert-dir": KUBELET / "pki",
    },
    "kube-proxy": {
        "kubeconfig": INNER_KUBECONFIG,
        "hostname-override": NAME,
        "cluster-cidr": PODS,
        "proxy-mode": "iptables",
        # Limits of the whole machine, which are not this cluster's to set.
        "conntrack-max-per-core": 0,
        "conntrack-tcp-timeout-established": 0,
        "conntrack-tcp-timeout-close-wait": 0,
        "healthz-bind-address": f"{NODE}:10256",
        "metrics-bind-address": "127.0.0.1:10249",
    },
}
