# One image for the services, for the two steps of a task's pod, and for what runs on every node.
#
#   python -m services.submitter | services.jobrunner | services.collector
#   python -I -S /opt/helios/app/agent fetch | publish | keep | node
#
# `make images` puts what needs a network or a compiler into build/image first; a plain `docker build .` makes it here.
ARG BASE=python:3.11-slim

FROM ${BASE} AS parts
WORKDIR /src
# The bracket makes the folder optional. The Kubernetes client for asyncio is a third of the image, and nothing uses it.
COPY agent/exec.c requirements-image.lock build/imag[e] ./
RUN set -eu; \
    if [ ! -x exec ]; then \
      apt-get update -qq; apt-get install -y -qq --no-install-recommends gcc musl-tools; \
      musl-gcc -std=gnu11 -static -Os -s -o exec exec.c; \
    fi; \
    [ -d lib ] || python3 -m pip install --no-cache-dir --no-compile --require-hashes --target lib -r requirements-image.lock; \
    rm -rf lib/bin lib/kubernetes/aio; \
    mkdir -p /opt/helios; mv exec lib /opt/helios; chmod 0555 /opt/helios/exec; \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/helios/lib
COPY helios /opt/helios/app/helios
COPY services /opt/helios/app/services
COPY agent /opt/helios/app/agent
# Compiled once, and never looked at again: nobody can write here later, and the agent starts with every task.
RUN rm /opt/helios/app/agent/exec.c && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/helios/app

FROM ${BASE}
RUN command -v python >/dev/null || ln -s "$(command -v python3)" /usr/local/bin/python
# The libraries apart: nodes have them already when only our code is new.
COPY --from=parts /opt/helios/lib /opt/helios/lib
COPY --from=parts /opt/helios/exec /opt/helios/exec
COPY --from=parts /opt/helios/app /opt/helios/app
# The agent starts without any of its libraries, and takes zstd from there when it has something to compress or to unpack,
# and gRPC when it speaks with kubelet.
ENV PYTHONPATH=/opt/helios/app:/opt/helios/lib HELIOS_AGENT_LIB=/opt/helios/lib \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# With a base that lacks the C++ library it would be the nodes that find out.
RUN python -c "import grpc, google.protobuf"
WORKDIR /opt/helios/app
USER 65532:65532
ARG TAG=untagged
ENV HELIOS_IMAGE_TAG=${TAG}
LABEL org.opencontainers.image.title="helios" org.opencontainers.image.version="${TAG}"
CMD ["python", "-c", "print('name a service: python -m services.submitter, services.jobrunner or services.collector')"]
