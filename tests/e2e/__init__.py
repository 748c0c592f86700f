"""The installed product on a real cluster, used as its users use it: helm, kubectl, pods that come and go."""
