# loragate in a container: `docker build .` for a CPU, `docker build --target cuda .` for CUDA.
# No container engine checks this file in CI; tests/unit/deploy/test_dockerfile.py holds its rules.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md ./
COPY requirements requirements

# --- CPU ---------------------------------------------------------------------------------------------------
FROM build AS build-cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
# torch's CPU build first, from where pip looks, or from PyTorch's index: given for all packages, an index that cannot be
# reached would be tried for each of them.
RUN python -m venv /opt/loragate \
 && TORCH="$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements/cpu.txt)" \
 && { /opt/loragate/bin/pip install --no-deps "$TORCH" \
      || /opt/loragate/bin/pip install --no-deps --index-url ${TORCH_CPU_INDEX} "$TORCH"; } \
 && /opt/loragate/bin/pip install --no-deps -r requirements/cpu.txt
COPY adapters adapters
COPY benchmarks benchmarks
COPY demo demo
COPY sampling sampling
COPY server server
RUN /opt/loragate/bin/pip install --no-deps --no-build-isolation .

# --- CUDA --------------------------------------------------------------------------------------------------
FROM build AS build-cuda
RUN python -m venv /opt/loragate \
 && /opt/loragate/bin/pip install --no-deps -r requirements/cuda.txt
COPY adapters adapters
COPY benchmarks benchmarks
COPY demo demo
COPY sampling sampling
COPY server server
RUN /opt/loragate/bin/pip install --no-deps --no-build-isolation .

# --- what runs ---------------------------------------------------------------------------------------------
FROM python:${PYTHON_VERSION}-slim-bookworm AS runtime
# vLLM's CPU kernels link to libnuma; Triton compiles its CUDA kernels with gcc on first use.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libnuma1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --home-dir /var/lib/loragate --shell /usr/sbin/nologin loragate
LABEL org.opencontainers.image.title="loragate" \
      org.opencontainers.image.description="One base model in vLLM, many customers, each with LoRA adapters" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/loragate/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/var/lib/loragate/huggingface \
    LORAGATE_DATA_DIR=/var/lib/loragate \
    LORAGATE_HOST=0.0.0.0
USER 10001
WORKDIR /var/lib/loragate
VOLUME /var/lib/loragate
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
  CMD ["python", "-c", "import os, ssl, urllib.request as r; tls = 'LORAGATE_TLS_CERT' in os.environ; r.urlopen(f'http{\"s\" * tls}://127.0.0.1:8000/health', timeout=4, context=ssl._create_unverified_context() if tls else None)"]
ENTRYPOINT ["loragate"]
CMD ["serve"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/loragate /opt/loragate

# For a Ray cluster (deploy/ray): the CUDA image with Ray. KubeRay's shell knows the commands in /usr/local/bin only.
FROM build-cuda AS build-ray
RUN /opt/loragate/bin/pip install --no-deps -r requirements/cluster.txt

FROM runtime AS ray
COPY --from=build-ray /opt/loragate /opt/loragate
USER root
RUN ln -s /opt/loragate/bin/ray /opt/loragate/bin/loragate /usr/local/bin/
USER 10001

FROM runtime AS cpu
COPY --from=build-cpu /opt/loragate /opt/loragate
