"""Image archives made without a container engine, from the same Dockerfiles and with the same layers.

`perdure` is the project's image, `user` what somebody puts on top of it, `postgresql` and `pause` are what a cluster
without a registry lacks. Each is a docker-archive, which docker, podman, containerd and kind load. `python -m
tests.image` writes them to a folder.
"""
