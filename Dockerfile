# The image of operator and workers: every command of `perdure`. Your workflows come on top of it with three lines:
#
#   FROM perdure:0.1.0
#   COPY shop /app/shop
#   CMD ["worker", "shop.orders"]
#
# Where no container engine runs, `make images` writes the same image to an archive. It reads this file and knows no
# more instructions than there are here.

FROM debian:bookworm-slim AS dependencies
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip
COPY requirements-image.lock ./
RUN python3 -m pip install --no-cache-dir --no-compile --no-deps --only-binary=:all: --require-hashes \
    --target=/opt/perdure --requirement=requirements-image.lock
RUN python3 -m compileall -q --invalidation-mode=unchecked-hash /opt/perdure

FROM dependencies AS project
COPY worker/perdure /src/perdure
COPY operator/perdure_operator /src/perdure_operator
RUN python3 -m compileall -q --invalidation-mode=unchecked-hash -s /src -p /opt/perdure /src

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libpython3-stdlib python3-minimal \
    && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies /opt/perdure /opt/perdure
COPY --from=project /src /opt/perdure
COPY image/perdure /usr/local/bin/perdure
ENV PYTHONPATH=/opt/perdure PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /app
USER 65532:65532
ENTRYPOINT ["perdure"]
CMD ["--help"]
