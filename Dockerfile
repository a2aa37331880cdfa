# A node as a container: docker build -t peerjob:0.1.0 .
# Jobs are mounted at /app, or come in an image FROM this one. docs/docker.md has both.

ARG PYTHON_IMAGE=python:3.13-slim

# -- what peerjob needs: changes less often than peerjob, so it is built and pulled apart ----------------------------
FROM ${PYTHON_IMAGE} AS dependencies
# a package index of your own; it stays in this stage
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/peerjob
COPY deploy/requirements.lock /build/
RUN PIP_PYTHON=/opt/peerjob/bin/python \
    python3 -m pip install --require-hashes --only-binary=:all: -r /build/requirements.lock

# -- peerjob itself, as a wheel --------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS package
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/build
COPY deploy/build.lock ./
RUN PIP_PYTHON=/opt/build/bin/python python3 -m pip install --require-hashes --only-binary=:all: -r build.lock
COPY pyproject.toml README.md LICENSE ./
# src/peerjob has links to the folders beside it
COPY cluster cluster
COPY node node
COPY proto proto
COPY store store
COPY src src
RUN PIP_PYTHON=/opt/build/bin/python \
    python3 -m pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels .

# -- what runs -------------------------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="peerjob" \
      org.opencontainers.image.description="A node of peerjob, a distributed job scheduler of equal peers" \
      org.opencontainers.image.licenses="Apache-2.0"
# PIP_PYTHON: images made FROM this one say `pip install`, and it goes where peerjob is
ENV PATH=/opt/peerjob/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_PYTHON=/opt/peerjob/bin/python \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PEERJOB_APP_DIR=/app
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin peerjob
COPY --from=dependencies /opt/peerjob /opt/peerjob
COPY --from=package /wheels /opt/peerjob/wheels
# pip, and not python3 -m pip: python3 is peerjob's here, which has none
RUN pip install --no-deps --no-index /opt/peerjob/wheels/*.whl && pip check
WORKDIR /app
# as a number, so that Kubernetes can see that it is not root
USER 10001:10001
# gRPC, metrics and probes, KEDA's scaler; each on loopback until told otherwise
EXPOSE 59051 9090 9091
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["jobd", "probe", "live"]
ENTRYPOINT ["jobd"]
CMD ["run"]
