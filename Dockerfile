# syntax=docker/dockerfile:1
# `mochi` in a container, a server unless told otherwise:
#
#   docker build -t mochi-video .                            for CPUs
#   docker build -t mochi-video:cuda --build-arg DEVICE=cuda .    for NVIDIA GPUs
#
# PyTorch's packages bring CUDA with them and the host brings the driver, so both begin with the same
# small image. docs/deploy.md has the rest.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG DEVICE=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
RUN python -m venv /app/venv
ENV PATH=/app/venv/bin:${PATH}

# torch first: it is nine tenths of the image, and a change of ours must not fetch it again.
COPY constraints.txt ./
RUN case "${DEVICE}" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index=https://pypi.org/simple ;; \
        *) echo "DEVICE=${DEVICE} is neither cpu nor cuda" >&2; exit 1 ;; \
    esac \
    && torch=$(grep '^torch==' constraints.txt) \
    && pip install --index-url "${index}" --extra-index-url https://pypi.org/simple \
        --constraint constraints.txt "${torch}"

COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install --constraint constraints.txt '.[serve]'

FROM python:${PYTHON}-slim-bookworm
ARG DEVICE=cpu
# Triton builds a launcher for each kernel with the system's compiler, at run time.
# Debian's own versions are taken: they get its security updates.
# hadolint ignore=DL3008
RUN if [ "${DEVICE}" = cuda ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && groupadd --gid 10001 mochi \
    && useradd --uid 10001 --gid mochi --home-dir /data --no-create-home --shell /usr/sbin/nologin mochi \
    && install --directory --owner=mochi --group=mochi --mode=700 /data

COPY --from=build /app/venv /app/venv
# Everything that is written goes to /data (queue, videos, downloaded weights) or /tmp.
ENV PATH=/app/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/data/huggingface \
    TRITON_CACHE_DIR=/tmp/triton \
    MOCHI_SERVE_DATA=/data \
    MOCHI_SERVE_HOST=0.0.0.0 \
    MOCHI_SERVE_LOG_FORMAT=json

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["mochi"]
CMD ["serve"]
