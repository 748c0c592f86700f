"""A real Kubernetes cluster of one node on this machine: containerd, a kubelet and pods that run.

`python -m tests.node up` (`make cluster-up`) starts it, `down` removes every trace of it. It stands beside the program
that started it and outlives it, so there is one per machine; everything about it is in one folder, one network
namespace and one cgroup, by which it is found again.
"""
